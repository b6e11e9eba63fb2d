/* Data files, loaded when they are first needed. They are scripts, since a page in a folder may fetch nothing. */
"use strict";
{
  const atlas = (window.lvlmAtlas ??= {});
  const root = new URL("../../", document.currentScript.src);
  const python = "python" in document.currentScript.dataset; // whether the site holds the program itself
  const pending = new Map();

  /** The data of a name, such as `index` or `request/qwen2.5-vl-7b/l40s`. */
  const load = (name) => {
    if (name in atlas.data) return Promise.resolve(atlas.data[name]);
    if (!pending.has(name)) {
      pending.set(name, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = new URL(`answers/${name}.js`, root);
        script.onload = () => resolve(atlas.data[name]);
        script.onerror = () => {
          pending.delete(name);
          reject(new Error(`${name}.js cannot be loaded`));
        };
        document.head.append(script);
      }));
    }
    return pending.get(name);
  };

  atlas.data ??= {};
  Object.assign(atlas, { root, python, load });
}
