/* Sections side by side: those in .la-tabs become tabs. Without scripts, and on paper, they stand one below the other. */
document.querySelectorAll(".la-tabs").forEach((box) => {
  const panels = [...box.querySelectorAll(":scope > section")];
  const list = document.createElement("div");
  list.className = "la-tabs__list";
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", box.dataset.label);
  const tabs = panels.map((panel, at) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.id = `${panel.id}-tab`;
    tab.textContent = panel.dataset.label;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", () => choose(at));
    tab.addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (step) choose((at + step + tabs.length) % tabs.length).focus();
    });
    return tab;
  });
  const choose = (chosen) => {
    panels.forEach((panel, at) => {
      panel.classList.toggle("la-closed", at !== chosen);
      tabs[at].setAttribute("aria-selected", String(at === chosen));
      tabs[at].tabIndex = at === chosen ? 0 : -1;
    });
    return tabs[chosen];
  };
  const asked = () => {
    const at = panels.findIndex((panel) => `#${panel.id}` === location.hash);
    if (at >= 0) choose(at).scrollIntoView();
  };
  list.append(...tabs);
  box.prepend(list);
  const opened = panels.findIndex((panel) => !panel.hasAttribute("data-empty"));
  choose(Math.max(0, opened));
  addEventListener("hashchange", asked);
  asked();
});
