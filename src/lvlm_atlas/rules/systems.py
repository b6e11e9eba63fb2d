"""Serving systems are filed among serving systems, and their transfers are written in known symbols."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.rules.rule import Finding, rule
from lvlm_atlas.rules.sample import SYSTEM
from lvlm_atlas.schema.expression import names_in
from lvlm_atlas.schema.system import System
from lvlm_atlas.schema.vocabulary import FamilyTerm


@rule(
    id="unknown-symbol-in-transfer",
    message="{expression!r} uses {name!r}, which is no symbol of the taxonomy",
    repair="{hint}",
    why="Nobody could compute how many bytes a request moves.",
    example=lambda files: files[SYSTEM]["communication"][0].update(byte="N_v * width"),
)
def unknown_symbol_in_transfer(inspection: Inspection) -> Iterator[Finding]:
    """Bytes of transfers. Silent while the symbols cannot be read."""
    vocabulary = inspection.atlas.vocabularies.get("symbol")
    if vocabulary is None:
        return
    symbols = [term.id for term in vocabulary.terms if not term.gone]
    for path, system in inspection.of(System):
        for index, transfer in enumerate(system.communication):
            for name in sorted(names_in(transfer.byte) - {*symbols} if isinstance(transfer.byte, str) else ()):
                words = {"expression": transfer.byte, "name": name, "hint": suggestion(name, symbols)}
                yield Finding(path=path, loc=("communication", index, "byte"), words=words)


@rule(
    id="system-of-no-serving-family",
    message="family {family!r} belongs to stage {stage!r}, not to serving",
    repair="choose a family of the stage serving; `lvlm-atlas terms family` lists them",
    why="What schedules requests would be counted among the techniques of a stage.",
    example=lambda files: files[SYSTEM].update(family="kv-compression"),
)
def system_of_no_serving_family(inspection: Inspection) -> Iterator[Finding]:
    """Serving systems. Silent where the family is unknown, which another rule tells."""
    for path, system in inspection.of(System):
        if system.family is None:
            continue
        try:
            term = inspection.atlas.term("family", system.family)
            root = inspection.atlas.term("family", term.parent or term.id)
        except AtlasError:
            continue
        if isinstance(root, FamilyTerm) and root.stage != "serving":
            yield Finding(path=path, loc=("family",), words={"family": system.family, "stage": root.stage})
