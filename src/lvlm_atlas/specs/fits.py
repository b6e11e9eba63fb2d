"""Whether a technique can run on a model with a request, as far as their records decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.schema.technique import Technique

_UNMET: Mapping[str, Callable[[Model], str | None]] = {
    "cls-token": lambda model: None if model.encoder.class_token else "its encoder has no class token",
    "modality-mask": lambda model: "its sequence holds no vision tokens" if model.llm.cross_layers else None,
}
"""Why a model cannot meet a need; what is not here depends on kernels, drafts or data, which no record tells."""


_PLURAL = {"image": "images", "video": "videos"}


def _joined(modalities: Iterable[str]) -> str:
    return " and ".join(_PLURAL.get(each, each) for each in modalities)


def problem(technique: Technique, model: Model, workload: Workload) -> str | None:
    """Why a technique cannot run on a model with a request, as a clause; None if nothing is known against it."""
    seen = [name for name, there in (("image", workload.images), ("video", workload.videos)) if there] or ["text"]
    if missing := [name for name in seen if name not in technique.modality]:
        return f"is for {_joined(technique.modality)}, but the request has {_joined(missing)}"
    for need in technique.needs:
        if need in _UNMET and (why := _UNMET[need](model)):
            return f"needs `{need}`, but {model.name} cannot give it: {why}"
    if model.adapter.merge > 1 and any(effect.quantity == "encoder.tokens" for effect in technique.effects):
        return (
            f"drops patches inside the encoder, but {model.name} joins {model.adapter.merge} neighbours of their grid"
        )
    if model.llm.cross_layers and any(effect.quantity == "llm.vision-tokens" for effect in technique.effects):
        return f"drops vision tokens between LLM layers, but {model.name} has none in its sequence"
    return None
