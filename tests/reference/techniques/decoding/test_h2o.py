"""H2O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.lvlm import LVLM, StackError, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheStep
from lvlm_atlas.reference.ops.places import places_of, take
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.h2o import H2O, Accounts, select
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV
from lvlm_atlas.reference.techniques.prefilling.xattention import XAttention


@dataclass(frozen=True)
class Evict(Technique):
    """Keeps what a function of the context says."""

    choose: Callable[[CacheStep], Tensor | None]
    acts_at: ClassVar = ("cache-step",)

    def evict(self, at: CacheStep) -> Tensor | None:
        return self.choose(at)


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def step(index_GS: list[list[int]], weight_HRS: Tensor, layer: int = 0) -> CacheStep:
    """A context in which these entries are held and these rows were paid."""
    index = torch.tensor(index_GS)[None]
    held = Held(index < 0, index, index)
    return CacheStep(
        layer, 4, held, weight_HRS.shape[1], lambda rows: weight_HRS[None, :, rows], lambda: (index, index), prompt=True
    )


def test_recent_entries_are_kept_besides_the_heavy_hitters() -> None:
    score = torch.tensor([[[5.0, 1, 4, 1, 3, 9, 8], [0, 1, 0, 3, 0, 2, 9]]])
    assert places_of(select(score, 2, 2)).tolist() == [[[0, 2, 5, 6], [1, 3, 5, 6]]]
    assert places_of(select(score, 2, 0)).tolist() == [[[5, 6], [3, 6]]]
    assert places_of(select(score, 0, 3)).tolist() == [[[4, 5, 6]] * 2]
    assert select(score, 9, 3).all()


def test_padding_is_never_kept_and_takes_no_place() -> None:
    score = torch.tensor([[[9.0, 9, 1, 2, 3, 0], [5, 4, 1, 2, 3, 0]]])
    visible = torch.tensor([[[False, False, True, True, True, True], [True] * 6]])
    kept = select(score, 2, 1, visible)
    assert [head.nonzero()[:, 0].tolist() for head in kept[0]] == [[3, 4, 5], [0, 1, 5]]


def test_scores_add_up_over_prompt_and_steps() -> None:
    accounts = Accounts(0.5, 0.25)  # two heavy hitters and one recent entry
    prompt = torch.tensor([[[1.0, 0, 0, 0], [0.1, 0.9, 0, 0], [0.2, 0.2, 0.6, 0], [0.1, 0.1, 0.5, 0.3]]])
    keep = accounts.evict(step([[0, 1, 2, 3]], prompt))
    assert keep is not None
    assert places_of(keep).tolist() == [[[0, 1, 3]]]  # 1.4, 1.2, 1.1, and the recent one with 0.3
    keep = accounts.evict(step([[0, 1, 3, 4]], torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])))
    assert keep is not None
    assert places_of(keep).tolist() == [[[0, 2, 3]]]  # 1.4, 1.2, now 1.3
    keep = accounts.evict(step([[0, 3, 4, 5]], torch.tensor([[[0.0, 0.0, 0.9, 0.1]]])))
    assert keep is not None
    assert places_of(keep).tolist() == [[[0, 1, 3]]]  # 1.4, 1.3, and 0.9
    torch.testing.assert_close(accounts.scores[0][0], torch.tensor([[[1.4, 1.3, 0.9, 0.1]]]))


def test_a_sum_goes_with_its_entry_through_evictions_of_others() -> None:
    accounts = Accounts(1.0, 1.0)
    accounts.evict(step([[0, 1, 2], [0, 1, 2]], torch.tensor([[[3.0, 2, 1]], [[30.0, 20, 10]]])))
    # Somebody else evicts: entry 0 in one head, entry 1 in the other.
    accounts.evict(step([[1, 2, 3], [0, 2, 3]], torch.tensor([[[0.5, 0.25, 0.25]], [[0.5, 0.25, 0.25]]])))
    torch.testing.assert_close(accounts.scores[0][0], torch.tensor([[[2.5, 1.25, 0.25], [30.5, 10.25, 0.25]]]))


@given(
    st.integers(3, 20), st.floats(0.05, 0.6), st.floats(0, 0.4), st.lists(st.integers(1, 3), max_size=6),
    st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_what_is_held_is_that_of_the_definition(
    length: int, heavy_ratio: float, recent_ratio: float, rounds: list[int], seed: int
) -> None:
    heavy, recent = int(length * heavy_ratio), int(length * recent_ratio)
    if heavy + recent == 0:
        return
    generator, accounts = torch.Generator().manual_seed(seed), Accounts(heavy_ratio, recent_ratio)
    sums: list[dict[int, float]] = [{}, {}]
    held, latest = [[*range(length)]] * 2, length - 1
    for new, following in pairwise((length, *rounds, 1)):
        size = len(held[0])
        hidden = torch.ones(new, size, dtype=torch.bool).triu(size - new + 1)
        weight = torch.randn(4, new, size, generator=generator).masked_fill(hidden, float("-inf")).softmax(-1)
        keep = accounts.evict(step(held, weight))
        for group, tokens in enumerate(held):
            paid = weight[2 * group : 2 * group + 2].mean(0).sum(0).tolist()
            sums[group] = {token: sums[group].get(token, 0) + paid[i] for i, token in enumerate(tokens)}
        expected = []
        for group, tokens in enumerate(held):
            older, last = tokens[: len(tokens) - recent], tokens[len(tokens) - recent :]
            best = sorted(older, key=lambda token: -sums[group][token])[:heavy]
            expected.append(sorted(best) + last if len(tokens) > heavy + recent else tokens)
        kept = torch.tensor(held)[None] if keep is None else take(torch.tensor(held)[None], places_of(keep))
        assert kept[0].tolist() == expected
        held, latest = expected, max(latest, *map(max, held))
        held = [[*tokens, *range(latest + 1, latest + 1 + following)] for tokens in held]


def test_the_cache_no_longer_grows_once_it_is_full(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [H2O(heavy_ratio=0.1, recent_ratio=0.1)]).trace
    assert trace.kv_entries == trace.kv_most_entries == [80] * 4
    assert trace.kv_byte_end == sum(trace.kv_byte) == 4 * 80 * 2 * 2 * 16 * 4
    assert trace.probe_entries == 4 * 4 * 400 * 401 // 2
    assert trace.step_probe_entries == 11 * 4 * 4 * 81
    for index in trace.kv_index:
        assert index[..., 40:].unique().tolist() == [*range(360, 400)]


def test_each_head_chooses_for_itself(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [H2O()]).trace
    assert any((index[0, 0] != index[0, 1]).any() for index in trace.kv_index)


def test_shares_that_hold_prompt_and_answer_change_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    plain, held = lvlm.run(request), lvlm.run(request, [H2O(heavy_ratio=1.0, recent_ratio=1.0)])
    torch.testing.assert_close(held.logits_NC, plain.logits_NC, atol=1e-5, rtol=1e-5)
    assert held.trace.kv_most_entries == plain.trace.kv_most_entries


def test_the_budget_is_a_share_of_what_earlier_pruning_left(lvlm: LVLM) -> None:
    stack = [FastV(layer=2, keep_ratio=0.5), H2O(), Kivi(group_size=16, residual_length=16)]
    trace = lvlm.run(random_request(lvlm.config), stack).trace
    assert trace.kv_entries == trace.kv_most_entries == [80, 80, 40, 40]
    assert trace.kv_byte_end == sum(trace.kv_byte)


def test_rejected_drafts_leave_no_score(lvlm: LVLM) -> None:
    draft = LVLM.random(seed=1, device=lvlm.device)
    totals: list[tuple[float, int]] = []
    accounts = Accounts(1.0, 1.0)

    def choose(at: CacheStep) -> Tensor | None:
        accounts.evict(at)
        if at.layer == 0:
            totals.append((float(accounts.scores[0][0].sum()), at.held.length))
        return None

    request = random_request(lvlm.config, frames=1, temperature=1.0, seed=3)
    trace = lvlm.run(request, [Evict(choose), SpeculativeSampling(gamma=3, draft=draft)]).trace
    assert any(accepted < 3 for accepted in trace.accepted_lengths)
    for total, length in totals:  # each token that stands in the text has paid 1 in each of two key-value heads
        assert total == pytest.approx(2 * length, rel=1e-5)


def test_a_kernel_that_forms_no_map_is_refused(lvlm: LVLM) -> None:
    with pytest.raises(StackError, match="H2O needs `attention-map`, which nobody can read once XAttention acts"):
        lvlm.run(random_request(lvlm.config), [XAttention(), H2O()])


def test_a_budget_of_no_entry_is_refused(lvlm: LVLM) -> None:
    with pytest.raises(Refusal, match=r"heavy_ratio 0\.0 and recent_ratio 0\.001 keep none of 400 entries"):
        lvlm.run(random_request(lvlm.config), [H2O(heavy_ratio=0.0, recent_ratio=0.001)])


def test_arguments_out_of_range_are_refused() -> None:
    for name in ("heavy_ratio", "recent_ratio"):
        with pytest.raises(ValueError, match=f"{name} must lie in \\[0, 1\\], got 1.5"):
            H2O(**{name: 1.5})
