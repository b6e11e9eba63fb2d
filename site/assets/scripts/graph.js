/* The graph: techniques at their places from left to right, the edges that the filters leave, and their reasons. */
"use strict";
{
  const atlas = window.lvlmAtlas;
  const { element, choice, verdicts, request: asking } = atlas;
  const [WIDTH, ROW, TOP, NODE] = [138, 20, 34, 124];

  const drawn = (name, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1).trimEnd()}…` : text);

  class Graph {
    constructor(place, index, graph) {
      Object.assign(this, { index, graph });
      const asked = new URLSearchParams(location.search);
      const known = (name, ids) => (ids.includes(asked.get(name)) ? asked.get(name) : "");
      this.chosen = {
        technique: known("technique", index.techniques.map(({ id }) => id)),
        kind: known("kind", graph.kinds.map(({ id }) => id)),
        evidence: known("evidence", graph.evidence),
      };
      if (!this.chosen.technique && !this.chosen.kind) this.chosen.kind = "composes-with";
      this.form = element("form", { class: "la-ask", "aria-label": "Filters" });
      this.form.addEventListener("submit", (event) => event.preventDefault());
      this.said = element("p", { role: "status", class: "la-count" });
      this.box = element("div", { class: "la-table", role: "region", tabindex: "0", "aria-label": "Graph" });
      this.reasons = element("div");
      place.replaceChildren(this.form, this.said, this.box, this.reasons);
      this.lay();
      this.show();
    }

    /** Draw the nodes once; edges lie below them and change. */
    lay() {
      const { places } = this.graph;
      const most = Math.max(...places.map(({ techniques }) => techniques.length));
      const [width, height] = [WIDTH * places.length, TOP + ROW * most + 8];
      this.lines = drawn("g", {});
      this.at = new Map();
      this.nodes = new Map();
      const heads = places.map(({ name }, column) =>
        drawn("text", { x: WIDTH * column + 4, y: 14, class: "la-t la-small" }, short(name, 20)));
      places.forEach(({ techniques }, column) => {
        const first = TOP + ((most - techniques.length) / 2) * ROW;
        techniques.forEach((number, row) => {
          const technique = this.index.techniques[number];
          const [x, y] = [WIDTH * column + 4, first + ROW * row];
          this.at.set(number, { x, y: y + ROW / 2 - 2 });
          const node = drawn("a", { href: new URL(technique.page, atlas.root).href,
            class: `la-s${this.index.stages[technique.stage]}` },
          drawn("title", {}, technique.name),
          drawn("rect", { x, y, width: NODE, height: ROW - 4, rx: 4, class: "la-node" }),
          drawn("rect", { x, y, width: 3, height: ROW - 4, class: "la-edge-bar" }),
          drawn("text", { x: x + 8, y: y + 12, class: "la-t la-small" }, short(technique.name, 18)));
          this.nodes.set(number, node);
        });
      });
      this.box.replaceChildren(drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group",
        "aria-label": "Techniques at their places in the pipeline", class: "la-svg la-wide-graph" },
      ...heads, this.lines, ...this.nodes.values()));
    }

    choose(name, id) {
      this.chosen[name] = id;
      asking.toAddress(this.chosen);
      this.show();
    }

    fill() {
      const focused = [...this.form.querySelectorAll("select")].indexOf(document.activeElement);
      const any = { id: "", name: "any" };
      const techniques = this.index.techniques.map(({ id, name }) => ({ id, name }))
        .sort((one, two) => one.name.localeCompare(two.name));
      this.form.replaceChildren(
        choice("Technique", [any, ...techniques], this.chosen.technique, (id) => this.choose("technique", id)),
        choice("Kind", [any, ...this.graph.kinds], this.chosen.kind, (id) => this.choose("kind", id)),
        choice("Evidence", [any, ...this.graph.evidence.map((id) => ({ id, name: id }))], this.chosen.evidence,
          (id) => this.choose("evidence", id)),
      );
      this.form.querySelectorAll("select")[focused]?.focus();
    }

    async show() {
      this.fill();
      const { technique, kind, evidence } = this.chosen;
      const own = this.index.techniques.findIndex(({ id }) => id === technique);
      const found = this.graph.edges.filter(([start, end, what, by]) =>
        (own < 0 || start === own || end === own) && (!kind || this.graph.kinds[what].id === kind) &&
        (!evidence || this.graph.evidence[by] === evidence));
      this.lines.replaceChildren(...found.map((edge) => this.line(edge)));
      const joined = new Set(found.flatMap(([start, end]) => [start, end]));
      for (const [number, node] of this.nodes) node.classList.toggle("la-dim", !joined.has(number) && number !== own);
      this.said.textContent = `${found.length} edges between ${joined.size} techniques`;
      if (own < 0) {
        this.reasons.replaceChildren();
        return;
      }
      const card = await atlas.load(`technique/${technique}`);
      if (this.chosen.technique !== technique) return;
      const others = [...new Set(found.map(([start, end]) => (start === own ? end : start)))];
      this.reasons.replaceChildren(element("h2", {}, this.index.techniques[own].name),
        ...others.map((other) => verdicts.statements(this.index, card, other)));
    }

    line([start, end, kind, evidence]) {
      const [from, to] = [this.at.get(start), this.at.get(end)];
      const [left, right] = from.x <= to.x ? [from, to] : [to, from];
      const [x1, x2] = [left.x + NODE, right.x === left.x ? right.x + NODE : right.x];
      const bend = Math.max(24, (x2 - x1) / 2);
      const second = right.x === left.x ? x2 + 24 : x2 - bend;
      const path = drawn("path", { d: `M${x1} ${left.y}C${x1 + bend} ${left.y} ${second} ${right.y} ${x2} ${right.y}`,
        class: `la-line-shape${this.graph.evidence[evidence] === "derived" ? " la-derived" : ""}` });
      return drawn("g", { class: `la-kind la-${this.graph.kinds[kind].id}` }, path);
    }
  }

  document.querySelectorAll(".la-graph").forEach(async (place) => {
    const [index, graph] = await Promise.all([atlas.load("index"), atlas.load("edges")]);
    new Graph(place, index, graph);
  });
}
