/* A table or listing wider than its page scrolls inside itself: then the keyboard must reach it, and it needs a name. */
const nameOf = (box) => {
  let at = box;
  while (at && !at.matches(".md-typeset")) {
    for (let before = at; before; before = before.previousElementSibling) {
      const heading = before.matches("h1, h2, h3, summary") ? before : null;
      if (heading) return heading.firstChild.textContent.trim();
    }
    at = at.parentElement;
  }
  return document.title;
};
const reachable = (box) => {
  const scrolls = box.scrollWidth > box.clientWidth + 1;
  if (scrolls === box.hasAttribute("tabindex")) return;
  if (scrolls) {
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `Table: ${nameOf(box)}`);
  } else {
    ["tabindex", "role", "aria-label"].forEach((name) => box.removeAttribute(name));
  }
};
const watching = new ResizeObserver((seen) => seen.forEach(({ target }) => reachable(target)));
const watchAll = () => document.querySelectorAll(".md-typeset__scrollwrap, .la-scroll").forEach((box) => watching.observe(box));
watchAll();
addEventListener("load", watchAll);
