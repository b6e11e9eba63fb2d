/* Tables in .la-sortable sort by the column whose head is pressed. Without scripts they stay as they are. */
const UNITS = { k: 1e3, M: 1e6, B: 1e9, ms: 1e-3, "µs": 1e-6, MB: 1e6, GB: 1e9, TB: 1e12, "GB/s": 1e9, "TB/s": 1e12,
  "TFLOP/s": 1e12, "PFLOP/s": 1e15 };
const amount = (cell) => {
  const found = cell.textContent.trim().match(/^([\d,.]+)\s*(\S*)/);
  return found ? Number(found[1].replaceAll(",", "")) * (UNITS[found[2]] ?? 1) : NaN;
};
const compare = (one, two) => {
  const [a, b] = [amount(one), amount(two)];
  if (Number.isNaN(a) || Number.isNaN(b)) {
    return Number.isNaN(a) - Number.isNaN(b) || one.textContent.localeCompare(two.textContent);
  }
  return a - b;
};
document.querySelectorAll(".la-sortable table").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.ariaSort === "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.ariaSort = down ? "descending" : "ascending";
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(a.cells[column], b.cells[column]));
      table.tBodies[0].append(...(down ? rows.reverse() : rows));
    });
  });
});
