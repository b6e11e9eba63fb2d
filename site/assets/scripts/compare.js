/* Two to four techniques side by side: what they do, what is reported and predicted, how they stand to each other. */
"use strict";
{
  const atlas = window.lvlmAtlas;
  const { element, command, table, choice, linked, folded, numbers, cost, verdicts, request: asking } = atlas;
  const MOST = 4;
  const GAINS = [["ttft", "First token"], ["tpot", "Per token"], ["total", "Whole"], ["memory", "Memory"]];

  const listed = (texts) => (texts.length ? element("ul", {}, texts.map((text) => element("li", {}, text))) : "none");
  const numbered = (texts) => element("ol", {}, texts.map((text) => element("li", {}, text)));

  class Comparison {
    constructor(place, index, pairs) {
      Object.assign(this, { index, pairs });
      this.request = asking.fromAddress(index, {});
      this.options = index.techniques.map(({ id, name }) => ({ id, name }))
        .sort((one, two) => one.name.localeCompare(two.name));
      const asked = (new URLSearchParams(location.search).get("techniques") ?? "").split(",");
      this.ids = asked.filter((id, at) => this.number(id) >= 0 && asked.indexOf(id) === at).slice(0, MOST);
      this.form = element("form", { class: "la-ask", "aria-label": "Techniques to compare" });
      this.form.addEventListener("submit", (event) => event.preventDefault());
      this.said = element("p", { role: "status", class: "la-count" });
      this.shown = element("div", { class: "la-answer" });
      place.replaceChildren(this.form, this.said, this.shown);
      this.fill();
      this.show();
    }

    number(id) {
      return this.index.techniques.findIndex((each) => each.id === id);
    }

    fill() {
      const none = { id: "", name: "–" };
      const choices = Array.from({ length: MOST }, (_, at) => choice(`Technique ${at + 1}`,
        [none, ...this.options.filter(({ id }) => id === this.ids[at] || !this.ids.includes(id))],
        this.ids[at] ?? "", (id) => this.choose(at, id)));
      for (const kind of ["model", "device", "workload"]) {
        choices.push(choice(kind[0].toUpperCase() + kind.slice(1), this.offered(kind), this.request[kind], (id) => {
          this.request[kind] = id;
          asking.toAddress({ [kind]: id });
          this.refill();
        }));
      }
      this.form.replaceChildren(...choices);
    }

    offered(kind) {
      const all = this.index[`${kind}s`];
      if (kind !== "device" || this.request.model === this.index.reference.model) return all;
      const some = all.filter(({ id }) => this.index.devices_of_all.includes(id));
      if (!some.some(({ id }) => id === this.request.device)) this.request.device = some[0].id;
      return some;
    }

    choose(at, id) {
      const ids = [...this.ids];
      ids[at] = id;
      this.ids = ids.filter(Boolean);
      asking.toAddress({ techniques: this.ids.join(",") });
      this.refill();
    }

    refill() {
      const focused = [...this.form.querySelectorAll("select")].indexOf(document.activeElement);
      this.fill();
      this.form.querySelectorAll("select")[focused]?.focus();
      this.show();
    }

    async show() {
      const asked = [...this.ids];
      const { model, device, workload } = this.request;
      if (asked.length < 2) {
        this.said.textContent = "Choose two to four techniques.";
        this.shown.replaceChildren();
        return;
      }
      const [tried, answers, ...cards] = await Promise.all([
        atlas.load(`model/${model}`), atlas.load(`request/${model}/${device}`),
        ...asked.map((id) => atlas.load(`technique/${id}`)),
      ]);
      if (asked.join() !== this.ids.join() || this.request.device !== device || this.request.model !== model) return;
      const techniques = asked.map((id) => this.index.techniques[this.number(id)]);
      this.said.textContent = techniques.map(({ name }) => name).join(", ");
      this.shown.replaceChildren(
        this.fields(techniques, cards),
        element("h2", {}, "Together"), ...this.together(asked, techniques, cards),
        element("h2", {}, "Predicted"), ...this.predicted(asked, techniques, tried[workload], answers[workload]),
        element("h2", {}, "Reported"), ...this.reported(techniques, cards),
        element("h2", {}, "How each works"),
        ...techniques.map((each, at) => folded(each.name, numbered(cards[at].steps))),
      );
    }

    columns(techniques, first) {
      return [{ name: first }, ...techniques.map((each) => ({ name: linked(each) }))];
    }

    fields(techniques, cards) {
      const rows = Object.keys(cards[0].fields).map((field) => [field, ...cards.map((card) => card.fields[field])]);
      rows.unshift(["What it does", ...cards.map((card) => card.summary)]);
      rows.push(["Effects", ...cards.map((card) => listed(card.effects))]);
      rows.push(["Costs", ...cards.map((card) => listed(card.overheads))]);
      rows.push(["Parameters", ...cards.map((card) => listed(card.parameters))]);
      return table("Fields", this.columns(techniques, "Field"), rows);
    }

    together(ids, techniques, cards) {
      const parts = [];
      for (let one = 0; one < ids.length; one += 1) {
        for (let two = one + 1; two < ids.length; two += 1) {
          const other = this.number(ids[two]);
          const verdict = verdicts.of(this.pairs, this.number(ids[one]), other);
          parts.push(element("h3", {}, `${techniques[one].name} and ${techniques[two].name} `, verdicts.badge(verdict)),
            verdicts.statements(this.index, cards[one], other));
        }
      }
      return parts;
    }

    predicted(ids, techniques, tried, answer) {
      if (typeof answer === "string") return [element("p", {}, `No prediction: ${answer}.`)];
      const before = cost.base(answer.base);
      const rows = answer.rows.split(";");
      const costs = ids.map((id) => {
        const at = tried.tried.indexOf(this.number(id));
        return at < 0 ? null : cost.read(rows[at], before);
      });
      const cells = GAINS.map(([name, words]) => [words,
        ...costs.map((each) => (each ? numbers.gain(before[name], each[name]) : "cannot be used here"))]);
      return [
        element("p", {}, element("span", { class: "la-badge la-badge--predicted" }, "predicted"),
          ` How many times less each alone needs at its default setting, by the roofline, preset ${this.index.efficiency}.`),
        table("Predicted gains", this.columns(techniques, "Figure"), cells),
        command(asking.estimate(this.index, this.request, answer.devices, [ids[0]])),
      ];
    }

    /** Numbers of one measure and model side by side, where at least two techniques have some. */
    reported(techniques, cards) {
      const groups = new Map();
      cards.forEach((card, at) => card.results.forEach(([measure, model, value, how]) => {
        const key = `${measure}, ${model}`;
        if (!groups.has(key)) groups.set(key, techniques.map(() => []));
        groups.get(key)[at].push(how ? `${value}: ${how}` : value);
      }));
      const shared = [...groups].filter(([, cells]) => cells.filter((cell) => cell.length).length > 1).sort();
      const note = element("p", {}, element("span", { class: "la-badge la-badge--reported" }, "reported"),
        shared.length ? " By their sources, of the same measure and model; settings and code differ."
          : " No measure is reported of two of them on the same model.");
      const rows = shared.map(([key, cells]) => [key, ...cells.map((cell) => (cell.length ? listed(cell) : "–"))]);
      return shared.length ? [note, table("Reported numbers", this.columns(techniques, "Measure"), rows)] : [note];
    }
  }

  document.querySelectorAll(".la-compare").forEach(async (place) => {
    const [index, pairs] = await Promise.all([atlas.load("index"), atlas.load("pairs")]);
    new Comparison(place, index, pairs);
  });
}
