/* What helps here: a model, a device, a workload and a goal are chosen, and the answer computed at build is shown. */
"use strict";
{
  const atlas = window.lvlmAtlas;
  const { element, command, table, choice, linked, joined, folded, numbers, cost, request: asking } = atlas;
  const SHOWN = 10;
  const STAGES = ["encoding", "prefilling", "decoding"];

  const short = (goal) => ({ ttft: "First token", tpot: "Per token", total: "Whole", memory: "Memory" })[goal];
  const value = (goal, at) => (goal === "memory" ? numbers.size(at.memory) : numbers.seconds(at[goal]));

  /** The time of each stage as a bar, as long as the share of the time without techniques. */
  const bar = (index, at, before) =>
    element("span", { class: "la-bar-track", "aria-hidden": "true" }, STAGES.map((stage) => {
      const part = element("span", { class: `la-bar-part la-s${index.stages[stage]}`,
        title: `${stage}: ${numbers.seconds(at[stage])}` });
      part.style.width = `${Math.min(100, (100 * at[stage]) / Math.max(before.total, at.total))}%`;
      return part;
    }));

  /** What sources report of the quality kept: of this model, else of any. */
  const kept = (technique, model) => {
    const [least, most, count] = technique.kept[model] ?? technique.kept[""] ?? [];
    if (count === undefined) return "no score reported";
    const range = least === most ? `${least} %` : `${least}–${most} %`;
    return `${range} of ${count} ${count === 1 ? "score" : "scores"}${technique.kept[model] ? "" : ", other models"}`;
  };

  class Answer {
    constructor(place, index) {
      this.index = index;
      this.request = asking.fromAddress(index, place.dataset);
      this.form = element("form", { class: "la-ask", "aria-label": "Request" });
      this.form.addEventListener("submit", (event) => event.preventDefault());
      this.said = element("p", { role: "status", class: "la-said" });
      this.shown = element("div", { class: "la-answer" });
      place.replaceChildren(this.form, this.said, this.shown);
    }

    /** Ask again; `chosen` is what the reader has changed. */
    async ask(chosen = {}) {
      Object.assign(this.request, chosen);
      const devices = this.devices();
      this.note = "";
      if (!devices.some((each) => each.id === this.request.device)) {
        this.note = `On ${this.named("device")} the page answers for ${this.named("model", this.index.reference.model)} ` +
          "alone; the command line answers for any model. ";
        this.request.device = devices[0].id;
      }
      this.fill(devices);
      const { model, device, workload } = this.request;
      if (Object.keys(chosen).length) asking.toAddress(this.request);
      const wanted = { ...this.request };
      let files;
      try {
        files = await Promise.all([atlas.load(`model/${model}`), atlas.load(`request/${model}/${device}`)]);
      } catch (error) {
        this.said.textContent = `There is no answer: ${error.message}. Reload the page, or ask the command line.`;
        this.shown.replaceChildren();
        return;
      }
      if (Object.entries(wanted).some(([name, id]) => this.request[name] !== id)) return; // changed meanwhile
      this.show(files[0][workload], files[1][workload]);
    }

    devices() {
      const { index, request } = this;
      const all = request.model === index.reference.model;
      return index.devices.filter((each) => all || index.devices_of_all.includes(each.id));
    }

    fill(devices) {
      const { index, request } = this;
      const focused = [...this.form.querySelectorAll("select")].indexOf(document.activeElement);
      const change = (name) => (id) => this.ask({ [name]: id });
      this.form.replaceChildren(
        choice("Model", index.models, request.model, change("model")),
        choice("Device", devices, request.device, change("device")),
        choice("Workload", index.workloads, request.workload, change("workload")),
        choice("Goal", index.goals, request.goal, change("goal")),
      );
      this.form.querySelectorAll("select")[focused]?.focus();
    }

    named(kind, id = this.request[kind]) {
      return this.index[`${kind}s`].find((each) => each.id === id).name;
    }

    show(tried, answer) {
      const { index, request } = this;
      if (typeof answer === "string") {
        this.said.textContent = `${this.note}No answer: ${answer}.`;
        this.shown.replaceChildren(command(asking.plan(index, request, 1)));
        return;
      }
      const before = cost.base(answer.base);
      const goal = answer.stacks[request.goal] ? request.goal : "ttft";
      const rows = answer.rows.split(";").map((text, at) => ({
        technique: index.techniques[tried.tried[at]], at: cost.read(text, before),
      }));
      const where = `${answer.devices > 1 ? `${answer.devices} × ` : ""}${this.named("device")}`;
      const longest = STAGES.reduce((one, two) => (before[two] > before[one] ? two : one));
      this.said.textContent =
        `${this.note}${this.named("model")} on ${where}, ${this.named("workload").toLowerCase()}: first token after ` +
        `${numbers.seconds(before.ttft)}, then ${numbers.seconds(before.tpot)} a token, ` +
        `${numbers.seconds(before.total)} in all; ${numbers.size(before.memory)} a device. ` +
        `${longest[0].toUpperCase()}${longest.slice(1)} takes longest.`;
      this.shown.replaceChildren(
        element("p", { class: "la-count" }, "Time by stage, beside that of no technique:", STAGES.map((stage) =>
          element("span", { class: `la-key la-s${index.stages[stage]}` }, stage))),
        ...this.stacks(answer, rows, before, goal),
        ...this.techniques(rows, before, goal),
        this.barred(tried),
        ...this.commands(answer),
      );
    }

    stacks(answer, rows, before, goal) {
      const shown = answer.stacks[goal].map(([members, text, risk]) => {
        const at = cost.read(text, before);
        return [
          joined(members.map((member) => linked(rows[member].technique)), " + "),
          element("strong", {}, numbers.gain(before[goal], at[goal])), value(goal, at), bar(this.index, at, before),
          this.index.risks[risk],
        ];
      });
      const columns = [{ name: "Stack" }, { name: "Gain", number: true }, { name: short(goal), number: true },
        { name: "Time by stage" }, { name: "Risk" }];
      const none = ["no technique", "", value(goal, before), bar(this.index, before, before), ""];
      return [
        element("h3", {}, "Best stacks"),
        element("p", {}, shown.length ? "No other stack is better in gain, risk and number of techniques at once, of " +
          `those of at most ${this.index.most} techniques that are known to work together.`
          : "No stack that is known to work together is better than none."),
        shown.length ? table("Best stacks", columns, [none, ...shown]) : null,
      ].filter(Boolean);
    }

    techniques(rows, before, goal) {
      const sorted = [...rows].sort((one, two) => one.at[goal] - two.at[goal]);
      const useful = sorted.filter((row) => row.at[goal] < before[goal] && numbers.gain(before[goal], row.at[goal]) !== "1.00 ×");
      const useless = sorted.filter((row) => !useful.includes(row));
      const columns = [{ name: "Technique" }, { name: "Gain", number: true }, { name: "Time by stage" },
        ...["ttft", "tpot", "total", "memory"].map((name) => ({ name: short(name), number: true })),
        { name: "Risk" }, { name: "Quality kept, as reported", words: true }, { name: "Ships in" }];
      const cells = ({ technique, at }) => [
        linked(technique), element("strong", {}, numbers.gain(before[goal], at[goal])), bar(this.index, at, before),
        ...["ttft", "tpot", "total", "memory"].map((name) => value(name, at)), this.index.risks[technique.risk],
        kept(technique, this.request.model), technique.engines.join(", ") || "–",
      ];
      const shown = (some) => table("Techniques alone", columns, some.map(cells));
      return [
        element("h3", {}, "Techniques alone"),
        useful.length ? shown(useful.slice(0, SHOWN)) : element("p", {}, "None gains anything here."),
        useful.length > SHOWN && folded(`${useful.length - SHOWN} more gain less`, shown(useful.slice(SHOWN))),
        useless.length && folded(`${useless.length} gain nothing for this goal`,
          element("p", {}, joined(useless.map((row) => linked(row.technique)), ", "))),
      ].filter(Boolean);
    }

    barred(tried) {
      const count = tried.barred.reduce((sum, [, which]) => sum + which.length, 0);
      return folded(`${count} cannot be used here`, element("ul", {}, tried.barred.map(([why, which]) =>
        element("li", {}, `${why[0].toUpperCase()}${why.slice(1)}: `,
          joined(which.map((number) => linked(this.index.techniques[number])), ", ")))));
    }

    commands(answer) {
      const { index, request } = this;
      const json = asking.asJson(index, request, answer.devices);
      return [
        element("p", { class: "la-source-note" }, element("span", { class: "la-badge la-badge--predicted" }, "predicted"),
          ` by the roofline, preset ${index.efficiency}, data of ${index.edition}; each technique at its entry's ` +
          "default setting. Not measured. The same from the command line, which can vary everything" +
          (index.runtime ? `; --runtime ${index.runtime} takes the kernels and the host of real software:` : ":")),
        command(asking.plan(index, request, answer.devices)),
        folded("The request as JSON", element("pre", {}, element("code", {}, JSON.stringify(json, null, 1)))),
      ];
    }
  }

  document.querySelectorAll(".la-answers").forEach(async (place) => {
    const index = await atlas.load("index");
    await new Answer(place, index).ask();
  });
}
