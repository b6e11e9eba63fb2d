"""Techniques made from their entries: calibrated where they need it, once a model."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch

from lvlm_atlas.lab.built import SAMPLES, built, forget, samples
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.lvlm import LVLM, Technique
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV


@dataclass(frozen=True)
class Fitted(Technique):
    factor: float = 1.0
    calibration: tuple[int, ...] | None = None
    acts_at: ClassVar = ("stop",)
    needs: ClassVar = ("calibration-samples",)
    fits: ClassVar[list[float]] = []

    def calibrate(self, lvlm: Target, samples: Seq[Request]) -> Self:
        self.fits.append(self.factor)
        return replace(self, calibration=tuple(len(each.frames_F3HW) for each in samples))

    def stop(self, at: Any) -> bool:
        return False


def test_what_needs_samples_is_calibrated_once_for_each_model_and_setting() -> None:
    Fitted.fits.clear()
    forget()
    one, two = LVLM.random(), LVLM.random(seed=1)
    name = f"{__name__}:Fitted"
    for lvlm, factor in [(one, 1.0), (one, 1.0), (two, 1.0), (one, 2.0)]:
        assert built(name, {"factor": factor}, lvlm).calibration is not None  # type: ignore[attr-defined]
    assert Fitted.fits == [1.0, 1.0, 2.0]
    forget()
    built(name, {}, one)
    assert Fitted.fits == [1.0, 1.0, 2.0, 1.0]


def test_others_are_made_as_they_are() -> None:
    reference = "lvlm_atlas.reference.techniques.prefilling.fastv:FastV"
    assert built(reference, {"layer": 1}, LVLM.random()) == FastV(layer=1)


def test_samples_are_the_same_for_a_model_and_differ_among_themselves() -> None:
    lvlm = LVLM.random()
    first, again = samples(lvlm), samples(lvlm)
    assert len(first) == SAMPLES
    assert all(torch.equal(a.prompt_N, b.prompt_N) for a, b in zip(first, again, strict=True))
    assert len({len(each.prompt_N) for each in first}) == SAMPLES
