/* Long lists of words: a field that leaves those which hold what is typed. Without scripts the list is whole. */
document.querySelectorAll("[data-filter]").forEach((place) => {
  const input = document.createElement("input");
  Object.assign(input, { type: "search", placeholder: place.dataset.hint ?? "", className: "la-find__input", autocomplete: "off" });
  input.setAttribute("aria-label", place.dataset.label);
  const status = document.createElement("p");
  status.className = "la-count";
  status.setAttribute("role", "status");
  place.append(input, status);
  const items = [...document.querySelectorAll(place.dataset.filter)].map((head) => {
    const parts = [head];
    while (head.matches("dt") && parts.at(-1).nextElementSibling?.matches("dd")) parts.push(parts.at(-1).nextElementSibling);
    return { parts, text: parts.map((part) => part.textContent.toLowerCase()).join(" ") };
  });
  const lists = new Set(items.map(({ parts }) => parts[0].parentElement));
  input.addEventListener("input", () => {
    const typed = input.value.trim().toLowerCase();
    let shown = 0;
    items.forEach(({ parts, text }) => {
      const fits = text.includes(typed);
      shown += fits ? 1 : 0;
      parts.forEach((part) => { part.hidden = !fits; });
    });
    lists.forEach((list) => { // and the heading of a list that is empty now
      const empty = ![...list.children].some((part) => !part.hidden);
      list.hidden = empty;
      if (list.previousElementSibling?.matches("h2")) list.previousElementSibling.hidden = empty;
    });
    status.textContent = typed ? `${shown} of ${items.length}` : "";
  });
});
