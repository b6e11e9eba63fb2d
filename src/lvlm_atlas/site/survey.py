"""The page that holds the survey's numbers against the engine."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.atlas.shelves import UnknownIdError
from lvlm_atlas.site.content import Content, Page
from lvlm_atlas.site.routes import FIXED
from lvlm_atlas.survey import survey_numbers


def survey_page(content: Content) -> Iterator[Page]:
    """The page, or none where an atlas of somebody else lacks a model or device that the claims are about."""
    try:
        claims = survey_numbers(content.atlas)
    except UnknownIdError:
        return
    yield Page(
        path=FIXED["survey"], title="The survey's numbers", template="survey-numbers.md", hide=("navigation",),
        description="Each number that the survey prints, what the engine gives for it, and under which assumptions.",
        context={"claims": claims},
    )  # fmt: skip
