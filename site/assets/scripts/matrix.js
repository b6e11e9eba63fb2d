/* The matrix of pairs, asked by pointer, by arrow keys or by name: which two, and what is said of them. */
"use strict";
{
  const atlas = window.lvlmAtlas;
  const { element, choice, linked, verdicts, request: asking } = atlas;
  const CELL = 5;
  const LEFT = 30;
  const TOP = 24;

  class Matrix {
    constructor(place, index, pairs) {
      Object.assign(this, { index, pairs, drawing: place.querySelector("svg"), answer: place.querySelector(".la-pair") });
      const asked = (new URLSearchParams(location.search).get("techniques") ?? "").split(",")
        .map((id) => index.techniques.findIndex((each) => each.id === id)).filter((number) => number >= 0);
      this.pair = asked.length > 1 ? asked.slice(0, 2) : null;
      this.cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
      this.cursor.setAttribute("class", "la-cursor");
      this.drawing.append(this.cursor);
      const box = this.drawing.closest("figure");
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", "Matrix of pairs: move with the arrow keys");
      box.addEventListener("keydown", (event) => this.key(event));
      this.drawing.addEventListener("click", (event) => this.point(event));
      this.form = element("form", { class: "la-ask", "aria-label": "Pair" });
      this.form.addEventListener("submit", (event) => event.preventDefault());
      this.said = element("div", { role: "status" });
      this.answer.replaceChildren(this.form, this.said);
      this.show();
    }

    key(event) {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      const last = this.index.techniques.length - 1;
      const [row, column] = this.pair ?? [0, 0];
      this.choose([Math.min(last, Math.max(0, row + step[0])), Math.min(last, Math.max(0, column + step[1]))]);
    }

    point(event) {
      const box = this.drawing.getBoundingClientRect();
      const scale = this.drawing.viewBox.baseVal.width / box.width;
      const column = Math.floor(((event.clientX - box.left) * scale - LEFT) / CELL);
      const row = Math.floor(((event.clientY - box.top) * scale - TOP) / CELL);
      if (this.index.techniques[row] && this.index.techniques[column]) this.choose([row, column]);
    }

    choose(pair) {
      this.pair = pair;
      asking.toAddress({ techniques: pair.map((number) => this.index.techniques[number].id).join(",") });
      this.show();
    }

    fill() {
      const focused = [...this.form.querySelectorAll("select")].indexOf(document.activeElement);
      const options = this.index.techniques.map(({ name }, number) => ({ id: String(number), name }));
      const [one, two] = this.pair ?? [0, 0];
      this.form.replaceChildren(
        choice("Row", options, String(one), (id) => this.choose([Number(id), two])),
        choice("Column", options, String(two), (id) => this.choose([one, Number(id)])),
      );
      this.form.querySelectorAll("select")[focused]?.focus();
    }

    async show() {
      this.fill();
      if (!this.pair) {
        this.said.textContent = "Click a pair, move with the arrow keys, or choose by name.";
        return;
      }
      const [row, column] = this.pair;
      const [x, y] = [LEFT + CELL * column, TOP + CELL * row];
      const far = CELL * this.index.techniques.length;
      this.cursor.setAttribute("d", `M${LEFT} ${y}h${far}v${CELL}h${-far}zM${x} ${TOP}v${far}h${CELL}v${-far}z`);
      if (row === column) {
        this.said.replaceChildren(element("p", {}, linked(this.index.techniques[row]), " itself"));
        return;
      }
      const [one, two] = [this.index.techniques[row], this.index.techniques[column]];
      const card = await atlas.load(`technique/${one.id}`);
      if (this.pair[0] !== row || this.pair[1] !== column) return;
      const compare = new URL(`tools/compare.html?techniques=${one.id},${two.id}`, atlas.root);
      this.said.replaceChildren(
        element("p", {}, linked(one), " and ", linked(two), " ", verdicts.badge(verdicts.of(this.pairs, row, column)),
          " ", element("a", { href: compare.href }, "Compare")),
        verdicts.statements(this.index, card, column),
      );
    }
  }

  document.querySelectorAll(".la-pairs").forEach(async (place) => {
    const [index, pairs] = await Promise.all([atlas.load("index"), atlas.load("pairs")]);
    new Matrix(place, index, pairs);
  });
}
