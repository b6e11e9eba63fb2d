/* Layers over the matrix: every technique coloured, and labelled, by one of its numbers. */
"use strict";
{
  const atlas = window.lvlmAtlas;
  const { element, choice, numbers, cost, request: asking } = atlas;

  /** Layers: what each shows of a technique as `{strength, text}`, strength from 0 to 1; null leaves it blank. */
  const scaled = (values, of, text) => {
    const known = values.map(of).filter((value) => value !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    return values.map((each) => {
      const value = of(each);
      return value === null ? null : { strength: (value - low) / (high - low || 1), text: text(value, each) };
    });
  };
  const STATIC = {
    year: (index) => scaled(index.techniques, ({ year }) => year, String),
    evidence: (index) => scaled(index.techniques, ({ verified }) => index.verified.length - index.verified.indexOf(verified),
      (_, { verified }) => verified),
    results: (index) => scaled(index.techniques, ({ results }) => results || null, (count) => `${count} results`),
    engines: (index) => scaled(index.techniques, ({ engines }) => engines.length || null,
      (_, { engines }) => engines.join(", ")),
    reference: (index) => index.techniques.map(({ runs }) => ({ strength: Number(runs), text: runs ? "runs" : "described" })),
  };
  const NAMES = { "": "none", gain: "gain for a request", year: "year", evidence: "evidence of the entry",
    results: "numbers reported", engines: "engines that ship it", reference: "reference that runs" };

  class Layers {
    constructor(place, matrix, index) {
      this.index = index;
      const numbersOf = new Map(index.techniques.map((each, at) => [new URL(each.page, atlas.root).href, at]));
      this.chips = [...matrix.querySelectorAll("a.la-chip")].map((chip) => [numbersOf.get(chip.href), chip]);
      const asked = new URLSearchParams(location.search).get("layer");
      this.layer = asked in NAMES ? asked : "";
      this.request = asking.fromAddress(index, {});
      this.form = element("form", { class: "la-ask", "aria-label": "Layer" });
      this.form.addEventListener("submit", (event) => event.preventDefault());
      this.said = element("p", { role: "status", class: "la-count" });
      place.replaceChildren(this.form, this.said);
      this.show();
    }

    choose(name, value) {
      if (name === "layer") this.layer = value;
      else this.request[name] = value;
      asking.toAddress({ [name]: value });
      this.show();
    }

    fill() {
      const { index, request } = this;
      const focused = [...this.form.querySelectorAll("select")].indexOf(document.activeElement);
      const layers = Object.entries(NAMES).map(([id, name]) => ({ id, name }));
      const choices = [choice("Colour by", layers, this.layer, (id) => this.choose("layer", id))];
      if (this.layer === "gain") {
        const devices = index.devices.filter(({ id }) =>
          request.model === index.reference.model || index.devices_of_all.includes(id));
        if (!devices.some(({ id }) => id === request.device)) request.device = devices[0].id;
        const offered = { model: index.models, device: devices, workload: index.workloads, goal: index.goals };
        for (const [name, options] of Object.entries(offered)) {
          choices.push(choice(name[0].toUpperCase() + name.slice(1), options, request[name], (id) => this.choose(name, id)));
        }
      }
      this.form.replaceChildren(...choices);
      this.form.querySelectorAll("select")[focused]?.focus();
    }

    async show() {
      this.fill();
      const asked = JSON.stringify([this.layer, this.request]);
      const values = this.layer === "gain" ? await this.gains() : STATIC[this.layer]?.(this.index) ?? [];
      if (asked !== JSON.stringify([this.layer, this.request])) return;
      for (const [number, chip] of this.chips) {
        chip.querySelector(".la-layer")?.remove();
        const value = values[number];
        chip.classList.toggle("la-layered", Boolean(value));
        if (!value) continue;
        chip.style.setProperty("--la-strength", value.strength.toFixed(3));
        chip.append(element("span", { class: "la-layer" }, value.text));
      }
      const count = values.filter(Boolean).length;
      if (this.layer !== "gain") {
        this.said.textContent = this.layer ? `${NAMES[this.layer]}: known of ${count} of ${this.index.techniques.length}` : "";
      }
    }

    /** The gain of each technique for the request; those that cannot be used there stay blank. */
    async gains() {
      const { model, device, workload, goal } = this.request;
      const [tried, answers] = await Promise.all([
        atlas.load(`model/${model}`), atlas.load(`request/${model}/${device}`),
      ]);
      const answer = answers[workload];
      if (typeof answer === "string") {
        this.said.textContent = `No prediction: ${answer}.`;
        return [];
      }
      const before = cost.base(answer.base);
      const values = [];
      answer.rows.split(";").forEach((text, at) => {
        const now = cost.read(text, before)[goal];
        const gain = now ? before[goal] / now : 1;
        values[tried[workload].tried[at]] = { strength: Math.max(0, Math.log(gain)), text: numbers.gain(before[goal], now) };
      });
      const most = Math.max(...values.filter(Boolean).map(({ strength }) => strength)) || 1;
      values.forEach((value) => { value.strength /= most; });
      this.said.replaceChildren("Predicted, each alone; techniques without a number cannot be used for this request. ",
        element("code", {}, asking.plan(this.index, this.request, answer.devices)));
      return values;
    }
  }

  document.querySelectorAll(".la-layers").forEach(async (place) => {
    new Layers(place, document.querySelector(".la-matrix"), await atlas.load("index"));
  });
}
