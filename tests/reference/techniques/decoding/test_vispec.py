"""ViSpec: what stands for an image, where, and which words know of it; answers stay the target's."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.features import FeatureDraft, Prompt
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.modules.query_adaptor import QueryAdaptor
from lvlm_atlas.reference.techniques.decoding.vispec import VisionAwareHead, ViSpec, rows_of


def prompt_of(vision: Seq[int]) -> Prompt:
    """Embedding 1, 2, 3, …; feature 100, 200, …; position 10, 11, …"""
    count = len(vision)
    embed = torch.arange(1.0, count + 1)[:, None]
    return Prompt(embed, 100 * embed, torch.tensor(vision) > 0, torch.arange(10, 10 + count), torch.tensor(10 + count))


def told(vision: Seq[int], queries: int = 3) -> tuple[list[int], list[int], int]:
    """Rows, positions and gist, where an adaptor gives 1000 · its first token, + 1, + 2, … and words their sums."""

    def adapt(embed_MD: Tensor) -> Tensor:
        return 1000 * embed_MD[:1] + torch.arange(queries)[:, None]

    rows, position, gist = rows_of(prompt_of(vision), adapt, lambda e, f, g: e + f + 10 * g)
    return [int(row) for row in rows[:, 0]], position.tolist(), int(gist)


def test_all_but_the_last_output_take_the_place_of_the_image() -> None:
    rows, _, gist = told([0, 0, 1, 1, 1, 1, 0])
    assert rows[1:3] == [3000, 3001]
    assert gist == 3002
    assert len(rows) == 1 + 2 + 1


def test_words_keep_their_positions_and_an_image_takes_its_last() -> None:
    """A row has the position id of the token that it reads."""
    _, position, _ = told([0, 0, 1, 1, 1, 1, 0, 0])
    assert position == [11, 14, 15, 16, 17]


def test_each_word_gets_the_gist_of_the_last_image_before_it() -> None:
    rows, _, gist = told([0, 0, 1, 1, 0, 1, 1, 1, 0, 0])
    none, first, second = 2 + 100, 5 + 400 + 10 * 3002, 9 + 800 + 10 * 6002
    assert rows == [none, 3000, 3001, first, 6000, 6001, second, 10 + 900 + 10 * 6002]
    assert gist == 6002


def test_a_prompt_without_images_has_no_gist() -> None:
    rows, position, gist = told([0, 0, 0])
    assert (rows, position, gist) == ([102, 203], [11, 12], 0)


def test_an_image_never_takes_the_place_of_a_word() -> None:
    rows, position, gist = told([0, 1, 0, 1, 1, 0], queries=4)
    assert position == [11, 12, 13, 14, 15]
    assert rows[0] == 2000
    assert rows[2:4] == [4000, 4001]
    assert gist == 4003


def test_queries_read_tokens_in_any_order_head_by_head(device: str) -> None:
    adaptor = drawn(lambda: QueryAdaptor(8, 2, 3, bias=True), device=device)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(device)
    out = adaptor(x)
    torch.testing.assert_close(adaptor(x.flip(0)), out, rtol=1e-4, atol=1e-5)
    key, value = adaptor.k_proj(x).view(5, 2, 4), adaptor.v_proj(x).view(5, 2, 4)
    by_hand = torch.empty(3, 2, 4, device=device)
    for head in range(2):
        weight = (adaptor.q[:, head] @ key[:, head].T / 4**0.5).softmax(-1)
        by_hand[:, head] = weight @ value[:, head]
    torch.testing.assert_close(out, adaptor.o_proj(by_hand.flatten(1)), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_gist_goes_along_while_drafting(device: str) -> None:
    """A head without attention whose features are the gist alone drafts by it, at the first token and further down."""
    lvlm = LVLM.random(device=device)
    head = drawn(lambda: VisionAwareHead(lvlm.config.text, 2), device=device)
    width = lvlm.config.text.hidden_size
    give(lvlm, ("vispec", 2), head)
    for weight in (head.layer.self_attn.o_proj.weight, head.layer.mlp.down_proj.weight):
        weight.zero_()
    head.fc.weight.copy_(torch.eye(width, 2 * width).roll(width, 1))  # the feature, without the embedding
    head.img_fc.weight.copy_(torch.eye(width, 2 * width).roll(width, 1))  # the gist, without the feature
    technique = ViSpec(nodes=4, depth=2, top_k=2)
    run = lvlm.begin(random_request(lvlm.config, frames=1), [technique])
    at = DecodeLoop(run, lvlm.prefill(lvlm.prepare(run), run))
    drafter = technique.begin_decoding(at).drafter
    assert isinstance(drafter, GrowingTreeDrafter)
    inputs = at.prefill.inputs
    gist = head.adaptor(inputs.hidden_BND[0, inputs.vision_BN[0]])[-1]
    torch.testing.assert_close(drafter.draft.read([5]), lvlm.head(gist), rtol=1e-3, atol=1e-3)
    below = drafter.draft.guess(torch.tensor([7]), torch.tensor([-1]))[0]
    torch.testing.assert_close(below, lvlm.head(gist), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_q", [2, 4])
def test_the_trace_counts_what_the_head_sees(num_q: int, device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=8), [ViSpec(num_q, 9, 3, 3)]).trace
    rounds = trace.target_passes
    assert trace.draft_tokens == 16 + num_q - 1
    assert trace.draft_nodes == [9] * rounds
    assert trace.draft_passes == 3 * rounds
    assert trace.output_tokens == 8 <= 1 + rounds + sum(trace.accepted_lengths)


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack", "tiny-tiles"])
def test_greedy_answers_equal_the_targets_own(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=10)
    plain, result = lvlm.run(request), lvlm.run(request, [ViSpec(3, 12, 3, 4)])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_heads_cache_holds_words_and_few_tokens_of_images(device: str) -> None:
    lvlm = LVLM.random(device=device)
    technique = ViSpec(3, 9, 3, 3)
    run = lvlm.begin(random_request(lvlm.config, frames=2), [technique])
    drafter = technique.begin_decoding(DecodeLoop(run, lvlm.prefill(lvlm.prepare(run), run))).drafter
    assert isinstance(drafter, GrowingTreeDrafter)
    assert isinstance(drafter.draft, FeatureDraft)
    assert drafter.draft.store.length == 15 + 2


@pytest.mark.parametrize(("name", "least"), [("num_q", 2), ("nodes", 1), ("depth", 1), ("top_k", 1)])
def test_counts_have_a_least(name: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least {least}, got {least - 1}"):
        ViSpec(**{name: least - 1})
