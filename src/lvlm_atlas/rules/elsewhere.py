"""What an entry says of other places adds to what the entry says itself."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.rules.rule import Finding, rule
from lvlm_atlas.rules.sample import ALPHA
from lvlm_atlas.schema.technique import Technique


@rule(
    id="also-in-repeats-family",
    message="{family!r} is the entry's own family",
    repair="name the other place, or leave it out",
    why="A list of a family's techniques would show the entry twice.",
    example=lambda files: files[ALPHA].update(also_in=[{"family": "token-pruning.by-attention"}]),
)
def also_in_repeats_family(inspection: Inspection) -> Iterator[Finding]:
    """Places of `also_in`."""
    for path, technique in inspection.of(Technique):
        for index, place in enumerate(technique.also_in):
            if place.family == technique.family:
                yield Finding(path=path, loc=("also_in", index, "family"), words={"family": place.family})
