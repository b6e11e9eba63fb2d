"""What an entry says of other places adds to what the entry says itself."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.rules.sample import ALPHA
from lvlm_atlas.schema.technique import Technique


def _same_stage(files: Files) -> None:
    source = {"paper": "doe2025alpha", "place": "README"}
    files[ALPHA]["listed_in"] = {"heading": "Prefilling", "stage": "prefilling", "source": source}


@rule(
    id="listing-repeats-entry",
    message="`{key}` of the list is the entry's own",
    repair="leave it out; it is given only where the list differs",
    why="Readers take what is given for a difference between the list and the entry.",
    example=_same_stage,
)
def listing_repeats_entry(inspection: Inspection) -> Iterator[Finding]:
    """Stage and training-free flag of `listed_in`."""
    for path, technique in inspection.of(Technique):
        listed = technique.listed_in
        if listed is None:
            continue
        if listed.stage == technique.stage:
            yield Finding(path=path, loc=("listed_in", "stage"), words={"key": "stage"})
        if listed.training_free == (technique.training == "none"):
            yield Finding(path=path, loc=("listed_in", "training_free"), words={"key": "training_free"})


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
