"""What the claims are held against: models and devices of the catalog, through the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.stage import Stage
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.workload import Image, Video, Workload
from lvlm_atlas.specs.records import device_spec, model_spec

GB = 1e9
FUSED, IN_MEMORY = Deployment(), Deployment(attention="materialised")


@dataclass(frozen=True)
class Ground:
    """Estimates by id, without techniques unless given, one token of answer unless a step is asked for."""

    atlas: Atlas

    def model(self, id_: str) -> Model:
        """A model of the catalog."""
        return model_spec(self.atlas.model(id_))

    def device(self, id_: str) -> Device:
        """A device of the catalog."""
        return device_spec(self.atlas.device(id_))

    def visual(self, model: Model, content: Image | Video, deployment: Deployment = FUSED) -> Estimate:
        """Visual input alone."""
        parts = {"images": (content,)} if isinstance(content, Image) else {"videos": (content,)}
        return self._estimate(model, "a100-sxm-80", Workload(**parts, text_tokens=0, output_tokens=1), deployment)

    def text(self, model: Model, tokens: int, deployment: Deployment = FUSED) -> Estimate:
        """Text alone."""
        return self._estimate(model, "a100-sxm-80", Workload(text_tokens=tokens, output_tokens=1), deployment)

    def prefill(self, model: Model, tokens: int, deployment: Deployment = FUSED) -> Stage:
        """The pass over a prompt of so many tokens, on the device of the survey's roofline."""
        return self.text(model, tokens, deployment).stages["prefilling"]

    def step(
        self, model: Model, device: str, cached: int, deployment: Deployment = FUSED, stack: Iterable[Applied] = ()
    ) -> Estimate:
        """One decoding step with so many entries in the cache, its own among them; two at the least."""
        return self._estimate(
            model, device, Workload(text_tokens=max(1, cached - 1), output_tokens=2), deployment, stack
        )

    def _estimate(
        self, model: Model, device: str, work: Workload, deployment: Deployment, stack: Iterable[Applied] = ()
    ) -> Estimate:
        return estimate(model, self.device(device), work, deployment, tuple(stack))


def works(stage: Stage, wanted: Callable[[Work], bool]) -> list[Work]:
    """What a stage does, of operators so chosen."""
    return [each.work for each in stage.operators if wanted(each.work)]


def flop(chosen: Iterable[Work]) -> float:
    """Their operations."""
    return sum(each.flop for each in chosen)


def byte(chosen: Iterable[Work]) -> float:
    """Their traffic."""
    return sum(each.byte for each in chosen)


def weight_byte(chosen: Iterable[Work]) -> float:
    """The part of their traffic that is weights."""
    return sum(each.weight_byte for each in chosen)


def with_image_params(model: Model, **params: float) -> Model:
    """The model with other constants of its rule for images."""
    rule = model.tokens
    return replace(model, tokens=replace(rule, image_params={**rule.image_params, **params}))


def with_video_params(model: Model, **params: float) -> Model:
    """The model with other constants of its rule for videos."""
    rule = model.tokens
    return replace(model, tokens=replace(rule, video_params={**rule.video_params, **params}))
