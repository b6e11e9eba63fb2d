"""Answers that take several runs, and techniques that are calibrated before they run."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.request import Request, Result
from lvlm_atlas.reference.lvlm import LVLM, StackError, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import Answer, LlmInput, Pixels
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV


@dataclass(frozen=True)
class FewThenAll(Technique):
    """Asks with the first frame alone, then with all."""

    acts_at: ClassVar = ("answer",)

    def answer(self, at: Answer) -> Result:
        request = at.run.request
        at.ask(replace(request.keep_frames(torch.tensor([0])), max_new_tokens=3))
        return at.ask(request)


class Counting(Technique):
    """Counts in its own state how often it acts in a run."""

    acts_at = ("llm-input",)
    counts: ClassVar[list[int]] = []

    def begin(self, run: Run) -> Any:
        counts = self.counts

        class Acting:
            calls = 0

            def llm_input(self, at: LlmInput) -> Any:
                self.calls += 1
                counts.append(self.calls)
                return at.sequence

        return Acting()


def test_the_answer_is_that_of_the_last_run_and_all_are_told(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=8)
    plain, result = lvlm.run(request), lvlm.run(request, [FewThenAll()])
    few = lvlm.run(replace(request.keep_frames(torch.tensor([0])), max_new_tokens=3))
    assert torch.equal(plain.tokens_N, result.tokens_N)
    assert [each.result.tokens_N.tolist() for each in result.rounds] == [few.tokens_N.tolist(), plain.tokens_N.tolist()]
    assert [len(each.request.frames_F3HW) for each in result.rounds] == [1, 4]
    assert plain.rounds == ()


def test_work_adds_up_and_the_cache_is_the_last_ones(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=8)
    stack = [FastV(layer=1, keep_ratio=0.5), SpeculativeSampling(gamma=2)]
    trace = lvlm.run(request, [FewThenAll(), *stack]).trace
    one = lvlm.run(replace(request.keep_frames(torch.tensor([0])), max_new_tokens=3), stack).trace
    two = lvlm.run(request, stack).trace
    for name in ("frames", "vision_tokens", "target_passes", "draft_passes", "output_tokens", "probe_entries"):
        assert getattr(trace, name) == getattr(one, name) + getattr(two, name) > 0
    for name in ("llm_tokens", "llm_vision_tokens", "score_entries"):
        assert getattr(trace, name) == [a + b for a, b in zip(getattr(one, name), getattr(two, name), strict=True)]
    assert trace.accepted_lengths == [*one.accepted_lengths, *two.accepted_lengths]
    assert (trace.kv_byte, trace.kv_byte_end) == (two.kv_byte, two.kv_byte_end)
    assert trace.frames_in == 8


def test_a_round_is_counted_as_a_share_of_what_was_asked(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)

    @dataclass(frozen=True)
    class Half(Technique):
        acts_at: ClassVar = ("answer",)

        def answer(self, at: Answer) -> Result:
            frames = torch.nn.functional.interpolate(at.run.request.frames_F3HW, scale_factor=0.5)
            return at.ask(replace(at.run.request, frames_F3HW=frames))

    request = random_request(lvlm.config, frames=2)
    (only,) = lvlm.run(request, [Half()]).rounds
    assert only.result.trace.pixels / only.result.trace.pixels_in == 0.25


def test_every_run_begins_the_other_techniques_anew(device: str) -> None:
    Counting.counts.clear()
    lvlm = LVLM.random(device=device)
    lvlm.run(random_request(lvlm.config, frames=2, max_new_tokens=2), [Counting(), FewThenAll()])
    assert Counting.counts == [1, 1]


def test_an_answer_takes_one_run_at_least(device: str) -> None:
    class Silent(Technique):
        acts_at = ("answer",)

        def answer(self, at: Answer) -> Result:
            return Result(tokens_N=torch.tensor([1]), logits_NC=torch.zeros(1, 128), trace=None)  # type: ignore[arg-type]

    lvlm = LVLM.random(device=device)
    with pytest.raises(ValueError, match="answers without asking the model"):
        lvlm.run(random_request(lvlm.config), [Silent()])


def test_two_policies_above_a_run_are_refused() -> None:
    lvlm = LVLM.random()
    with pytest.raises(StackError, match="both own 'answer'"):
        lvlm.run(random_request(lvlm.config), [FewThenAll(), FewThenAll()])


@dataclass(frozen=True)
class Darkens(Technique):
    """Subtracts the mean pixel of its samples."""

    calibration: float | None = None
    acts_at: ClassVar = ("pixels",)
    needs: ClassVar = ("calibration-samples",)

    def calibrate(self, lvlm: Target, samples: Seq[Request]) -> Self:
        return replace(self, calibration=float(torch.stack([each.frames_F3HW.mean() for each in samples]).mean()))

    def resize(self, at: Pixels) -> Tensor:
        assert self.calibration is not None
        return at.frames_F3HW - self.calibration


def test_a_technique_that_must_be_calibrated_does_not_run_before() -> None:
    lvlm = LVLM.random()
    with pytest.raises(ValueError, match=r"Darkens is not calibrated; run what its `calibrate\(lvlm, samples\)`"):
        lvlm.run(random_request(lvlm.config), [Darkens()])


def test_calibration_gives_a_new_setting_and_leaves_the_old_one(device: str) -> None:
    lvlm = LVLM.random(device=device)
    technique = Darkens()
    ready = technique.calibrate(lvlm, [random_request(lvlm.config, seed=seed) for seed in range(2)])
    assert technique.calibration is None
    assert ready.calibration is not None
    request = random_request(lvlm.config)
    assert not torch.equal(lvlm.run(request).logits_NC, lvlm.run(request, [ready]).logits_NC)


def test_others_say_that_they_fit_nothing() -> None:
    with pytest.raises(TypeError, match="FastV fits nothing to a model beforehand"):
        FastV().calibrate(LVLM.random(), [])


def test_what_is_observed_for_calibration_is_every_layers_attention(device: str) -> None:
    lvlm = LVLM.random(device=device)
    prefill = lvlm.observe(random_request(lvlm.config, frames=1))
    assert len(prefill.attention) == 4
    for probe, index in prefill.attention:
        assert probe.rows(slice(-2, None)).shape == (1, 4, 2, 80)
        assert index.shape == (1, 80)
