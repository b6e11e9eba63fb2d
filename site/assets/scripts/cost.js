/* What a stack costs, read from the short numbers in which the build writes it (site/answers/figures.py). */
"use strict";
{
  const atlas = (window.lvlmAtlas ??= {});

  const base = (text) => {
    const [encoding, prefilling, decoding, ttft, tpot, memory, share] = text.split(",").map(Number);
    return { encoding, prefilling, decoding, ttft, tpot, memory, share, total: encoding + prefilling + decoding };
  };

  /** A cost; what is not written is as without techniques, or follows from the times of the stages. */
  const read = (text, before) => {
    const cells = text.split(",");
    const given = (at, otherwise) => (cells[at] ? Number(cells[at]) : otherwise);
    const encoding = given(0, before.encoding);
    const prefilling = given(1, before.prefilling);
    const decoding = given(2, before.decoding);
    const first = before.prefilling ? (before.ttft - before.encoding) / before.prefilling : 0;
    const ttft = given(3, encoding + prefilling * first);
    const tpot = given(4, before.decoding ? (before.tpot * decoding) / before.decoding : 0);
    const memory = given(5, before.memory);
    const share = given(6, before.share);
    return { encoding, prefilling, decoding, ttft, tpot, memory, share, total: encoding + prefilling + decoding };
  };

  const atOnce = (cost) => (cost.share ? atlas.numbers.number(Math.floor(1 / cost.share)) : "∞");

  atlas.cost = { base, read, atOnce };
}
