/* Each drawing can be saved as a file: what the style sheet gives it is written into it, and its links lead back here. */
const WRITTEN = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight"];
const alone = (svg) => {
  const copy = svg.cloneNode(true);
  const [shown, written] = [svg, copy].map((one) => [one, ...one.querySelectorAll("*")]);
  written.forEach((element, at) => {
    const style = getComputedStyle(shown[at]);
    WRITTEN.forEach((name) => element.setAttribute(name, style.getPropertyValue(name)));
    if (element.matches("a[href]")) element.setAttribute("href", new URL(element.getAttribute("href"), location.href).href);
    element.removeAttribute("class");
  });
  const { width, height } = svg.viewBox.baseVal;
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.style.background = getComputedStyle(document.body).backgroundColor;
  return new XMLSerializer().serializeToString(copy);
};
document.querySelectorAll("figure.la-figure").forEach((figure) => {
  const svg = figure.querySelector("svg");
  if (!svg) return;
  const link = document.createElement("a");
  const page = location.pathname.split("/").pop().replace(/\.html$/, "") || "index";
  link.className = "la-save";
  link.textContent = "Save as SVG";
  link.setAttribute("aria-label", `Save as SVG: ${svg.querySelector("title")?.textContent ?? "this drawing"}`);
  link.download = `${page}-${svg.getAttribute("aria-labelledby")?.replace(/^la-|-title$/g, "") ?? "drawing"}.svg`;
  link.href = "#";
  link.addEventListener("click", () => {
    link.href = URL.createObjectURL(new Blob([alone(svg)], { type: "image/svg+xml" }));
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });
  const words = figure.querySelector("figcaption") ?? figure.appendChild(document.createElement("figcaption"));
  words.append(" ", link);
});
