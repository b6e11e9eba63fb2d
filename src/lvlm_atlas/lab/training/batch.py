"""Samples as tensors.

B samples, F frames of all samples, T of these or temporal patches, N tokens, P patches of a frame, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lvlm_atlas.lab.photographs.collection import Pixels
from lvlm_atlas.lab.photographs.scene import SIDE, Scene, labels
from lvlm_atlas.lab.tasks.sample import Sample
from lvlm_atlas.lab.tasks.vocabulary import ASK, BEGIN, END, IMAGE, VIDEO, token_ids
from lvlm_atlas.lab.training.shapes import patch_order, vision_tokens
from lvlm_atlas.reference.lvlm.config import Config

UNJUDGED = -100
"""The target of a token that the loss leaves out."""
LEAST_SHARE = 0.25
"""Share of a patch that something must cover for the patch to show it."""


@dataclass(frozen=True)
class Batch:
    """Samples with equally many frames each."""

    ids_BN: Tensor
    """Token ids, a placeholder a vision token, filled up on the right."""
    target_BN: Tensor
    """The token that should follow each; `UNJUDGED` where that is no answer."""
    frames_F3HW: Tensor
    """Normalised pixels, of stills each as often as a patch of the model spans frames."""
    shown_TP: Tensor
    """What each patch shows, an index into `labels()`, in the encoder's order."""
    clip: int = 0
    """Frames of each video; 0: they are stills."""


def normalised(*pictures: Pixels) -> Tensor:
    """Pictures (H, W, 3) as frames (F, 3, H, W), about −2 to 2."""
    stacked = torch.from_numpy(np.stack(pictures))
    return ((stacked.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25).contiguous()


def opening(frames: int, placeholder: str = IMAGE) -> list[str]:
    """What a prompt begins with: a placeholder a frame, each behind its number where there are several pictures."""
    if placeholder == VIDEO:
        return [BEGIN, *[VIDEO] * frames]
    if frames == 1:
        return [BEGIN, placeholder]
    return [BEGIN, *(word for number in range(1, frames + 1) for word in (str(number), placeholder))]


def batch(samples: Sequence[Sample], config: Config, tokens: int | None = None) -> Batch:
    """Samples as a batch.

    Args:
        samples: with equally many frames each, all of videos or all stills.
        config: the model's shapes.
        tokens: vision tokens of a frame, or of the frames that a patch spans; None: all that there are.
    """
    span, marks = config.frames_a_patch, config.placeholders
    video = samples[0].video and len(marks) > 1
    mark = VIDEO if video else IMAGE
    placeholder, repeats = token_ids(mark)[0], vision_tokens(config) if tokens is None else tokens
    rows: list[list[int]] = []
    targets: list[list[int]] = []
    for sample in samples:
        row: list[int] = []
        for id_ in token_ids(*opening(len(sample.frames) // (span if video else 1), mark)):
            row += [id_] * (repeats if id_ == placeholder else 1)
        target = [UNJUDGED] * len(row)
        for turn in sample.turns:
            question, answer = token_ids(*turn.question, ASK), token_ids(*turn.answer, END)
            row += question + answer
            target += [UNJUDGED] * (len(question) - 1) + answer + [UNJUDGED]
        rows.append(row)
        targets.append(target)
    longest, end = max(map(len, rows)), token_ids(END)[0]
    frames = [frame for sample in samples for frame in sample.frames]
    pixels_F3HW = normalised(*(frame.pixels for frame in frames))
    shown_FP = torch.stack([shown(frame, config.vision.patch_size) for frame in frames])[:, patch_order(config)]
    return Batch(
        torch.tensor([row + [end] * (longest - len(row)) for row in rows]),
        torch.tensor([target + [UNJUDGED] * (longest - len(target)) for target in targets]),
        pixels_F3HW if video else pixels_F3HW.repeat_interleave(span, dim=0),
        # Of the frames that a patch spans the one that shows something; a thing is on one frame of a clip.
        shown_FP.unflatten(0, (-1, span)).amax(1) if video else shown_FP,
        len(samples[0].frames) if video else 0,
    )


def shown(scene: Scene, patch: int) -> Tensor:
    """What each patch of a scene shows (P,): what covers most of it, if that covers enough."""
    side, kinds = SIDE // patch, len(labels())
    pixels_Pp = scene.shown.reshape(side, patch, side, patch).swapaxes(1, 2).reshape(side**2, patch**2)
    of_patch_Pp = pixels_Pp + kinds * np.arange(side**2)[:, None]
    count_PK = np.bincount(of_patch_Pp.ravel(), minlength=kinds * side**2).reshape(side**2, kinds)
    count_PK[:, 0] = LEAST_SHARE * patch**2  # nothing in particular
    return torch.from_numpy(count_PK.argmax(-1))
