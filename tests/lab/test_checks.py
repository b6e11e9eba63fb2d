"""Each smoke check, against a run that breaks exactly it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lvlm_atlas.lab.checks import CHECKS, Runs
from lvlm_atlas.reference.lvlm import LVLM, Technique, random_request


class Nothing(Technique):
    """Changes nothing."""

    acts_at = ("llm-input",)

    def llm_input(self, at):
        return at.sequence


class DropLast(Technique):
    """Drops the last vision token in layer 1."""

    acts_at = ("llm-layer",)

    def llm_layer(self, at):
        sequence = at.sequence
        if at.layer != 1:
            return sequence
        return sequence.keep_vision(torch.arange(sequence.vision_places().shape[1] - 1)[None])


@pytest.fixture(scope="module")
def runs() -> Runs:
    """Runs that pass every check."""
    lvlm = LVLM.random()
    request = random_request(lvlm.config, frames=1, max_new_tokens=4)
    baseline, pruned = lvlm.run(request), lvlm.run(request, [DropLast()])
    return Runs(request, 128, 1e-4, baseline, pruned, lvlm.run(request, [DropLast()]), lvlm.run(request, [Nothing()]))


def failing(runs: Runs) -> set[str]:
    return {name for name, check in CHECKS.items() if check(runs)}


def test_a_sound_technique_passes_every_check(runs: Runs) -> None:
    assert failing(runs) == set()


def test_more_tokens_than_asked_for_break_the_shapes(runs: Runs) -> None:
    assert failing(replace(runs, request=replace(runs.request, max_new_tokens=3))) == {"shapes"}
    assert failing(replace(runs, vocabulary=127)) == {"shapes"}


def test_a_nan_is_not_finite(runs: Runs) -> None:
    logits = runs.result.logits_NC.clone()
    logits[2, 5] = float("nan")
    broken = replace(runs.result, logits_NC=logits)
    assert "finite" in failing(replace(runs, result=broken, again=broken))


def test_a_second_run_that_differs_in_one_bit_is_not_deterministic(runs: Runs) -> None:
    logits = runs.result.logits_NC.clone()
    logits[0, 0] = torch.nextafter(logits[0, 0], torch.tensor(torch.inf))
    assert failing(replace(runs, again=replace(runs.result, logits_NC=logits))) == {"deterministic"}


def test_a_technique_without_a_neutral_setting_is_not_held_to_one(runs: Runs) -> None:
    assert failing(replace(runs, neutral=None)) == set()


def test_a_neutral_setting_that_changes_the_answer_is_found(runs: Runs) -> None:
    assert failing(replace(runs, neutral=runs.result)) == {"neutral-is-identity"}
    shorter = replace(runs.baseline, tokens_N=runs.baseline.tokens_N[:2], logits_NC=runs.baseline.logits_NC[:2])
    assert failing(replace(runs, neutral=shorter)) == {"neutral-is-identity"}


def test_a_token_chosen_differently_in_a_near_tie_is_no_difference(runs: Runs) -> None:
    tied = runs.baseline.logits_NC.clone()
    first, second = tied[1].topk(2).indices.tolist()
    tied[1, second] = tied[1, first]
    tokens = runs.baseline.tokens_N.clone()
    tokens[1] = second
    baseline = replace(runs.baseline, logits_NC=tied)
    assert failing(replace(runs, baseline=baseline, neutral=replace(baseline, tokens_N=tokens))) == set()


def test_kept_tokens_out_of_order_or_twice_are_found(runs: Runs) -> None:
    kept = [index.clone() for index in runs.result.trace.kept]
    kept[2][0, 3] = kept[2][0, 4]
    broken = replace(runs.result, trace=replace(runs.result.trace, kept=kept))
    assert failing(replace(runs, result=broken)) == {"kept-in-order"}


def test_a_lost_text_token_is_found(runs: Runs) -> None:
    trace = replace(runs.result.trace, text_tokens=17)
    assert failing(replace(runs, result=replace(runs.result, trace=trace))) == {"text-is-alive"}


def test_a_sequence_that_grows_is_found(runs: Runs) -> None:
    trace = runs.result.trace
    grown = replace(
        trace,
        llm_tokens=[*trace.llm_tokens[:3], trace.llm_tokens[3] + 1],
        llm_vision_tokens=[*trace.llm_vision_tokens[:3], trace.llm_vision_tokens[3] + 1],
    )
    assert failing(replace(runs, result=replace(runs.result, trace=grown))) == {"never-grows"}


def test_a_technique_that_does_nothing_does_not_bite(runs: Runs) -> None:
    assert failing(replace(runs, result=runs.baseline, again=runs.baseline)) == {"bites"}
