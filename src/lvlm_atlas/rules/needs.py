"""What a technique needs covers what it changes."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.rules.rule import Finding, rule
from lvlm_atlas.rules.sample import ALPHA
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import NeedTerm


@rule(
    id="effect-without-need",
    message="the effect on {quantity!r} needs {need!r}, which `needs` leaves out",
    repair="add {need} to `needs`",
    why="Planner and reference would let it run on models that cannot carry it.",
    example=lambda files: files[ALPHA]["needs"].remove("vision-in-sequence"),
)
def effect_without_need(inspection: Inspection) -> Iterator[Finding]:
    """Effects on quantities that only who has a certain need can change."""
    vocabulary = inspection.atlas.vocabularies.get("need")
    needs = [term for term in (vocabulary.terms if vocabulary else ()) if isinstance(term, NeedTerm)]
    for path, technique in inspection.of(Technique):
        for index, effect in enumerate(technique.effects):
            for term in needs:
                if effect.quantity in term.follows_from and term.id not in technique.needs:
                    words = {"quantity": effect.quantity, "need": term.id}
                    yield Finding(path=path, loc=("effects", index, "quantity"), words=words)
