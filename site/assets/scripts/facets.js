/* The list of techniques, narrowed by fields of the query language; the query that finds the same is shown. */
"use strict";
{
  const atlas = window.lvlmAtlas;
  const { element, choice, request: asking } = atlas;

  /** The rows of the list by the number of their technique, and the sections that hold them. */
  const rowsOf = (index, list) => {
    const numbers = new Map(index.techniques.map((each, at) => [new URL(each.page, atlas.root).href, at]));
    const rows = new Map();
    for (const row of list.querySelectorAll("tbody tr")) {
      const number = numbers.get(row.querySelector("a")?.href);
      if (number !== undefined) rows.set(number, row);
    }
    return rows;
  };

  class Facets {
    constructor(place, list, index, facets) {
      Object.assign(this, { list, index, facets, rows: rowsOf(index, list) });
      const asked = new URLSearchParams(location.search);
      this.chosen = {};
      for (const { field, values } of facets) {
        if (values.some((each) => each.value === asked.get(field))) this.chosen[field] = asked.get(field);
      }
      this.form = element("form", { class: "la-ask", "aria-label": "Narrow the list" });
      this.form.addEventListener("submit", (event) => event.preventDefault());
      this.said = element("p", { role: "status", class: "la-count" });
      this.command = element("code");
      this.query = element("pre", {}, this.command);  // which the theme puts its copy button into, at its own time
      place.replaceChildren(this.form, this.said, this.query);
      this.show();
    }

    /** Numbers of the techniques that have all chosen values, those of one field left aside. */
    found(but) {
      const sets = this.facets
        .filter(({ field }) => field !== but && this.chosen[field])
        .map(({ field, values }) => new Set(values.find((each) => each.value === this.chosen[field]).which));
      return [...this.rows.keys()].filter((number) => sets.every((set) => set.has(number)));
    }

    choose(field, value) {
      this.chosen[field] = value;
      asking.toAddress({ [field]: value });
      this.show();
    }

    show() {
      const selects = [...this.form.querySelectorAll("select, button")];
      const focused = selects.indexOf(document.activeElement);
      this.form.replaceChildren(...this.facets.map((facet) => this.facet(facet)),
        element("button", { type: "button", class: "md-button", onclick: () => this.clear() }, "Show all"));
      this.form.querySelectorAll("select, button")[focused]?.focus();
      const found = new Set(this.found());
      for (const [number, row] of this.rows) row.hidden = !found.has(number);
      for (const table of this.list.querySelectorAll("table")) {
        const empty = ![...table.tBodies[0].rows].some((row) => !row.hidden);
        const box = table.closest(".md-typeset__scrollwrap") ?? table;
        box.hidden = empty;
        if (box.previousElementSibling?.matches("h2")) box.previousElementSibling.hidden = empty;
      }
      const conditions = this.conditions();
      this.said.textContent = `${found.size} of ${this.rows.size} techniques`;
      this.query.hidden = !conditions;
      this.command.textContent = `lvlm-atlas query "${conditions}"`;
    }

    conditions() {
      return this.facets.filter(({ field }) => this.chosen[field])
        .map(({ field }) => `${field}:${this.chosen[field]}`).join(" ");
    }

    facet({ field, values }) {
      const possible = new Set(this.found(field));
      const options = values.map(({ value, name, which }) => {
        const count = which.filter((number) => possible.has(number)).length;
        return { id: value, name: `${name} (${count})`, count };
      });
      const shown = options.filter(({ id, count }) => count || id === this.chosen[field]);
      return choice(field.replaceAll("_", " "), [{ id: "", name: "any" }, ...shown], this.chosen[field] ?? "",
        (value) => this.choose(field, value));
    }

    clear() {
      for (const field of Object.keys(this.chosen)) this.choose(field, "");
    }
  }

  document.querySelectorAll(".la-facets").forEach(async (place) => {
    const [index, facets] = await Promise.all([atlas.load("index"), atlas.load("facets")]);
    new Facets(place, document.querySelector(".la-list"), index, facets);
  });
}
