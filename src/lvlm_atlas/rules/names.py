"""Ids, names and aliases are each taken once, and files lie where their contents say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.records import TECHNIQUES
from lvlm_atlas.atlas.shelves import folded
from lvlm_atlas.atlas.yaml_subset import Loc
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.rules.edit import no_second_item
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.rules.sample import ALPHA, BETA
from lvlm_atlas.schema.calibration import Calibration
from lvlm_atlas.schema.curve import Curve
from lvlm_atlas.schema.hardware import Hardware
from lvlm_atlas.schema.measurement import Measurement
from lvlm_atlas.schema.model import Model
from lvlm_atlas.schema.runtime import Runtime
from lvlm_atlas.schema.stack import MeasuredStack
from lvlm_atlas.schema.system import System
from lvlm_atlas.schema.technique import Moved, Relief, Split, Technique
from lvlm_atlas.schema.timing import Timings
from lvlm_atlas.schema.traffic import Traffic
from lvlm_atlas.schema.vocabulary import FamilyTerm, Term
from lvlm_atlas.schema.workload import Workload

_Own = (
    Technique
    | Moved
    | Split
    | Measurement
    | Model
    | Hardware
    | Workload
    | System
    | Runtime
    | Timings
    | Calibration
    | Traffic
    | Curve
    | MeasuredStack
)
"""Records with a file of their own."""
HOUSE = "lvlm_atlas.reference.techniques"
"""The package of this project's references."""


@rule(
    id="id-is-file-name",
    message="the id is {id!r}, the file's name says {stem!r}",
    repair="rename the file to {id}.yaml, or correct the id",
    why="A reader finds the file of an id without searching.",
    example=lambda files: files.update({ALPHA.replace("alpha", "alfa"): files.pop(ALPHA)}),
)
def id_is_file_name(inspection: Inspection) -> Iterator[Finding]:
    """Every record of the catalog."""
    for path, record in inspection.records.items():
        if isinstance(record, _Own) and record.id != path.stem:
            yield Finding(path=path, loc=("id",), words={"id": record.id, "stem": path.stem})


@rule(
    id="folder-is-stage-and-family",
    message="the file lies in {folder}",
    repair="move it to {wanted}",
    why="The folder is the list of a family's techniques; no other is kept.",
    example=lambda files: files.update({"catalog/techniques/alpha.yaml": files.pop(ALPHA)}),
)
def folder_is_stage_and_family(inspection: Inspection) -> Iterator[Finding]:
    """Techniques. Silent where stage or family are unknown, which other rules tell."""
    for path, technique in inspection.of(Technique):
        places = _stage_and_family(inspection, technique)
        if places is None:
            continue
        wanted = TECHNIQUES / places[0].id / places[1].id
        if path.parent != wanted:
            yield Finding(path=path, words={"folder": path.parent, "wanted": f"{wanted}/"})


def _wrong_stage(files: Files) -> None:
    data = files.pop(ALPHA)
    data["stage"] = "decoding"
    files["catalog/techniques/decoding/token-pruning/alpha.yaml"] = data


@rule(
    id="family-of-stage",
    message="family {family!r} belongs to stage {wanted!r}, not {stage!r}",
    repair="set stage: {wanted}, or choose a family of {stage}",
    why="An entry filed under another stage than its family breaks every table by stage.",
    example=_wrong_stage,
)
def family_of_stage(inspection: Inspection) -> Iterator[Finding]:
    """Techniques."""
    for path, technique in inspection.of(Technique):
        places = _stage_and_family(inspection, technique)
        if places is None:
            continue
        stage, family = places
        if family.stage is not None and family.stage != stage.id:
            words = {"family": family.id, "wanted": family.stage, "stage": stage.id}
            yield Finding(path=path, loc=("stage",), words=words)


def house_module(technique: Technique) -> str:
    """Where a reference of this package lies."""
    return f"{HOUSE}.{technique.stage}.{technique.id.replace('-', '_').replace('.', '_')}"


def _elsewhere(files: Files) -> None:
    files[ALPHA].update(status="implemented", reference="lvlm_atlas.reference.techniques.alpha:Alpha")


@rule(
    id="reference-in-its-place",
    message="the reference lies in {module}",
    repair="move it to {wanted}, or name a package of your own",
    why="Pages, tests and readers find a reference of this package by its stage and id.",
    example=_elsewhere,
)
def reference_in_its_place(inspection: Inspection) -> Iterator[Finding]:
    """References inside this package; those of other packages lie where their owners like."""
    for path, technique in inspection.of(Technique):
        module = (technique.reference or "").partition(":")[0]
        wanted = house_module(technique)
        if module.partition(".")[0] == HOUSE.partition(".")[0] and module != wanted:
            yield Finding(path=path, loc=("reference",), words={"module": module, "wanted": wanted})


def _same_id(files: Files) -> None:
    files[ALPHA.replace("alpha.yaml", "beta.yaml")] = {"id": "beta", "moved": "alpha"}


@rule(
    id="duplicate-id",
    message="{id!r} is already the id of {other}",
    repair="rename one of the two",
    why="An id means one thing for ever.",
    example=_same_id,
)
def duplicate_id(inspection: Inspection) -> Iterator[Finding]:
    """Techniques and redirects among themselves, and each other kind of record."""
    first: dict[tuple[str, str], Path] = {}
    for path, record in inspection.records.items():
        if isinstance(record, _Own):
            other = first.setdefault((path.parts[1], record.id), path)
            if other != path:
                yield Finding(path=path, loc=("id",), words={"id": record.id, "other": other})


@rule(
    id="ambiguous-name",
    message="{word!r} also names {other}",
    repair="choose another name or alias for one of the two",
    why="A search for the word would find one of the two by chance.",
    example=lambda files: files[BETA].update(aliases=["alpha-PRUNING"]),
)
def ambiguous_name(inspection: Inspection) -> Iterator[Finding]:
    """Ids, names and aliases of techniques, models, devices and systems, compared as the atlas looks them up."""
    owners: dict[tuple[str, str], str] = {}
    words: list[tuple[Path, Loc, str, str]] = []
    for path, record in inspection.records.items():
        if isinstance(record, Technique | Moved | Split | Model | Hardware | System):
            owners.setdefault((path.parts[1], folded(record.id)), record.id)
        if isinstance(record, Technique | Model | Hardware | System):
            words.append((path, ("name",), record.name, record.id))
            words += [(path, ("aliases", i), alias, record.id) for i, alias in enumerate(record.aliases)]
        if isinstance(record, Model):
            words += [(path, ("hf_id",), word, record.id) for word in (record.hf_id, record.hf_id.partition("/")[2])]
    for path, loc, word, id_ in words:
        owner = owners.setdefault((path.parts[1], folded(word)), id_)
        # The old name of a renamed technique is its name still.
        if owner != id_ and id_ not in inspection.atlas.redirects.get(owner, ()):
            yield Finding(path=path, loc=loc, words={"word": word, "other": owner})


_LISTS = (
    "acts_at", "modality", "mechanism", "signals", "needs", "withholds", "also", "relieves", "aliases", "trials",
    "split",
)  # fmt: skip


@rule(
    id="repeated-item",
    message="{item} stands twice in `{key}`",
    repair="remove one",
    why="Counts over the catalog would count it twice.",
    example=lambda files: files[ALPHA]["mechanism"].append("pruning"),
    fix=no_second_item,
)
def repeated_item(inspection: Inspection) -> Iterator[Finding]:
    """Lists of ids, names and settings in records; of names also one that is the record's own."""
    for path, record in inspection.records.items():
        for key in _LISTS if isinstance(record, _Own) else ():
            items = getattr(record, key, ())
            before = [getattr(record, "name", None)] if key == "aliases" else []
            for index, item in enumerate(items):
                if item in before:
                    shown = f"{item.stage}, {item.bound}" if isinstance(item, Relief) else item
                    yield Finding(path=path, loc=(key, index), words={"item": repr(shown), "key": key})
                before.append(item)


def _stage_and_family(inspection: Inspection, technique: Technique) -> tuple[Term, FamilyTerm] | None:
    """The live stage and root family of a technique, or None where either is unknown."""
    atlas = inspection.atlas
    try:
        stage, family = atlas.term("stage", technique.stage), atlas.term("family", atlas.root_family(technique))
    except AtlasError:
        return None
    return (stage, family) if isinstance(family, FamilyTerm) else None
