"""The small model that drafts for another: one that a technique was made with, or one that was given to the model."""

from __future__ import annotations

from typing import cast

from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.modules.kept import given

DRAFT = "draft-model"
"""What a model keeps its draft under."""


def draft_model(own: Target | None, run: Run) -> Target | None:
    """The technique's own draft, else the one given to the model of the run; None lets that draft for itself."""
    return own or cast("Target | None", given(run.target, DRAFT))
