/* A stack that is ticked together: conflicts with reasons, what is unknown, the joint gain against the product. */
"use strict";
{
  const atlas = window.lvlmAtlas;
  const { element, command, table, choice, linked, numbers, cost, verdicts, request: asking } = atlas;
  const FIGURES = [["ttft", "First token"], ["tpot", "Per token"], ["total", "Whole"], ["memory", "Memory"]];

  class Stack {
    constructor(place, index, pairs) {
      Object.assign(this, { index, pairs });
      this.request = asking.fromAddress(index, {});
      const asked = (new URLSearchParams(location.search).get("techniques") ?? "").split(",");
      this.picked = index.techniques.flatMap(({ id }, number) => (asked.includes(id) ? [number] : []));
      this.form = element("form", { class: "la-ask", "aria-label": "Request" });
      this.ticks = element("form", { class: "la-ticks", "aria-label": "Techniques" });
      for (const form of [this.form, this.ticks]) form.addEventListener("submit", (event) => event.preventDefault());
      this.said = element("p", { role: "status", class: "la-said" });
      this.shown = element("div", { class: "la-answer" });
      place.replaceChildren(this.form, this.ticks, this.said, this.shown);
      this.ask();
    }

    /** Load what the request needs, then show the techniques that can be ticked. */
    async ask() {
      this.fill();
      const { model, device, workload } = this.request;
      const [tried, answers] = await Promise.all([
        atlas.load(`model/${model}`), atlas.load(`request/${model}/${device}`),
      ]);
      if (this.request.model !== model || this.request.device !== device || this.request.workload !== workload) return;
      this.answer = answers[workload];
      this.tried = tried[workload]?.tried ?? [];
      if (typeof this.answer === "string") {
        this.ticks.replaceChildren();
        this.shown.replaceChildren();
        this.said.textContent = `No prediction: ${this.answer}.`;
        return;
      }
      this.picked = this.picked.filter((number) => this.tried.includes(number));
      this.offer();
      this.show();
    }

    fill() {
      const { index, request } = this;
      const focused = [...this.form.querySelectorAll("select")].indexOf(document.activeElement);
      const all = request.model === index.reference.model;
      const devices = index.devices.filter(({ id }) => all || index.devices_of_all.includes(id));
      if (!devices.some(({ id }) => id === request.device)) request.device = devices[0].id;
      const offered = { model: index.models, device: devices, workload: index.workloads };
      this.form.replaceChildren(...Object.entries(offered).map(([kind, options]) =>
        choice(kind[0].toUpperCase() + kind.slice(1), options, request[kind], (id) => {
          request[kind] = id;
          asking.toAddress({ [kind]: id });
          this.ask();
        })));
      this.form.querySelectorAll("select")[focused]?.focus();
    }

    offer() {
      const { index } = this;
      this.ticks.replaceChildren(...Object.entries(index.stages).map(([stage, place]) => {
        const members = this.tried.filter((number) => index.techniques[number].stage === stage);
        if (!members.length) return "";
        return element("fieldset", { class: `la-s${place}` }, element("legend", {}, stage), members.map((number) =>
          element("label", { "data-number": number },
            element("input", { type: "checkbox", checked: this.picked.includes(number), onchange: (event) => {
              this.tick(number, event.target.checked);
            } }), ` ${index.techniques[number].name} `, element("span", { class: "la-mark" }))));
      }));
    }

    tick(number, on) {
      this.picked = this.tried.filter((each) => (each === number ? on : this.picked.includes(each)));
      asking.toAddress({ techniques: this.picked.map((each) => this.index.techniques[each].id).join(",") });
      this.show();
    }

    async show() {
      const picked = [...this.picked];
      this.mark();
      const techniques = picked.map((number) => this.index.techniques[number]);
      const cards = await Promise.all(techniques.map(({ id }) => atlas.load(`technique/${id}`)));
      const joint = await this.joint(picked);
      if (picked.join() !== this.picked.join()) return;
      const found = picked.flatMap((one, at) => picked.slice(at + 1).map((two) =>
        ({ one: at, two, verdict: verdicts.of(this.pairs, one, two) })));
      const count = (letter) => found.filter(({ verdict }) => verdict === letter).length;
      this.said.textContent = picked.length < 2 ? "Tick two techniques or more."
        : `${techniques.map(({ name }) => name).join(" + ")}: ${count("b")} conflicts, ${count("u")} unknown, ` +
          `${count("w")} known to work.`;
      const order = "buw";
      found.sort((one, two) => order.indexOf(one.verdict) - order.indexOf(two.verdict));
      this.shown.replaceChildren(
        ...(picked.length ? this.gains(picked, techniques, joint, count("b")) : []),
        ...found.flatMap(({ one, two, verdict }) => [
          element("h3", {}, `${techniques[one].name} and ${this.index.techniques[two].name} `, verdicts.badge(verdict)),
          verdicts.statements(this.index, cards[one], two),
        ]),
      );
    }

    /** Say beside each technique how it stands to those that are ticked. */
    mark() {
      for (const label of this.ticks.querySelectorAll("label")) {
        const number = Number(label.dataset.number);
        const letters = this.picked.filter((each) => each !== number).map((each) => verdicts.of(this.pairs, number, each));
        const worst = ["b", "u", "w"].find((letter) => letters.includes(letter));
        label.querySelector(".la-mark").replaceChildren(...(worst ? [verdicts.badge(worst)] : []));
      }
    }

    /** What the engine predicts of the stack as a whole, where the build has asked it; else null. */
    async joint(picked) {
      const { index, request, answer } = this;
      const places = picked.map((number) => this.tried.indexOf(number)).sort((one, two) => one - two);
      const before = cost.base(answer.base);
      if (places.length === 1) return cost.read(answer.rows.split(";")[places[0]], before);
      const known = Object.values(answer.stacks).flat().find(([members]) => members.join() === places.join());
      if (known) return cost.read(known[1], before);
      if (places.length !== 2 || request.model !== index.reference.model || request.device !== index.reference.device) {
        return null;
      }
      const text = (await atlas.load("together"))[request.workload]?.[places.join("+")];
      return text === undefined ? null : cost.read(text, before);
    }

    gains(picked, techniques, joint, conflicts) {
      const before = cost.base(this.answer.base);
      const rows = this.answer.rows.split(";");
      const alone = picked.map((number) => cost.read(rows[this.tried.indexOf(number)], before));
      const ratio = (now, name) => (now[name] ? before[name] / now[name] : 1);
      const cells = FIGURES.map(([name, words]) => {
        const product = alone.reduce((times, each) => times * ratio(each, name), 1);
        return [words, ...alone.map((each) => numbers.gain(before[name], each[name])),
          numbers.gain(product, 1), joint && !conflicts ? numbers.gain(before[name], joint[name]) : "–"];
      });
      const columns = [{ name: "Figure" }, ...techniques.map((each) => ({ name: linked(each), number: true })),
        { name: "If gains multiplied", number: true }, { name: "Together", number: true }];
      const note = conflicts ? "Stacks with a conflict cannot run, so nothing is predicted of them together."
        : joint ? "Together: as the roofline predicts the whole stack."
        : "What they gain together is not computed for this page; the command line says it:";
      const ids = techniques.map(({ id }) => id);
      return [
        table("Gains", columns, cells),
        element("p", {}, element("span", { class: "la-badge la-badge--predicted" }, "predicted"),
          ` Preset ${this.index.efficiency}, default settings. ${note}`),
        conflicts ? "" : command(asking.estimate(this.index, this.request, this.answer.devices, ids)),
      ];
    }
  }

  document.querySelectorAll(".la-stack").forEach(async (place) => {
    const [index, pairs] = await Promise.all([atlas.load("index"), atlas.load("pairs")]);
    new Stack(place, index, pairs);
  });
}
