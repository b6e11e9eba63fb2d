"""Passes of the target before the LLM, on requests of a technique's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm import LVLM, Request, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import Frames
from lvlm_atlas.reference.lvlm.technique import Run

PRESETS = ("tiny", "tiny-window", "tiny-deepstack")
YES = 3


def alone(request: Request, frame: int) -> Request:
    """One frame and the text."""
    return request.keep_frames(torch.tensor([frame]))


@dataclass(frozen=True)
class AskTheModel(Technique):
    """Keeps the two frames about which the model itself says yes most, asked one by one."""

    acts_at: ClassVar = ("frames",)

    def begin(self, run: Run) -> Any:
        return Asking(run)


@dataclass
class Asking:
    run: Run

    def select_frames(self, at: Frames) -> Tensor:
        frames = range(len(at.request.frames_F3HW))
        scores = [float(self.run.score(alone(at.request, frame)).logits_C[YES]) for frame in frames]
        return torch.tensor(scores).topk(2).indices.sort().values


@pytest.mark.parametrize("preset", PRESETS)
def test_a_frame_selector_can_ask_the_model_that_answers(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=3)
    result = lvlm.run(request, [AskTheModel()])
    yes = [float(lvlm.run(alone(request, frame)).logits_NC[0, YES]) for frame in range(4)]
    best = sorted(sorted(range(4), key=lambda frame: -yes[frame])[:2])
    assert result.trace.frame_index.tolist() == best
    plain = lvlm.run(request.keep_frames(torch.tensor(best)))
    torch.testing.assert_close(result.logits_NC, plain.logits_NC)


def test_what_the_scoring_cost_is_counted_apart(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=3)
    trace = lvlm.run(request, [AskTheModel()]).trace
    plain = lvlm.run(request.keep_frames(trace.frame_index)).trace
    assert len(trace.scoring) == 4
    for each in trace.scoring:
        assert (each.frames, each.vision_tokens, each.llm_tokens) == (1, 64, [80] * 4)
        assert each.encoder_tokens == [65] * 4
        assert each.score_entries == [4 * 80 * 81 // 2] * 4
    assert plain.scoring == []
    same = replace(trace, scoring=[], frames_in=2, frame_index=None, kept=[], kv_index=[])
    assert same == replace(plain, frame_index=None, kept=[], kv_index=[])
    assert isinstance(trace, Trace)


def test_the_scoring_of_several_rounds_adds_up(device: str) -> None:
    lvlm = LVLM.random(device=device)
    one, two = (
        lvlm.run(random_request(lvlm.config, frames=frames, max_new_tokens=1), [AskTheModel()]).trace
        for frames in (2, 3)
    )
    total = Trace.total([one, two])
    assert total.scoring == [*one.scoring, *two.scoring]
    assert len(total.scoring) == 5
