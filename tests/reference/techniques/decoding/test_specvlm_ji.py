"""SpecVLM: which vision tokens the draft sees, the tree it drafts, and greedy answers that stay the target's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.reference.drafting.draft import Draft
from lvlm_atlas.reference.drafting.rounds import ancestors
from lvlm_atlas.reference.drafting.tree import TreeDrafter, best_children, tree_parents
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop, LlmLayer
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.random_request import random_request
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.verification import accept
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.decoding.specvlm_ji import (
    CHAIN,
    TREE,
    SpecVlmJi,
    mean_attention,
    tokens_for_mass,
    two_stage_select,
)


@dataclass(frozen=True)
class DropHalf(Technique):
    """Drops every other vision token before a layer of the target's LLM."""

    before: int = 2

    acts_at: ClassVar = ("llm-layer",)

    def llm_layer(self, at: LlmLayer) -> Sequence:
        sequence, vision = at.sequence, at.sequence.vision_places().shape[1]
        return sequence.keep_vision(torch.arange(0, vision, 2)[None]) if at.layer == self.before else sequence


def prefilled(lvlm: LVLM, request: Request, technique: SpecVlmJi, *others: Technique) -> DecodeLoop:
    with torch.inference_mode():
        run = lvlm.begin(request, (*others, technique))
        return DecodeLoop(run, lvlm.prefill(lvlm.prepare(run), run))


def begin(lvlm: LVLM, technique: SpecVlmJi) -> TreeDrafter:
    at = prefilled(lvlm, random_request(lvlm.config), technique)
    with torch.inference_mode():
        drafter = technique.begin_decoding(at).drafter
    assert isinstance(drafter, TreeDrafter)
    return drafter


@pytest.mark.parametrize(
    ("mass", "limit", "count"),
    [(0.5, 9, 1), (0.51, 9, 2), (0.75, 9, 2), (0.8, 9, 3), (1.0, 9, 4), (1.0, 2, 2), (0.0, 9, 1), (0.4, 0, 0)],
)
def test_stage_one_counts_tokens_until_their_share_of_attention_is_reached(mass: float, limit: int, count: int) -> None:
    score = torch.tensor([0.125, 0.5, 0.125, 0.25])
    assert tokens_for_mass(score, mass, limit) == count


def test_stage_two_samples_the_remaining_list_and_not_the_timeline(device: str) -> None:
    score = torch.tensor([[0.0, 9.0, 8.0, 7.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]], device=device)
    # Stage I: 1, 2, 3. The others are 0 4 5 6 7 8 9; floor(linspace(0, 6, 4)) = 0 2 4 6 of them.
    assert two_stage_select(score, keep=7, mass=0.9).tolist() == [[0, 1, 2, 3, 5, 7, 9]]


def test_evenly_spaced_indices_are_rounded_down(device: str) -> None:
    score = torch.tensor([[5.0, 1, 1, 1, 1, 1, 1]], device=device)
    # The others are 1 … 6; linspace(0, 5, 4) = 0, 1.67, 3.33, 5.
    assert two_stage_select(score, keep=5, mass=0.1).tolist() == [[0, 1, 2, 4, 6]]


@given(tokens=st.integers(1, 80), share=st.floats(0, 1), mass=st.floats(0, 1), seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_kept_tokens_ascend_none_twice_and_exactly_as_many_as_asked(
    tokens: int, share: float, mass: float, seed: int
) -> None:
    score = torch.rand(2, tokens, generator=torch.Generator().manual_seed(seed))
    keep = int(tokens * share)
    index = two_stage_select(score, keep, mass)
    assert index.shape == (2, keep)
    assert all(a < b for row in index.tolist() for a, b in pairwise(row))
    assert not keep or 0 <= int(index.min()) <= int(index.max()) < tokens


def test_stage_two_never_picks_a_token_twice() -> None:
    for others in range(1, 150):
        for picks in range(others + 1):
            index = torch.linspace(0, others - 1, picks, dtype=torch.long)
            assert len(index.unique()) == picks


def test_all_the_mass_means_the_most_attended_tokens() -> None:
    score = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert torch.equal(two_stage_select(score, 11, 1.0), score.topk(11).indices.sort().values)


def test_no_mass_leaves_one_token_to_stage_one() -> None:
    score = torch.tensor([[1.0, 1, 1, 1, 1, 9, 1, 1, 1, 1, 1]])
    assert two_stage_select(score, 4, 0.0).tolist() == [[0, 4, 5, 10]]  # 0, 4.5, 9 of 0 1 2 3 4 6 7 8 9 10


def test_scores_are_means_over_layers_heads_and_rows_and_pruned_places_count_nothing(device: str) -> None:
    first = torch.tensor([[[[0.1, 0.2, 0.7], [0.3, 0.2, 0.5]], [[0.5, 0.4, 0.1], [0.1, 0.4, 0.5]]]], device=device)
    second = torch.tensor([[[[1.0, 0.0], [0.6, 0.4]], [[0.2, 0.8], [0.2, 0.8]]]], device=device)
    layers = [(first, torch.tensor([[0, 1, 2]], device=device)), (second, torch.tensor([[0, 2]], device=device))]
    score = mean_attention(layers, 3).cpu()
    torch.testing.assert_close(score, torch.tensor([[(0.25 + 0.5) / 2, 0.3 / 2, (0.45 + 0.5) / 2]]))


@pytest.mark.parametrize("pruned", [False, True])
def test_the_score_reads_the_text_after_the_last_frame_in_every_layer(pruned: bool, device: str) -> None:
    lvlm = LVLM.random(device=device)
    technique = SpecVlmJi()
    prefill = prefilled(lvlm, random_request(lvlm.config), technique, *([DropHalf()] if pruned else [])).prefill
    vision = prefill.inputs.vision_places()[0]
    expected = torch.zeros(400, device=device)
    for probe, index in prefill.attention:
        after = index[0] > vision.max()
        assert int(after.sum()) == 12
        expected[index[0]] += probe.rows()[0][:, after].mean((0, 1)) / 4
    assert len(prefill.attention) == 4
    torch.testing.assert_close(technique.score(prefill)[0], expected[vision])


def test_the_tree_has_25_nodes_and_depth_5() -> None:
    paths: list[str] = []
    children: dict[int, int] = {}
    for parent in tree_parents(TREE).tolist():
        rank = children[parent] = children.get(parent, -1) + 1
        paths.append((paths[parent] if parent >= 0 else "") + str(rank))
    assert " ".join(paths) == (
        "0 1 2 3 00 01 02 10 11 20 21 30 000 001 002 010 011 020 021 100 0000 0001 0002 00000 00001"
    )
    assert tree_parents(CHAIN).tolist() == [-1, 0, 1, 2, 3]


def test_children_are_the_likeliest_tokens_likeliest_first(device: str) -> None:
    logits = torch.tensor([[0.0, 3, 1, 2], [9, 0, 8, 7]], device=device)
    assert best_children(logits, (2, 3)).tolist() == [1, 3, 0, 2, 3]


def test_the_target_walks_down_the_tree_as_far_as_it_agrees() -> None:
    token = torch.tensor([7, 8, 7, 9, 5])
    parent = torch.tensor([-1, -1, 1, 1, 3])
    assert accept(token, parent, torch.tensor([8, 0, 9, 0, 5, 3])) == ((1, 3, 4), 3)
    assert accept(token, parent, torch.tensor([8, 0, 9, 0, 4, 3])) == ((1, 3), 4)
    assert accept(token, parent, torch.tensor([6, 7, 9, 0, 5, 3])) == ((), 6)


@pytest.mark.parametrize("shape", [TREE, CHAIN])
def test_every_node_gets_the_drafts_best_tokens_after_its_own_path(shape: tuple, device: str) -> None:  # type: ignore[type-arg]
    """Against a fresh pass a node: a wrong tree mask or position shows."""
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        prompt = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1)))
        proposal = TreeDrafter(Draft(lvlm, prompt, Trace()), shape).propose([5, 6])
        seen = ancestors(proposal.parent_M)[1:, 1:]
        for node in [-1, *range(len(seen))]:
            children = proposal.token_M[proposal.parent_M == node]
            path = proposal.token_M[seen[node]].tolist() if node >= 0 else []
            logits = Draft(lvlm, prompt, Trace()).read([5, 6, *path])
            assert torch.equal(children, logits.cpu().topk(len(children)).indices)


def test_the_draft_counts_positions_of_its_own_shorter_prompt(device: str) -> None:
    drafter = begin(LVLM.random(device=device), SpecVlmJi(drop_rate=0.9))
    assert set(drafter.draft.cache.next_position.flatten().tolist()) == {16 + int(384 * (1 - 0.9))} == {54}


def test_the_draft_sees_all_text_and_the_chosen_vision_tokens(device: str) -> None:
    lvlm = LVLM.random(device=device)
    technique = SpecVlmJi(drop_rate=0.75, mass=0.3)
    prefill = prefilled(lvlm, random_request(lvlm.config), technique).prefill
    rank = two_stage_select(technique.score(prefill), 96, 0.3)[0]
    places = begin(lvlm, technique).draft.cache.held(0).index_BGS[0, 0].tolist()
    vision = prefill.inputs.vision_places()[0]
    text = (~prefill.inputs.vision_BN[0]).nonzero()[:, 0]
    assert places == sorted([*text.tolist(), *vision[rank].tolist()])


def test_another_draft_keeps_its_own_tokens_of_the_same_ranks(device: str) -> None:
    lvlm, draft = LVLM.random(device=device), LVLM.random(seed=1, device=device)
    own = begin(lvlm, SpecVlmJi(draft=draft)).draft
    assert own.model is draft
    places = begin(lvlm, SpecVlmJi()).draft.cache.held(0).index_BGS
    assert torch.equal(own.cache.held(0).index_BGS, places)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"drop_rate": 0.0}, {"drop_rate": 0.5, "mass": 1.0}, {"tree": False}, {"drop_rate": 0.99, "mass": 0.0}],
)
@pytest.mark.parametrize("seed", [0, 3])
def test_greedy_answers_equal_the_targets_own(parameters: dict[str, float], seed: int, device: str) -> None:
    lvlm = LVLM.random(seed=seed, device=device)
    request = random_request(lvlm.config, max_new_tokens=16, seed=seed)
    plain, result = lvlm.run(request), lvlm.run(request, [SpecVlmJi(**parameters)])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("tree", "nodes"), [(True, 25), (False, 5)])
def test_the_trace_counts_the_tree_and_both_caches(tree: bool, nodes: int, device: str) -> None:
    lvlm = LVLM.random(seed=3, device=device)
    request = random_request(lvlm.config, max_new_tokens=16, seed=3)
    trace = lvlm.run(request, [SpecVlmJi(tree=tree)]).trace
    rounds, accepted = trace.target_passes, sum(trace.accepted_lengths)
    assert trace.draft_nodes == [nodes] * rounds
    assert trace.draft_lengths == [5] * rounds
    assert trace.draft_passes == 5 * rounds
    assert trace.draft_tokens == 16 + 38
    assert 0 < accepted <= 5 * rounds
    assert max(trace.accepted_lengths) > 1
    assert trace.kv_entries == trace.llm_tokens == [400] * 4
    assert trace.kv_byte_end == (400 + 16 - 1) * trace.kv_byte[0] * 4 // 400  # what was accepted behind the end is gone
    rows = sum(range(389, 401))  # 12 rows of text, each sees itself and all before
    assert trace.probe_entries == rows * 4 * 4


def test_with_nothing_dropped_the_target_accepts_all_that_it_drafts(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=16), [SpecVlmJi(drop_rate=0.0)]).trace
    assert set(trace.accepted_lengths) == {5}


def test_a_target_that_prunes_and_quantises_keeps_its_own_answer(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=10)
    others = [DropHalf(), Kivi(bits=8, group_size=16, residual_length=512)]
    plain, result = lvlm.run(request, others), lvlm.run(request, [*others, SpecVlmJi()])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    assert result.trace.draft_tokens == 54, "the draft chooses among the tokens at the LLM's input"


def test_sampling_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(Refusal, match=r"temperature must be 0, got 0\.7"):
        lvlm.run(random_request(lvlm.config, temperature=0.7), [SpecVlmJi()])


def test_a_prompt_that_ends_with_a_frame_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    words = request.prompt_N[request.prompt_N != lvlm.config.image_token_id]
    ending = torch.cat([words, torch.full((6,), lvlm.config.image_token_id)])
    with pytest.raises(Refusal, match="text after the last vision token"):
        lvlm.run(replace(request, prompt_N=ending), [SpecVlmJi()])


def test_a_draft_with_other_vision_tokens_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(Refusal, match="equally many vision tokens, got 216 and 384"):
        lvlm.run(random_request(lvlm.config), [SpecVlmJi(draft=LVLM.random("tiny-mha", device=device))])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"drop_rate": 1.0}, r"drop_rate must be in \[0, 1\)"), ({"mass": 1.5}, r"mass must lie in \[0, 1\], got 1.5")],
)
def test_illegal_parameters_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpecVlmJi(**arguments)
