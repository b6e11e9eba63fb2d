"""What helps to choose among techniques: what they share, what tells them apart, and what each is predicted to gain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lvlm_atlas.roofline import units
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.effect import effect_of
from lvlm_atlas.site.estimates import REFERENCE, Case

MEASURES: Mapping[str, Callable[[Estimate], float]] = {
    "First token": lambda estimate: estimate.ttft_s,
    "Output token": lambda estimate: estimate.tpot_s,
    "Cache": lambda estimate: estimate.memory.kv_byte,
}
"""What the gains of a table are in."""
_OF_STAGE = {"encoding": "First token", "prefilling": "First token", "decoding": "Output token"}
_OF_BOUND = {"memory-capacity": "Cache"}


@dataclass(frozen=True)
class Choice:
    """A technique among those one may choose from."""

    technique: Technique
    gains: tuple[str, ...]
    """By measure, as `1.62 ×`; a dash where nothing changes or nothing is predicted."""
    ratios: tuple[float, ...]
    """The same as numbers; 1 where nothing is known."""
    case: Case | None
    """The request, where it is not the usual one."""


@dataclass(frozen=True)
class Trait:
    """A field that tells techniques apart, or that all of them share."""

    name: str
    kind: str
    """Vocabulary of its values."""
    of: Callable[[Technique], tuple[str, ...]]


TRAITS = (
    Trait("Saves by", "mechanism", lambda t: t.mechanism),
    Trait("Decides by", "signal", lambda t: t.signals),
    Trait("Acts at", "position", lambda t: t.acts_at),
    Trait("Training", "training", lambda t: (t.training,)),
)


@dataclass(frozen=True)
class Choices:
    """Techniques in the order of what they gain."""

    rows: tuple[Choice, ...]
    shared: tuple[tuple[Trait, tuple[str, ...]], ...]
    """What all have in common, where there are two or more."""
    apart: tuple[Trait, ...]
    """What differs among them."""
    prompt: bool | None
    """Whether all read the prompt; None if some do."""
    measures: tuple[str, ...]
    """Headings of the gains; none in an atlas that lacks the models or devices to predict with."""


def choices(
    content: Content, techniques: Sequence[Technique], *, stage: str | None = None, bound: str | None = None
) -> Choices:
    """The techniques, those first that gain most in what a stage or a bound decides, else in any of it."""
    measure = _OF_BOUND.get(bound or "") or _OF_STAGE.get(stage or "")
    rows = [_choice(content, technique) for technique in techniques]

    def rank(row: Choice) -> tuple[bool, float, float]:
        """Gains in different requests are not ranked against each other."""
        first = row.ratios[list(MEASURES).index(measure)] if measure else max(row.ratios)
        return row.case is not None, -round(first, 3), -max(row.ratios)

    shared, apart = [], []
    for trait in TRAITS:
        values = {trait.of(t) for t in techniques}
        if len(techniques) > 1 and len(values) == 1:
            if any(values):
                shared.append((trait, next(iter(values))))
        else:
            apart.append(trait)
    aware = {t.query_aware for t in techniques}
    return Choices(
        rows=tuple(sorted(rows, key=rank)), shared=tuple(shared), apart=tuple(apart),
        prompt=next(iter(aware)) if len(aware) == 1 else None,
        measures=tuple(MEASURES) if content.estimates.holds(REFERENCE) else (),
    )  # fmt: skip


def _choice(content: Content, technique: Technique) -> Choice:
    effect = effect_of(content, technique)
    if not (effect.before and effect.after):
        return Choice(technique, ("–",) * len(MEASURES), (1.0,) * len(MEASURES), None)
    pairs = [(of(effect.before), of(effect.after)) for of in MEASURES.values()]
    gains = [units.gain(before, after) for before, after in pairs]
    shown = tuple("–" if gain == units.NO_CHANGE else gain for gain in gains)
    ratios = tuple((before / after if after else math.inf) if before else 1.0 for before, after in pairs)
    return Choice(technique, shown, ratios, None if effect.case == REFERENCE else effect.case)
