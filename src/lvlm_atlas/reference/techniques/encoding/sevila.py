"""SeViLA: the model is asked about each frame on its own, and the frames to which it says yes most are kept.

Paper: yu2023sevila; code: Yui010206/SeViLA, lavis/models/sevila_models/sevila.py (`generate`, task `qa_vid`),
lavis/datasets/data_utils.py (`load_video`).

Symbols: n_frms → candidates, frame_num → max_frames (K), yes_id → yes_token, loc_yes → score_C.

Departs:
1. The localizer is the model that answers; in the code it is a second Q-Former, trained on moments and on what the
   answerer gets right, in front of the same frozen Flan-T5, so that the frames are encoded once for both.
2. The localizer's question is `question`, token ids that go behind each frame's prompt; by default there are none, and
   the first token of an answer to the prompt itself is scored.
3. Borders of the stretches that candidates come from are worked out in whole numbers, not in floating point.
4. Of equal scores the earlier frame is kept; the code leaves that to the backend.
5. Where all candidates are kept none is scored.

F frames, C candidates, K kept, T tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.lvlm.contexts import Frames
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.ops.stretches import borders
from lvlm_atlas.reference.refusal import Refusal

Score = Literal["logit", "probability"]
"""What is compared between frames: the raw logit of the token, or its share after softmax over the vocabulary."""


def evenly_spaced(total: int, candidates: int) -> Tensor:
    """The frame (C,) in the middle of each of C = min(`candidates`, `total`) stretches: the mean of its two borders."""
    border = borders(total, min(candidates, total))
    return (border[:-1] + border[1:]) // 2


def yes_score(logit_CT: Tensor, yes_token: int, score: Score = "logit") -> Tensor:
    """How much the model says yes to each frame (C,), from the logits of its first token."""
    return (logit_CT if score == "logit" else logit_CT.softmax(dim=-1))[:, yes_token]


@dataclass(frozen=True)
class SeViLA(Technique):
    """At `frames`: keeps the `max_frames` of at most `candidates` frames to which the model says yes most.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    max_frames: int = 4
    candidates: int = 32
    yes_token: int = 4273
    score: Score = "logit"
    question: tuple[int, ...] | None = None
    """Token ids that ask whether a frame helps, behind the prompt; None asks the prompt itself."""

    acts_at: ClassVar = ("frames",)
    needs: ClassVar = ("training-data",)

    def __post_init__(self) -> None:
        for name, least in (("max_frames", 1), ("candidates", 1), ("yes_token", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.score not in ("logit", "probability"):
            raise ValueError(f"score must be logit or probability, got {self.score!r}")

    def begin(self, run: Run) -> Localizing:
        """What asks in a run.

        Raises:
            Refusal: the vocabulary has no such token.
        """
        words = run.config.text.vocab_size
        if self.yes_token >= words:
            raise Refusal(f"yes_token must be one of {words} tokens, got {self.yes_token}; name the model's own yes")
        return Localizing(self, run)


@dataclass(frozen=True)
class Localizing:
    """The localizer in a run."""

    setting: SeViLA
    run: Run

    def select_frames(self, at: Frames) -> Tensor:
        """Indices (K,) of the frames to keep, ascending."""
        setting = self.setting
        candidate_C = evenly_spaced(len(at.request.frames_F3HW), setting.candidates)
        if len(candidate_C) <= setting.max_frames:
            return candidate_C  # nothing to choose, so nobody to ask
        alone = [self.about(at.request, frame) for frame in candidate_C.tolist()]
        logit_CT = torch.stack([self.run.score(request).logits_C for request in alone])
        score_C = yes_score(logit_CT.float(), setting.yes_token, setting.score).cpu()
        return candidate_C[top_places(score_C, setting.max_frames)]

    def about(self, request: Request, frame: int) -> Request:
        """The request about one frame, with the localizer's question behind it."""
        alone = request.keep_frames(torch.tensor([frame]))
        question_N = torch.tensor(self.setting.question or (), dtype=alone.prompt_N.dtype)
        return replace(alone, prompt_N=torch.cat([alone.prompt_N, question_N]))
