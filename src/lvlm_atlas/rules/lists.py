"""Published lists name each work once in a section, by the id that its entry has now."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.rules.edit import present_id
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.rules.sample import ALPHA, LIST
from lvlm_atlas.schema.survey_list import SurveyList


def _rename_alpha(files: Files) -> None:
    renamed = ALPHA.replace("alpha.yaml", "theta.yaml")
    files[renamed] = {"id": "theta", "moved": "alpha"}
    files[LIST]["sections"][0]["works"][0]["technique"] = "theta"


@rule(
    id="listed-under-former-id",
    message="{id!r} is a former id of {new}",
    repair="write the present id",
    why="The work would be counted as missing though it has an entry.",
    example=_rename_alpha,
    fix=present_id,
)
def listed_under_former_id(inspection: Inspection) -> Iterator[Finding]:
    """Ids of the works of every list."""
    for path, list_ in inspection.of(SurveyList):
        for section, part in enumerate(list_.sections):
            for index, work in enumerate(part.works):
                if new := inspection.atlas.redirects.get(work.technique):
                    loc = ("sections", section, "works", index, "technique")
                    yield Finding(path=path, loc=loc, words={"id": work.technique, "new": ", ".join(new)})


@rule(
    id="listed-twice",
    message="{id!r} stands twice under one heading",
    repair="remove one",
    why="The page would show the work twice.",
    example=lambda files: files[LIST]["sections"][0]["works"].append({"name": "Alpha again", "technique": "alpha"}),
)
def listed_twice(inspection: Inspection) -> Iterator[Finding]:
    """Works of each section."""
    for path, list_ in inspection.of(SurveyList):
        for section, part in enumerate(list_.sections):
            ids = [work.technique for work in part.works]
            for index, id_ in enumerate(ids):
                if id_ in ids[:index]:
                    yield Finding(path=path, loc=("sections", section, "works", index), words={"id": id_})
