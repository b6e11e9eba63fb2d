"""FLASH: latent tokens, rows of the prompt, groups that are summed, blocks, and answers that stay the target's."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.blocks import BlockDraft, BlockDrafter
from lvlm_atlas.reference.drafting.features import Prompt
from lvlm_atlas.reference.drafting.rounds import Proposal, Verdict, Verified
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.config import LVLMConfig, TextConfig, VisionConfig
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.ops.attention import attend, causal_mask
from lvlm_atlas.reference.ops.sampling import distribution
from lvlm_atlas.reference.techniques.decoding.flash import Flash, SemiAutoregressiveHead, latent_tokens

MICRO = LVLMConfig(
    vision=VisionConfig(
        image_size=4, patch_size=2, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    ),
    text=TextConfig(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    ),
    image_token_id=3,
)
"""Small enough to answer hundreds of requests in a test."""


def small(block: int = 2, latents: int = 3, width: int = 8, heads: int = 2) -> SemiAutoregressiveHead:
    return drawn(lambda: SemiAutoregressiveHead(width, heads, block, latents), seed=5)


def draft_of(lvlm: LVLM, block: int) -> BlockDraft:
    shape = lvlm.config.text
    head = drawn(
        lambda: SemiAutoregressiveHead(shape.hidden_size, shape.num_attention_heads, block, 3),
        seed=5,
        device=lvlm.device,
    )
    request = random_request(lvlm.config, frames=1)
    prompt = Prompt.of(lvlm, lvlm.prefill(lvlm.prepare(lvlm.begin(request))))
    rows = head.rows(prompt.embed_ND[1:], prompt.feature_ND[:-1], prompt.vision_N.cpu()[1:])
    return BlockDraft(lvlm, head, rows, prompt.feature_ND[-1:], Trace())


def test_latent_tokens_are_means_weighted_by_a_softmax_over_the_vision_tokens(device: str) -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], device=device)
    queries = torch.tensor([[0.0, 0.0], [1000.0, -1000.0], [math.log(2), 0.0]], device=device)
    expected = torch.tensor([[2 / 3, 2 / 3], [1.0, 0.0], [4 / 5, 3 / 5]], device=device)
    torch.testing.assert_close(latent_tokens(queries, features), expected)


@torch.inference_mode()
def test_the_words_behind_the_picture_stay() -> None:
    head, embed, feature = small(), torch.randn(9, 8), torch.randn(9, 8)
    vision = torch.tensor([False, False, True, True, False, True, False, False, False])
    rows = head.rows(embed, feature, vision)
    assert torch.equal(rows[:2], feature[:2])
    torch.testing.assert_close(rows[2:5], latent_tokens(head.query_CD, feature[vision]))
    behind = [4, 6, 7, 8]
    torch.testing.assert_close(rows[5:], head.enter(embed[behind], feature[behind]))


@torch.inference_mode()
def test_without_a_picture_all_words_are_joined() -> None:
    head, embed, feature = small(), torch.randn(4, 8), torch.randn(4, 8)
    rows = head.rows(embed, feature, torch.zeros(4, dtype=torch.bool))
    assert torch.equal(rows, head.enter(embed, feature))


@torch.inference_mode()
def test_it_is_the_token_read_that_is_visual(device: str) -> None:
    """The feature of the word before the picture is pooled, that of the last vision token stands beside a word."""
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1)
    prompt = Prompt.of(lvlm, lvlm.prefill(lvlm.prepare(lvlm.begin(request))))
    vision = prompt.vision_N.cpu()
    place = vision.nonzero()[:, 0]
    width = lvlm.config.text.hidden_size
    head = small(width=width, heads=4).to(device)
    rows = head.rows(prompt.embed_ND[1:], prompt.feature_ND[:-1], vision[1:])
    first, last = int(place[0]), int(place[-1])
    if first:
        pooled = prompt.feature_ND[first - 1 : last]
        torch.testing.assert_close(rows[first - 1 : first + 2], latent_tokens(head.query_CD, pooled))
    word = head.enter(prompt.embed_ND[last + 1 : last + 2], prompt.feature_ND[last : last + 1])
    at = max(first - 1, 0) + 3
    torch.testing.assert_close(rows[at : at + 1], word, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("heads", [2, 4, 8])
def test_every_head_attends_to_every_group_and_adds_up_what_it_gets(heads: int) -> None:
    head = small(width=16, heads=heads, block=3)
    x = torch.randn(1, 6, 16)
    query, key, value = head.project(x, None)
    out = head.predict(attend(query, key, value, causal_mask(6, x.device)))
    d, groups = 16 // heads, min(4, heads)
    split = [p(x)[0].unflatten(-1, (-1, d)) for p in (head.q_proj, head.k_proj, head.v_proj)]
    per_head = []
    for h in range(heads):
        total = torch.zeros(6, d)
        for g in range(groups):
            scores = split[0][:, h] @ split[1][:, g].T / d**0.5
            scores = scores.masked_fill(~torch.ones(6, 6, dtype=torch.bool).tril(), float("-inf"))
            total += scores.softmax(-1) @ split[2][:, g]
        per_head.append(total)
    expected = head.ar_proj(head.o_proj(torch.cat(per_head, dim=-1))).unflatten(-1, (3, 16))
    torch.testing.assert_close(out[0], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_cache_gives_what_all_rows_anew_give(device: str) -> None:
    """Row after row, then a round that is taken back: as one causal pass over what is left."""
    lvlm = LVLM.random(device=device)
    draft = draft_of(lvlm, 2)
    rows, run = [], draft._pass

    def note(entered_MD: Tensor) -> Tensor:
        rows.append(entered_MD)
        return run(entered_MD)

    draft._pass = note  # type: ignore[method-assign]
    length = draft.store.length
    feature = draft.read([5])
    draft.guess(torch.tensor([6, 7]), feature)
    assert draft.store.length == length + 3
    states = torch.randn(3, lvlm.config.text.hidden_size, device=device)
    verified = Verified(
        Proposal(torch.tensor([6, 7]), torch.tensor([-1, 0]), torch.ones(2, lvlm.vocab_size)),
        Verdict((0,), 9),
        lvlm.logits(states),
        (states,),
    )
    draft.learn(verified)
    assert draft.store.length == length + 1
    again = draft.read([5, 6, 9])
    fresh = draft_of(lvlm, 2)
    fresh._pass(rows[0])
    fresh.store.settle()
    torch.testing.assert_close(again, fresh._pass(rows[2]), rtol=1e-4, atol=1e-4)
    joined = draft.head.enter(lvlm.embed(torch.tensor([6, 9])), lvlm.final_norm(states[:2]))
    torch.testing.assert_close(rows[2], joined)


@torch.inference_mode()
def test_a_further_block_reads_each_token_beside_the_feature_it_was_drawn_from(device: str) -> None:
    lvlm = LVLM.random(device=device)
    draft = draft_of(lvlm, 2)
    drafter = BlockDrafter(draft, 2, lambda logits: distribution(logits, 0.0), torch.Generator().manual_seed(0))
    proposal = drafter.propose([5])
    other = draft_of(lvlm, 2)
    first = other.read([5])
    assert proposal.token_M[:2].tolist() == lvlm.head(first).argmax(-1).tolist()
    joined = other.head.enter(lvlm.embed(proposal.token_M[:2]), first)
    second = other._pass(joined)
    assert proposal.token_M[2:].tolist() == lvlm.head(second).argmax(-1).tolist()
    assert proposal.parent_M.tolist() == [-1, 0, 1, 2]
    assert draft.trace.draft_passes == 2


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_greedy_answers_are_the_targets_own_and_the_trace_counts_blocks(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=9)
    plain, result = lvlm.run(request), lvlm.run(request, [Flash(latents=7, block=3, passes=2)])
    trace, rounds = result.trace, result.trace.target_passes
    assert torch.equal(plain.tokens_N, result.tokens_N)
    assert trace.draft_tokens == trace.text_tokens + 7
    assert trace.draft_lengths == [6] * rounds
    assert trace.draft_passes == 2 * rounds
    assert len(trace.accepted_lengths) == rounds


def test_a_head_that_knows_what_comes_is_accepted() -> None:
    lvlm = LVLM.random()
    lvlm.language_model.lm_head.weight.data.zero_()
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=13), [Flash(block=5)]).trace
    assert trace.accepted_lengths == [5, 5]


def test_sampled_answers_are_distributed_as_the_targets() -> None:
    """Chi-square over many seeds: it fails if the draft draws with the verifier's numbers, or q is a block's first."""
    torch.manual_seed(3)
    target, technique, seeds = LVLM(MICRO).eval(), Flash(latents=2, block=2), 250
    request = random_request(MICRO, frames=1, text_tokens=2, max_new_tokens=3, temperature=0.3)
    count, expected = torch.zeros(4, 4), torch.zeros(4, 4)
    for seed in range(seeds):
        tokens = target.run(replace(request, seed=seed), [technique]).tokens_N.tolist()
        count[tokens[1], tokens[2]] += 1
    with torch.inference_mode():
        first_C = distribution(target.prefill(target.prepare(target.begin(request))).logits_C, 0.3)
        for first in range(4):
            for second in range(4):
                cache = target.prefill(target.prepare(target.begin(request))).cache
                rows = distribution(target.step(torch.tensor([first, second]), cache), 0.3)
                expected[second] += first_C[first] * rows[0, second] * rows[1] * seeds
    likely = expected > 4
    statistic = float(((count - expected)[likely].square() / expected[likely]).sum())
    assert 3 < int(likely.sum()) <= 12
    assert statistic < 31, "the 0.2 % point of 12 degrees of freedom"


@pytest.mark.parametrize("name", ["latents", "block", "passes"])
def test_illegal_parameters_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Flash(**{name: 0})
