/* Numbers as the command line shows them: three digits, with the unit that fits (lvlm_atlas/roofline/units.py). */
"use strict";
{
  const atlas = (window.lvlmAtlas ??= {});
  const TIMES = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]];
  const BYTES = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "bytes"]];

  /** Decimal places as Python rounds them: a number in the middle goes to the even neighbour. */
  const rounded = (value, places) => {
    const text = value.toFixed(places);
    const exact = value.toFixed(Math.min(100, places + 60));
    const tail = exact.slice(exact.indexOf(".") + 1 + places);
    if (!/^50*$/.test(tail)) return text;
    const lower = exact.slice(0, exact.length - tail.length).replace(/\.$/, "");
    return Number(lower.at(-1)) % 2 === 0 ? lower : text;
  };

  const number = (value) => {
    if (value === Infinity) return "∞";
    if (!value) return "0";
    const text = rounded(value, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
    const [whole, part] = text.split(".");
    const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
    return part ? `${grouped}.${part}`.replace(/0+$/, "").replace(/\.$/, "") : grouped;
  };

  const scaled = (value, units) => {
    const [unit, name] = units.find(([size]) => Math.abs(value) >= size * 0.9995 || (!value && size === 1)) ??
      units.at(-1);
    return `${number(value / unit)} ${name}`;
  };

  const seconds = (value) => scaled(value, TIMES);
  const size = (byte) => scaled(byte, BYTES);

  /** How many times less is left, as in `1.53 ×`; below 1 where it became more. */
  const gain = (before, after) => {
    if (before === after || Math.abs(before - after) <= 5e-3 * Math.max(Math.abs(before), Math.abs(after))) {
      return "1.00 ×";
    }
    if (!after) return "none left";
    const times = before / after;
    return times < 10 ? `${rounded(times, 2)} ×` : `${number(times)} ×`;
  };

  atlas.numbers = { number, seconds, size, gain };
}
