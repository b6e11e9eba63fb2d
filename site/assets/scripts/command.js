/* A command of the program as text; where the site holds Python and is served, with a link that runs it in the page. */
"use strict";
{
  const atlas = window.lvlmAtlas;
  const { element } = atlas;

  const command = (text) => {
    const run = new URL("tools/ask.html", atlas.root);
    run.searchParams.set("run", text);
    const here = atlas.python && location.protocol !== "file:";
    return element("div", { class: "la-shown" }, element("pre", {}, element("code", {}, text)),
      here && element("p", { class: "la-count" }, element("a", { href: run.href }, "Run it in the page")));
  };

  Object.assign(atlas, { command });
}
