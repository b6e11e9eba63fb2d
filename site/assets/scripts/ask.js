/* Any command of the program, run in the page; and the program's own check of an entry that somebody writes. */
"use strict";
{
  const atlas = window.lvlmAtlas;
  const { element, request: asking } = atlas;
  const worker = new URL("python.js", document.currentScript.src);

  /** The program in its worker, started when it is first asked for. */
  class Program {
    constructor(place, onstage) {
      this.reason =
        place.dataset.python !== "yes" ? "This build of the site has no Python in it; lvlm-atlas build --python makes one that has."
        : location.protocol === "file:" ? "A page in a folder cannot start Python; lvlm-atlas serve shows the site from a server."
        : null;
      this.onstage = onstage;
      this.waiting = new Map();
      this.number = 0;
    }

    run(line, files = {}) {
      if (this.reason) return Promise.reject(new Error(this.reason));
      if (!this.worker) {
        this.worker = new Worker(worker, { type: "module" });
        this.worker.onmessage = ({ data }) => this.heard(data);
        this.worker.onerror = (event) => {
          event.preventDefault();
          this.stop(`Python cannot be started: ${event.message ?? "its files cannot be loaded"}`);
        };
      }
      const number = (this.number += 1);
      const columns = Math.max(40, Math.min(120, this.columns?.() ?? 80));
      return new Promise((resolve, reject) => {
        this.waiting.set(number, { resolve, reject });
        this.worker.postMessage({ number, line, columns, files });
      });
    }

    heard({ stage, number, failure, ...answer }) {
      if (stage) {
        this.onstage(stage);
        return;
      }
      const { resolve, reject } = this.waiting.get(number);
      this.waiting.delete(number);
      if (failure) reject(new Error(failure));
      else resolve(answer);
    }

    /** End it, whatever it does; the next command starts it anew. */
    stop(why) {
      this.worker?.terminate();
      this.worker = null;
      for (const { reject } of this.waiting.values()) reject(new Error(why));
      this.waiting.clear();
    }
  }

  class Ask {
    constructor(place) {
      this.program = new Program(place, (stage) => this.say(`${stage} …`));
      this.program.columns = () => this.fitting();
      this.line = element("textarea", { rows: "2", spellcheck: "false", autocapitalize: "off", autocomplete: "off" });
      this.line.value = new URLSearchParams(location.search).get("run") ?? place.dataset.command;
      this.go = element("button", { type: "submit", class: "md-button md-button--primary" }, "Run");
      this.end = element("button", { type: "button", class: "md-button", hidden: true,
        onclick: () => this.program.stop("Stopped.") }, "Stop");
      this.said = element("p", { role: "status", class: "la-said" });
      this.out = element("pre", { tabindex: "0", role: "region", "aria-label": "Output", hidden: true });
      const form = element("form", { class: "la-command", "aria-label": "Command" },
        element("label", { class: "la-choice" }, element("span", {}, "Command"), this.line),
        element("p", {}, this.go, " ", this.end));
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        this.ask();
      });
      this.line.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && !event.shiftKey) {
          event.preventDefault();
          this.ask();
        }
      });
      this.entry = element("textarea", { rows: "12", spellcheck: "false" });
      this.path = element("input", { type: "text", value: place.dataset.path, spellcheck: "false" });
      const check = element("form", { class: "la-command", "aria-label": "Check an entry" },
        element("label", { class: "la-choice" }, element("span", {}, "Its file"), this.path),
        element("label", { class: "la-choice" }, element("span", {}, "Its YAML"), this.entry),
        element("p", {}, element("button", { type: "submit", class: "md-button" }, "Check")));
      check.addEventListener("submit", (event) => {
        event.preventDefault();
        this.check();
      });
      const examples = element("ul", { class: "la-examples" }, JSON.parse(place.dataset.examples).map((line) =>
        element("li", {}, element("button", { type: "button", onclick: () => this.ask(line) }, element("code", {}, line)))));
      place.replaceChildren(form, this.said, this.out, element("h2", {}, "Examples"), examples,
        element("h2", {}, "Check an entry"),
        element("p", {}, "Write or paste the YAML of an entry: the same faults as from lvlm-atlas check, with line and column."),
        check);
      this.said.hidden = !this.program.reason;
      this.said.textContent = this.program.reason ?? "";
      if (new URLSearchParams(location.search).has("run") && !this.program.reason) this.ask();
    }

    /** Characters that a line of the output has room for. */
    fitting() {
      const hidden = this.out.hidden;
      const ruler = element("span", { style: "visibility: hidden" }, "0".repeat(50));
      this.out.hidden = false;
      this.out.append(ruler);
      const columns = Math.floor((50 * (this.out.clientWidth - 32)) / ruler.getBoundingClientRect().width);
      ruler.remove();
      this.out.hidden = hidden;
      return columns;
    }

    say(text) {
      this.said.hidden = text === "";
      this.said.textContent = text;
    }

    ask(line = this.line.value) {
      this.line.value = line;
      asking.toAddress({ run: line });
      return this.show(this.program.run(line), (code) => (code === 0 ? "" : `Exit code ${code}.`));
    }

    check() {
      const path = this.path.value.trim();
      return this.show(this.program.run(`check ${path}`, { [path]: this.entry.value }),
        (code) => (code === 0 ? "No faults." : "Faults:"));
    }

    async show(answer, verdict) {
      this.end.hidden = false;
      this.go.disabled = true;
      try {
        const { code, out, err } = await answer;
        this.out.textContent = [out, err].filter(Boolean).join("\n").trim();
        this.out.hidden = this.out.textContent === "";
        this.say(verdict(code));
      } catch (error) {
        this.say(error.message);
      } finally {
        this.end.hidden = true;
        this.go.disabled = false;
      }
    }
  }

  document.querySelectorAll(".la-program").forEach((place) => new Ask(place));
}
