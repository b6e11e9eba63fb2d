"""The target's first layers draft, its pass runs the others: states and caches are those of a plain pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from lvlm_atlas.reference.drafting.acceptance import GreedyMatch
from lvlm_atlas.reference.drafting.early_exit import EarlyExitDrafter
from lvlm_atlas.reference.drafting.rounds import Speculation, Verified
from lvlm_atlas.reference.lvlm import LVLM, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop


@dataclass(frozen=True)
class Exit(Technique):
    layers: int
    acts_at: ClassVar = ("decode-loop",)

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        run = at.run
        generator = torch.Generator().manual_seed(~run.request.seed)
        drafter = EarlyExitDrafter(run.target, at.prefill.cache, self.layers, 3, run.request.distribution, generator)
        return Speculation(drafter, GreedyMatch())


@pytest.mark.parametrize("until", [1, 2, 4])
@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_layers_run_in_two_parts_give_the_states_and_entries_of_one_pass(preset: str, until: int, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    tokens = torch.tensor([5, 6, 7, 8])
    with torch.inference_mode():
        inputs = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=2)))
        whole, parts = lvlm.prefill(inputs).cache, lvlm.prefill(inputs).cache
        states = lvlm.hidden_states(tokens, whole)
        first = [lvlm.hidden_states(tokens[i : i + 1], parts, until=until) for i in range(3)]
        assert [len(each) for each in first] == [until + 1] * 3
        assert parts.waiting == 3
        rest = lvlm.hidden_states(tokens[3:], parts)
    assert parts.waiting == 0
    assert len(rest) == len(states) == lvlm.config.text.num_hidden_layers + 1
    for one, two in zip(states, rest, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    for one, two in zip(whole.stores, parts.stores, strict=True):
        for mine, theirs in zip(one.read(), two.read(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_tree_can_wait_too(device: str) -> None:
    lvlm = LVLM.random(device=device)
    tokens, parents = torch.tensor([5, 6, 7, 8]), torch.tensor([-1, 0, 0, 1])
    with torch.inference_mode():
        inputs = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1)))
        whole, parts = lvlm.prefill(inputs).cache, lvlm.prefill(inputs).cache
        logits = lvlm.step(tokens, whole, parents)
        lvlm.hidden_states(tokens[:3], parts, parents[:3], until=2)
        again = lvlm.logits(lvlm.hidden_states(tokens[3:], parts, parents[3:])[-1])
    torch.testing.assert_close(logits, again, rtol=1e-4, atol=1e-4)


def test_tokens_that_wait_cannot_be_joined_by_tokens_that_stop_elsewhere(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        cache = lvlm.prefill(lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1)))).cache
        lvlm.hidden_states(torch.tensor([5]), cache, until=2)
        with pytest.raises(ValueError, match="wait after 2 layers, so no others can stop after 3"):
            lvlm.hidden_states(torch.tensor([6]), cache, until=3)


def test_the_trace_counts_the_layers_of_drafts_apart_from_the_targets(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=12), [Exit(1)]).trace
    rounds = trace.target_passes
    assert trace.draft_passes == 3 * rounds == trace.draft_layer_runs
    assert trace.layer_runs == 4 * rounds
    assert trace.draft_tokens == 0, "the draft reads the target's own cache"
    entries = 400 + rounds + sum(trace.accepted_lengths)
    assert trace.kv_byte_end == entries * trace.kv_byte[0] * 4 // 400


def test_a_draft_that_runs_all_layers_is_always_accepted(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=13), [Exit(4)]).trace
    assert trace.accepted_lengths == [3, 3, 3]


def test_a_drafter_learns_the_targets_states_of_the_root_and_of_every_node(device: str) -> None:
    lvlm = LVLM.random(device=device)
    learned: list[Verified] = []

    @dataclass(frozen=True)
    class Listening(Exit):
        def begin_decoding(self, at: DecodeLoop) -> Speculation:
            speculation = super().begin_decoding(at)
            settle = speculation.drafter.settle
            speculation.drafter.settle = lambda verified: (learned.append(verified), settle(verified))  # type: ignore[assignment]
            return speculation

    request = random_request(lvlm.config, max_new_tokens=12)
    result = lvlm.run(request, [Listening(1)])
    with torch.inference_mode():
        cache = lvlm.prefill(lvlm.prepare(lvlm.begin(request))).cache
        states = lvlm.hidden_states(result.tokens_N, cache)
    text = 0
    for verified in learned:
        assert len(verified.states) == 5
        rows = list(verified.rows)[: len(result.tokens_N) - text]
        for mine, theirs in zip(verified.states, states, strict=True):
            torch.testing.assert_close(mine[rows], theirs[text : text + len(rows)], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(lvlm.logits(verified.states[-1]), verified.logits_MC)
        text += len(rows)
