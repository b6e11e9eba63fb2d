"""SpecVLM of Huang et al.: the five branches, where their tokens stand, and answers that stay the target's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lvlm_atlas.reference.drafting.features import FeatureDraft, Prompt
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.techniques.decoding.specvlm_huang import (
    BRANCHES,
    ElasticHead,
    SpecVlmHuang,
    convolve,
    group_ends,
    pool,
    rows_of,
)

CPU = torch.device("cpu")
CONFIG = PRESETS["tiny"].text
WIDTH = CONFIG.hidden_size


def head(device: str = "cpu", conv_ratio: int = 3, queries: int = 2) -> ElasticHead:
    return drawn(lambda: ElasticHead(CONFIG, conv_ratio, queries), device=device)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_no_token_is_lost_where_groups_do_not_divide(device: str) -> None:
    x = torch.arange(1.0, 8.0, device=device)[:, None].expand(7, 2)
    assert pool(x, 3)[:, 0].tolist() == [2, 5, 7]
    sums = nn.Conv1d(2, 2, 3, 3, bias=False, device=device)
    sums.weight.data.zero_()
    sums.weight.data[0, 0] = 1
    assert convolve(x, sums)[:, 0].tolist() == [6, 15, 7]
    assert group_ends(7, 3, CPU).tolist() == [2, 5, 6]


def test_compressed_tokens_stand_where_their_last_token_stood() -> None:
    assert group_ends(6, 2, CPU).tolist() == [1, 3, 5]
    assert group_ends(5, 20, CPU).tolist() == [4]
    assert group_ends(3, 1, CPU).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("branch", "count"), [(0, 0), (1, 4), (2, 4), (3, 10), (4, 2)])
def test_each_branch_gives_as_many_tokens_as_it_should(branch: int, count: int, device: str) -> None:
    x = torch.randn(29, WIDTH, generator=generator()).to(device)
    rows, places = head(device).compress(x, branch, 8, generator())
    assert rows.shape == (count, WIDTH)
    assert places.tolist() == sorted({*places.tolist()})
    assert not count or 0 <= int(places.min()) <= int(places.max()) < 29
    if BRANCHES[branch] == "prune":
        assert torch.equal(rows, x[places])
    if BRANCHES[branch] == "resample":
        assert places.tolist() == [27, 28]


def test_one_token_is_enough_for_every_branch() -> None:
    x = torch.randn(1, WIDTH, generator=generator())
    for branch, count in enumerate((0, 1, 1, 1, 1)):
        rows, places = head().compress(x, branch, 8, generator())
        assert (len(rows), places.tolist()) == (count, [0] * count)


def prompt(vision: list[int]) -> Prompt:
    count = len(vision)
    embed, feature = torch.randn(2, count, WIDTH, generator=generator())
    return Prompt(embed, feature, torch.tensor(vision) > 0, torch.arange(10, 10 + count), torch.tensor(10 + count))


def test_words_and_compressed_tokens_keep_their_order() -> None:
    given, each = prompt([0, 1, 1, 1, 0, 1, 1, 0]), head()
    rows, position = rows_of(given, each, BRANCHES.index("pool"), 2, generator())
    # Vision tokens 1 2 3 5 6 in groups of two: 1 2, 3 5, 6; the words that are read are 4 and 7.
    assert position.tolist() == [12, 14, 15, 16, 17]
    joined = each.enter(given.embed_ND[1:], given.feature_ND[:-1])
    torch.testing.assert_close(rows[0], joined[:2].mean(0))
    torch.testing.assert_close(rows[1], joined[3])
    torch.testing.assert_close(rows[2], (joined[2] + joined[4]) / 2)
    torch.testing.assert_close(rows[3], joined[5])


def test_an_image_can_be_left_out() -> None:
    for branch in (0, 4):
        rows, position = rows_of(prompt([0, 0, 0]), head(), branch, 2, generator())
        assert (len(rows), position.tolist()) == (2, [11, 12])
    rows, position = rows_of(prompt([0, 1, 1, 0]), head(), 0, 2, generator())
    assert (len(rows), position.tolist()) == (1, [13])


def test_the_question_picks_the_branch() -> None:
    """By the text's features alone; a gate that points along them, or against."""
    each, given = head(), prompt([0, 1, 1, 0, 0])
    text = given.feature_ND[[0, 3, 4]].mean(0)
    for branch in range(len(BRANCHES)):
        each.gate.weight.data.zero_()
        each.gate.weight.data[branch] = text
        assert each.choose(given.feature_ND, given.vision_N) == branch
        other = given.feature_ND.clone()
        other[1:3] = -99 * text
        assert each.choose(other, given.vision_N) == branch


@pytest.mark.parametrize("branch", range(len(BRANCHES)))
def test_answers_stay_the_targets_whatever_the_branch(branch: int, device: str) -> None:
    lvlm = LVLM.random(device=device)
    each = head(device)
    each.gate.weight.data.zero_()
    each.gate.bias.data[branch] = 1
    give(lvlm, ("specvlm-huang", 3, 2), each)
    request = random_request(lvlm.config, frames=2, max_new_tokens=8)
    plain, result = lvlm.run(request), lvlm.run(request, [SpecVlmHuang(nodes=9, depth=3, top_k=3)])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-4, atol=1e-4)
    vision = {"text only": 0, "prune": 7, "pool": 7, "convolve": 43, "resample": 2}[BRANCHES[branch]]
    assert result.trace.draft_tokens == 16 + vision, "of 128"
    assert result.trace.draft_passes == 3 * result.trace.target_passes


@pytest.mark.parametrize("preset", ["tiny-window", "tiny-deepstack"])
def test_it_runs_on_every_dialect(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=6)
    plain, result = lvlm.run(request), lvlm.run(request, [SpecVlmHuang(nodes=9, depth=3, top_k=3)])
    assert torch.equal(plain.tokens_N, result.tokens_N)


@torch.inference_mode()
def test_a_seed_fixes_what_is_pruned(device: str) -> None:
    lvlm = LVLM.random(device=device)
    each = head(device)
    each.gate.weight.zero_()
    each.gate.bias[BRANCHES.index("prune")] = 1
    give(lvlm, ("specvlm-huang", 3, 2), each)
    technique = SpecVlmHuang()

    def keys(seed: int) -> Tensor:
        run = lvlm.begin(random_request(lvlm.config, frames=1, seed=0), [technique])
        run.request = random_request(lvlm.config, frames=1, seed=seed)
        drafter = technique.begin_decoding(DecodeLoop(run, lvlm.prefill(lvlm.prepare(run), run))).drafter
        assert isinstance(drafter, GrowingTreeDrafter)
        assert isinstance(drafter.draft, FeatureDraft)
        return drafter.draft.store.read()[0]

    assert torch.equal(keys(0), keys(0))


@pytest.mark.parametrize("name", ["ratio", "conv_ratio", "queries", "nodes", "depth", "top_k"])
def test_counts_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SpecVlmHuang(**{name: 0})
