"""FastVID."""

import math

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens, blocks_of, grid_places
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.fastvid import (
    Condensing,
    FastVID,
    anchor_counts,
    anchors,
    lengths_of,
    merge_weights,
    saliency,
    split_budget,
)


class Rated(Condensing):
    """With given saliency in place of the encoder's."""

    score_FN: Tensor

    def rated(self, frames: int, grid: tuple[int, int]) -> Tensor:
        assert self.score_FN.shape == (frames, math.prod(grid))
        return self.score_FN


def condense(setting: FastVID, x_FND: Tensor, score_FN: Tensor, grid: tuple[int, int]) -> tuple[Block, ...]:
    acting = Rated(setting)
    acting.score_FN = score_FN
    places = grid_places(*grid).expand(len(x_FND), -1, -1)
    return acting.adapter_output(AdapterOutput(VisionTokens(blocks_of(x_FND, places), grid))).blocks


def video(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def test_cuts_at_the_least_similar_and_below_the_threshold_are_one_set(device: str) -> None:
    angle = torch.tensor([0.0, 0.1, 0.2, 1.2, 1.3, 1.8, 1.9], device=device)  # steps 0.1 0.1 1.0 0.1 0.5 0.1
    frames = torch.stack([angle.cos(), angle.sin()], dim=1) * torch.arange(1, 8, device=device)[:, None]
    assert lengths_of(frames, math.cos(0.4), 1) == [3, 2, 2]
    assert lengths_of(frames, math.cos(0.4), 3) == [3, 2, 2]  # the two least similar are below the threshold
    assert lengths_of(frames, math.cos(0.7), 3) == [3, 2, 2]
    assert lengths_of(frames, -1.0, 2) == [3, 4]
    assert lengths_of(frames, -1.0, 1) == [7]
    assert lengths_of(frames, -1.0, 20) == [1] * 7
    assert lengths_of(frames[:1], 0.9, 8) == [1]


def test_the_budget_is_rounded_down_twice() -> None:
    assert split_budget(196, 0.1, 0.4) == (12, 7)
    assert split_budget(9, 0.1, 0.4) == (0, 0)
    assert split_budget(10, 0.5, 1.0) == (0, 5)


def test_anchor_frames_are_counted_from_the_last() -> None:
    assert anchor_counts(1, 3, 4) == [3]
    assert anchor_counts(4, 3, 4) == [0, 0, 0, 12]
    assert anchor_counts(5, 3, 4) == [7, 0, 0, 0, 7]  # 15 in two parts
    assert anchor_counts(6, 1, 4) == [0, 3, 0, 0, 0, 3]
    assert anchor_counts(3, 2, 1) == [2, 2, 2]


def test_anchors_are_dense_and_far_from_denser_ones(device: str) -> None:
    # A tight crowd at 0, a looser one at 10, and a token alone at 30.
    x = torch.tensor([[0.0], [0.01], [-0.01], [0.02], [10.0], [10.3], [9.7], [30.0]], device=device)
    assert anchors(x, 2, 3).tolist() == [0, 4]
    assert anchors(x, 99, 3).tolist() == [*range(8)]
    assert anchors(x[:1], 1, 4).tolist() == [0]


def test_an_anchor_keeps_its_share_of_itself(device: str) -> None:
    x = torch.tensor([[1.0, 0.0], [3.0, 0.3], [0.0, 1.0], [0.1, 5.0], [0.2, 7.0]], device=device)
    weights = merge_weights(x, torch.tensor([0, 2], device=device), 0.0)
    # The first has itself and one more: w = 1 / 3, and half of two thirds for each of the two.
    assert weights[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0, 0])
    assert weights[1].tolist() == pytest.approx([0, 0, 0.5, 0.25, 0.25])
    floored = merge_weights(x, torch.tensor([0, 2], device=device), 0.6)
    assert floored[0].tolist() == pytest.approx([0.8, 0.2, 0, 0, 0])
    assert torch.equal(merge_weights(x, torch.tensor([0, 2], device=device), 1.0), torch.eye(5, device=device)[[0, 2]])


def test_an_anchor_equal_to_an_earlier_one_stays_itself(device: str) -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.1]], device=device)
    weights = merge_weights(x, torch.tensor([0, 1], device=device), 0.0)
    assert weights[1].tolist() == [0, 1, 0]
    assert weights[0].tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_a_token_is_rated_by_the_patches_that_it_stands_for(device: str) -> None:
    key = torch.tensor([[4.0, 0.0], [0.0, 4.0], [2.0, 0.0], [0.0, 0.0]], device=device)[None, None]
    query = torch.tensor([[[1.0, 0.0]]], device=device)
    score = saliency(query, key, torch.tensor([0, 1, 0, 1], device=device), 2)
    assert score[0].tolist() == pytest.approx(torch.tensor([3 / math.sqrt(2), 0.0]).softmax(0).tolist())
    for preset in ("tiny", "tiny-window", "tiny-deepstack"):
        lvlm = LVLM.random(preset, device=device)
        acting = Reading(FastVID())
        lvlm.run(random_request(lvlm.config, frames=2), [Given(acting)])
        patches = acting.patches
        assert patches is not None
        assert patches.attention is not None
        query, key = patches.attention.query_BHNd, patches.attention.key_BGNd
        merge = key.shape[2] // acting.score_FN.shape[1]  # squares stand together in the encoder
        mean_key = key[:, :, patches.prefix :].unflatten(2, (-1, merge)).mean(dim=3)
        asks = query[:, :, :1] if patches.prefix else query.mean(dim=2, keepdim=True)
        weight = (asks @ mean_key.mT / math.sqrt(key.shape[-1])).softmax(dim=-1)[:, :, 0].mean(dim=1)
        torch.testing.assert_close(acting.score_FN, weight, atol=1e-5, rtol=1e-4)


class Reading(Condensing):
    """Notes what it rates."""

    score_FN: Tensor

    def rated(self, frames: int, grid: tuple[int, int]) -> Tensor:
        self.score_FN = super().rated(frames, grid)
        return self.score_FN


class Given(FastVID):
    """With what acts given."""

    def __init__(self, acting: Condensing) -> None:
        super().__init__()
        object.__setattr__(self, "acting", acting)

    def begin(self, run: object) -> Condensing:
        acting: Condensing = self.acting  # type: ignore[attr-defined]
        return acting


def test_salient_tokens_stay_as_they_are_and_merge_into_nothing(device: str) -> None:
    x, score = video(3, 12, 8, device=device), torch.rand(3, 12, generator=torch.Generator().manual_seed(1)).to(device)
    setting = FastVID(ratio=0.5, segments=1, threshold=-1.0, context_share=0.5, anchor_interval=3, anchor_weight=0.0)
    best = score.topk(3).indices
    blocks = condense(setting, x, score, (3, 4))
    assert [block.length for block in blocks] == [3, 3, 12]  # nine anchors in the last frame: all that are left of it
    for t in range(3):
        place_N2 = blocks[t].place_N2
        assert place_N2 is not None
        places = (place_N2 @ torch.tensor([4, 1])).tolist()
        assert places == sorted(places)
        for place in best[t].tolist():
            assert torch.equal(blocks[t].token_ND[places.index(place)], x[t, place])
    loud = x.clone()
    loud[0, best[0]] = 1e6  # what is salient elsewhere changes no anchor
    again = condense(FastVID(**{**vars(setting), "threshold": -1.0}), loud, score, (3, 4))
    assert torch.equal(again[2].token_ND, blocks[2].token_ND)


def test_every_anchor_frame_merges_the_whole_segment(device: str) -> None:
    x = 1 + 0.1 * video(4, 4, 6, device=device)
    score = torch.zeros(4, 4, device=device)
    setting = FastVID(
        ratio=0.25, segments=1, threshold=-1.0, context_share=1.0, anchor_interval=2, anchor_weight=0.0, neighbours=2
    )
    blocks = condense(setting, x, score, (2, 2))
    assert [block.length for block in blocks] == [0, 2, 0, 2]
    for t in (1, 3):
        pool = x.flatten(0, 1)
        chosen = anchors(x[t], 2, 2)
        like = torch.nn.functional.normalize(pool, dim=1) @ torch.nn.functional.normalize(x[t, chosen], dim=1).T
        for k, place in enumerate(chosen.tolist()):
            members = pool[like.argmax(dim=1) == k]
            w = 1 / (len(members) + 1)
            torch.testing.assert_close(blocks[t].token_ND[k], w * x[t, place] + (1 - w) * members.mean(dim=0))
    assert sum(int((like.argmax(dim=1) == k).sum()) for k in range(2)) == 16  # the frames before it, too


def test_equal_tokens_merge_into_themselves(device: str) -> None:
    x = torch.ones(5, 6, 4, device=device) * torch.tensor([1.0, -2, 3, 0.5], device=device)
    for block in condense(
        FastVID(ratio=0.5, segments=2, context_share=0.7), x, torch.zeros(5, 6, device=device), (2, 3)
    ):
        torch.testing.assert_close(block.token_ND, x[0, : block.length])


def test_segments_do_not_mix(device: str) -> None:
    x = video(4, 6, 8, device=device) * 0.1
    x[:2, :, 0] += 5
    x[2:, :, 1] += 5
    score = torch.zeros(4, 6, device=device)
    setting = FastVID(ratio=0.5, segments=1, threshold=0.5, context_share=1.0, anchor_weight=0.0)
    blocks = condense(setting, x, score, (2, 3))
    assert [block.length for block in blocks] == [0, 6, 0, 6]
    other = x.clone()
    other[2:] *= 7
    again = condense(setting, other, score, (2, 3))
    assert torch.equal(again[1].token_ND, blocks[1].token_ND)
    assert float(blocks[1].token_ND[:, 1].abs().max()) < 1


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_it_runs_on_every_dialect_and_everything_kept_changes_nothing(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=2)
    full = lvlm.run(request)
    tokens = full.trace.llm_vision_tokens[0]
    some = lvlm.run(request, [FastVID(ratio=0.5, segments=1, threshold=-1.0)]).trace.llm_vision_tokens
    assert len({*some}) == 1
    assert 0 < some[0] <= tokens // 2
    for whole in (FastVID(ratio=1.0, context_share=0.0), FastVID(ratio=1.0, anchor_interval=1, anchor_weight=1.0)):
        torch.testing.assert_close(lvlm.run(request, [whole]).logits_NC, full.logits_NC)


def test_deepstack_features_are_merged_with_their_tokens(device: str) -> None:
    x = video(2, 4, 6, device=device)
    acting = Rated(FastVID(ratio=0.5, segments=1, threshold=-1.0, context_share=1.0, anchor_weight=0.0))
    acting.score_FN = torch.zeros(2, 4, device=device)
    places = grid_places(2, 2).expand(2, -1, -1)
    stacked = torch.stack([x, 3 * x], dim=2)
    out = acting.adapter_output(AdapterOutput(VisionTokens(blocks_of(x, places, stacked), (2, 2))))
    last = out.blocks[1]
    assert last.deepstack_NLD is not None
    torch.testing.assert_close(last.deepstack_NLD, torch.stack([last.token_ND, 3 * last.token_ND], dim=1))
    assert not torch.allclose(last.token_ND, x[1, : last.length])


def test_what_it_cannot_read_is_refused(device: str) -> None:
    uneven = VisionTokens((Block(video(4, 6, device=device)), Block(video(3, 6, device=device))))
    with pytest.raises(Refusal, match="equally many tokens"):
        Condensing(FastVID()).adapter_output(AdapterOutput(uneven))
    tokens = VisionTokens(blocks_of(video(2, 4, 6, device=device)))
    with pytest.raises(Refusal, match="attention of the encoder"):
        Condensing(FastVID(ratio=0.5)).adapter_output(AdapterOutput(tokens))
    lvlm = LVLM.random("tiny-tiles", device=device)
    with pytest.raises(Refusal, match="stand on no grid"):
        lvlm.run(random_request(lvlm.config, frames=1), [FastVID()])
    assert lvlm.run(random_request(lvlm.config, frames=1), [FastVID(context_share=1.0)]).trace.llm_vision_tokens[0] > 0


def test_arguments_out_of_range_are_refused() -> None:
    for wrong in (
        {"ratio": 0.0}, {"ratio": 1.1}, {"segments": 0}, {"threshold": 1.5}, {"context_share": -0.1},
        {"anchor_interval": 0}, {"anchor_weight": 1.2}, {"neighbours": 0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FastVID(**wrong)
