/* Whether two techniques get along, and what is said of them. Unknown is never shown as fine. */
"use strict";
{
  const atlas = (window.lvlmAtlas ??= {});
  const { element, linked } = atlas;
  const WORDS = { w: "works", b: "breaks", u: "unknown" };

  /** The verdict of two techniques by their numbers: `w`, `b` or `u`. */
  const of = (pairs, one, two) => pairs[one][two];

  const badge = (verdict) =>
    element("span", { class: `la-badge la-verdict--${WORDS[verdict]}` }, WORDS[verdict]);

  /** The statements about the technique of a card and another one, from the card's side. */
  const statements = (index, card, other) => {
    const edges = card.edges[other] ?? [];
    if (!edges.length) return element("p", {}, "No source and no rule says anything of the two.");
    return element("ul", {}, edges.map(([reads, reason, evidence, source]) =>
      element("li", {}, `${reads} ${index.techniques[other].name}: ${reason} `,
        element("span", { class: "la-count" }, `[${evidence}: ${source}]`))));
  };

  atlas.verdicts = { WORDS, of, badge, statements };
}
