/* Search over all pages: names first, then words. The data load when it is first opened, from a folder too. */
(() => {
  const root = new URL("..", document.currentScript.src);
  const SHOWN = 30;
  const WEIGHT = { technique: 60, model: 55, device: 50, system: 45, family: 40, stage: 40, bottleneck: 40, workload: 30,
    word: 25, "not covered": 20, paper: 15, rule: 5 };

  const fold = (text) => text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase()
    .replace(/is(?=(?:e[drs]?|ing|ations?)\b)/g, "iz"); // quantisation is quantization
  const squash = (text) => fold(text).replace(/[^\p{L}\p{N}]+/gu, "");
  const words = (text) => fold(text).match(/[\p{L}\p{N}]+(?:\.\d+)*/gu) ?? [];

  let loading;
  const load = () => (loading ??= new Promise((done, fail) => {
    const script = document.createElement("script");
    script.src = new URL("assets/find-data.js", root);
    script.onload = () => done(window.lvlmAtlasFind.map(([path, title, kind, names, about, text]) => ({
      path, title, kind, about, text,
      names: [title, ...names].map((name) => ({ name, squashed: squash(name), words: words(name) })),
    })));
    script.onerror = () => { loading = undefined; fail(); };
    document.head.append(script);
  }));

  const ofName = (name, typed, typedWords) => {
    if (name.squashed === typed) return 1000;
    if (name.squashed.startsWith(typed)) return 600 - Math.min(99, name.squashed.length - typed.length);
    if (typedWords.every((word) => name.words.some((each) => each.startsWith(word)))) return 400 - Math.min(99, name.words.length);
    return typed.length > 2 && name.squashed.includes(typed) ? 250 : 0;
  };
  const score = (page, typed, typedWords) => {
    const kind = WEIGHT[page.kind] ?? 0;
    // The title counts a little more than another name of the same page.
    const named = Math.max(...page.names.map((name, at) => ofName(name, typed, typedWords) - (at ? 5 : 0)));
    if (named > 0) return named + kind;
    page.folded ??= ` ${words(`${page.title} ${page.about} ${page.text}`).join(" ")} `;
    const hits = typedWords.filter((word) => page.folded.includes(` ${word}`)).length;
    return hits === typedWords.length ? 100 + kind : 0;
  };
  const distance = (one, two) => { // Damerau and Levenshtein's, neighbours swapped at the price of one
    let [before, last] = [[], Array.from({ length: two.length + 1 }, (_, at) => at)];
    for (let i = 1; i <= one.length; i += 1) {
      const row = [i];
      for (let j = 1; j <= two.length; j += 1) {
        const differs = one[i - 1] === two[j - 1] ? 0 : 1;
        row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + differs);
        if (i > 1 && j > 1 && one[i - 1] === two[j - 2] && one[i - 2] === two[j - 1]) row[j] = Math.min(row[j], before[j - 2] + 1);
      }
      [before, last] = [last, row];
    }
    return last[two.length];
  };
  const search = (pages, text) => {
    const [typed, typedWords] = [squash(text), words(text)];
    if (!typed) return [];
    return pages.map((page) => ({ page, score: score(page, typed, typedWords) })).filter((each) => each.score)
      .sort((a, b) => b.score - a.score || a.page.title.length - b.page.title.length || a.page.title.localeCompare(b.page.title))
      .map((each) => each.page);
  };
  const nearest = (pages, text) => {
    const typed = squash(text).slice(0, 40);
    if (!typed) return [];
    const far = Math.max(2, Math.ceil(typed.length * 0.4));
    return pages.map((page) => ({ page, far: Math.min(...page.names.map((name) => distance(typed, name.squashed.slice(0, 40)))) }))
      .filter((each) => each.far <= far).sort((a, b) => a.far - b.far || (WEIGHT[b.page.kind] ?? 0) - (WEIGHT[a.page.kind] ?? 0))
      .slice(0, 6).map((each) => each.page);
  };

  const element = (name, class_, ...children) => {
    const made = document.createElement(name);
    if (class_) made.className = class_;
    made.append(...children);
    return made;
  };
  const excerpt = (page, text) => {
    const at = fold(page.text).indexOf(words(text)[0] ?? "");
    return page.about || at < 0 ? page.about : `…${page.text.slice(Math.max(0, at - 50), at + 110)}…`;
  };
  const row = (page, text) => {
    const link = element("a", "la-find__link",
      element("span", "la-find__title", page.title), element("span", "la-find__kind", page.kind),
      element("span", "la-find__about", excerpt(page, text)));
    link.href = new URL(page.path, root);
    return element("li", "", link);
  };

  const dialog = element("dialog", "la-find");
  dialog.setAttribute("aria-label", "Search");
  const input = element("input", "la-find__input");
  Object.assign(input, { type: "search", placeholder: "A technique, a model, a word …", autocomplete: "off", spellcheck: false });
  input.setAttribute("aria-label", "Search the atlas");
  const close = element("button", "la-find__close", "Close");
  close.type = "button";
  const status = element("p", "la-find__status");
  status.setAttribute("role", "status");
  const list = element("ol", "la-find__list");
  dialog.append(element("form", "la-find__form", input, close), status, list);

  const show = async () => {
    const text = input.value.trim();
    let pages;
    try {
      pages = await load();
    } catch {
      status.textContent = "The data of the search did not load.";
      return;
    }
    if (text !== input.value.trim()) return; // typed on meanwhile
    const found = search(pages, text);
    const near = found.length || !text ? [] : nearest(pages, text);
    list.replaceChildren(...(found.length ? found.slice(0, SHOWN) : near).map((page) => row(page, text)));
    if (!text) status.textContent = "Names come first, then whatever holds all words.";
    else if (found.length > SHOWN) status.textContent = `The first ${SHOWN} of ${found.length} results`;
    else if (found.length) status.textContent = found.length === 1 ? "1 result" : `${found.length} results`;
    else status.textContent = near.length ? `Nothing here is called or holds “${text}”. Nearest names:`
      : `Nothing here is called or holds “${text}”.`;
  };
  const open = (text) => {
    if (typeof text === "string") input.value = text;
    if (!dialog.open) dialog.showModal();
    input.select();
    show();
  };
  input.addEventListener("input", show);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.firstChild.addEventListener("submit", (event) => {
    event.preventDefault();
    list.querySelector("a")?.click();
  });
  list.addEventListener("click", (event) => { if (event.target.closest("a")) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const stops = [input, ...list.querySelectorAll("a")];
    event.preventDefault();
    stops[Math.min(stops.length - 1, Math.max(0, stops.indexOf(document.activeElement) + step))].focus();
  });

  const lens = '<svg viewBox="0 0 24 24" aria-hidden="true"><path fill="currentColor" d="M9.5 3a6.5 6.5 0 0 1 5.2 10.4l5.5 5.4-1.4 1.4-5.4-5.5A6.5 6.5 0 1 1 9.5 3m0 2a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9"/></svg>';
  const button = element("button", "md-header__button la-find__button", element("span", "", "Search"), element("kbd", "", "/"));
  button.type = "button";
  button.insertAdjacentHTML("afterbegin", lens);
  button.setAttribute("aria-keyshortcuts", "/");
  button.addEventListener("click", open);
  document.querySelector(".md-header__inner")?.append(button);
  document.body.append(dialog);
  document.addEventListener("keydown", (event) => {
    const writes = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !writes && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      open();
    }
  });

  const asked = new URLSearchParams(location.search).get("q");
  if (asked) open(asked);
  const lost = document.querySelector("[data-la-lost]");
  if (lost) {
    const name = decodeURIComponent(location.pathname.split("/").filter(Boolean).pop() ?? "").replace(/\.\w+$/, "");
    load().then((pages) => {
      const near = nearest(pages, name);
      lost.append(element("p", "", near.length ? `Nearest to “${name}”:` : ""), element("ul", "", ...near.map((page) => row(page, name))));
      const again = element("button", "md-button", "Search");
      again.type = "button";
      again.addEventListener("click", () => open(name));
      lost.append(again);
    }).catch(() => {});
  }
})();
