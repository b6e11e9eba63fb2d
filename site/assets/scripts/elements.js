/* Elements made from names, attributes and texts. A text stays a text: nothing here reads HTML. */
"use strict";
{
  const atlas = (window.lvlmAtlas ??= {});
  const append = (element, children) => {
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== false) element.append(child);
    }
    return element;
  };

  /** An element; attributes whose name begins with `on` are listeners, those without a value are left out. */
  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value === true ? "" : String(value));
    }
    return append(made, children);
  };

  /** A table in a box that scrolls, by keyboard too. Columns: `{name, number, words}`; rows: lists of cells. */
  const table = (label, columns, rows) => {
    const style = (at) => (columns[at].number ? "la-number" : columns[at].words ? "la-words" : null);
    return element("div", { class: "la-table", role: "region", tabindex: "0", "aria-label": label },
      element("table", {},
        element("thead", {}, element("tr", {}, columns.map((column, at) =>
          element("th", { scope: "col", class: style(at) }, column.name)))),
        element("tbody", {}, rows.map((cells) =>
          element("tr", {}, cells.map((cell, at) => element("td", { class: style(at) }, cell)))))));
  };

  /** A labelled choice. Options: `{id, name}`. */
  const choice = (label, options, chosen, onchange) => {
    const select = element("select", { onchange: () => onchange(select.value) }, options.map((option) =>
      element("option", { value: option.id, selected: option.id === chosen }, option.name)));
    return element("label", { class: "la-choice" }, element("span", {}, label), select);
  };

  /** A link to the page of a technique of the index. */
  const linked = (technique) => element("a", { href: new URL(technique.page, atlas.root).href }, technique.name);
  const joined = (parts, separator) => parts.flatMap((part, at) => (at ? [separator, part] : [part]));

  /** Something that opens. */
  const folded = (title, ...inside) =>
    element("details", { class: "la-more" }, element("summary", {}, title), inside);

  Object.assign(atlas, { element, table, choice, linked, joined, folded });
}
