"""PruneVid."""

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Entries, Sequence
from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, CacheLayers, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV
from lvlm_atlas.reference.techniques.prefilling.prunevid import (
    PruneVid,
    Pruning,
    clusters,
    contiguous,
    merged,
    question_score,
    static_spots,
)


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def video(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def condense(setting: PruneVid, x_TND: Tensor) -> tuple[tuple[Block, ...], list[int]]:
    acting = Pruning(setting, run=None)  # type: ignore[arg-type]
    blocks = acting.adapter_output(AdapterOutput(VisionTokens(tuple(map(Block, x_TND))))).blocks
    return blocks, acting.group


def test_only_the_longest_runs_of_a_cluster_stand() -> None:
    assert contiguous([0, 0, 0, 1, 0, 1, 1]) == [5, 2]  # 1, 0 between: the left run is longer
    assert contiguous([0, 0, 1, 0, 1, 1, 1]) == [2, 5]  # and here the right one
    assert contiguous([0, 0, 1, 2, 2]) == [3, 2]  # a single frame does not stand; of equals the left one
    assert contiguous([1, 1, 0, 0, 1, 1, 0, 0]) == [2, 2, 2, 2]  # equally long runs stand all
    assert contiguous([0, 1, 0, 1]) == [4]  # none stands
    assert contiguous([2, 0, 0]) == [3]
    assert contiguous([0, 0, 1, 0, 0]) == [5]
    assert contiguous([4]) == [1]


def test_a_stretch_given_to_its_left_makes_that_run_longer_for_the_next() -> None:
    # Frames 2 and 5 to 6: the first goes left, 0 0 0, which is then longer than the next run of two.
    assert contiguous([0, 0, 9, 1, 1, 8, 2, 2, 2]) == [3, 2, 4]
    assert contiguous([0, 0, 9, 0, 0, 8, 2, 2, 2, 2]) == [6, 4]  # 0 0 0 0 0 against 2 2 2 2


def test_frames_and_tokens_cluster_around_density_peaks(device: str) -> None:
    x = torch.tensor([[9.0], [0.0], [0.01], [9.2], [0.02], [8.9]], device=device)
    assert clusters(x, 2, 3).group_BN[0].tolist() == [0, 1, 1, 0, 1, 0]
    assert clusters(x, 0, 7).group_BN[0].tolist() == [0] * 6  # one at least
    assert clusters(x[:1], 1, 7).group_BN[0].tolist() == [0]


def test_a_frame_is_not_compared_with_itself(device: str) -> None:
    x = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]], device=device)
    # Mean cosines 0, 1 and 0.71; with themselves 0.5, 1 and 0.85.
    assert static_spots(x, 0.4).tolist() == [False, True, True]
    assert static_spots(x, 0.8).tolist() == [False, True, False]
    assert static_spots(x[:1], -1.0).tolist() == [False] * 3  # a single frame has no pair


def test_the_mean_is_over_all_pairs_of_frames(device: str) -> None:
    x = video(5, 7, 6, device=device)
    cosine = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
    pairs = torch.stack([cosine[i, j] for i in range(5) for j in range(i)]).mean(dim=0)
    for threshold in (-0.2, 0.0, 0.1):
        assert static_spots(x, threshold).tolist() == (pairs > threshold).tolist()


def test_a_small_set_is_not_clustered(device: str) -> None:
    x = video(15, 4, device=device)
    assert torch.equal(merged(x[:14], 0.5, 14, 7), x[:14])
    assert merged(x, 0.5, 14, 7).shape == (7, 4)
    assert merged(x, 0.5, 15, 7).shape == (15, 4)
    torch.testing.assert_close(merged(x, 1.0, 1, 7), x)
    assert len(merged(x, 0.01, 1, 7)) == 1


def test_a_cluster_becomes_its_mean(device: str) -> None:
    x = torch.tensor([[9.0], [0.0], [0.3], [9.2], [0.0], [8.8]], device=device)
    assert merged(x, 0.34, 1, 3)[:, 0].tolist() == pytest.approx([9.0, 0.1])


def test_static_spots_become_one_token_a_segment(device: str) -> None:
    x = video(2, 3, 8, device=device)
    x[1, 0] = 3 * x[0, 0]  # alike but for their length
    blocks, group = condense(PruneVid(threshold=0.99), x)
    torch.testing.assert_close(blocks[0].token_ND, torch.stack([2 * x[0, 0], x[0, 1], x[0, 2]]))
    torch.testing.assert_close(blocks[1].token_ND, x[1, 1:])
    assert group == [0, 1, 1, 2, 2]


def test_segments_follow_one_another(device: str) -> None:
    x = 0.01 * video(6, 4, 8, device=device)
    x[:3, :, 0] += 5
    x[3:, :, 1] += 5
    blocks, group = condense(PruneVid(segment_ratio=0.34, threshold=0.9), x)
    assert [block.length for block in blocks] == [4, 0, 0, 4, 0, 0]
    torch.testing.assert_close(blocks[0].token_ND, x[:3].mean(dim=0))
    torch.testing.assert_close(blocks[3].token_ND, x[3:].mean(dim=0))
    assert group == [0] * 4 + [1] * 4


def test_the_greatest_attention_of_any_word_and_head_counts(device: str) -> None:
    rows = torch.tensor([[[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [[0.3, 0.6, 0.1], [0.4, 0.4, 0.2]]]], device=device)
    assert question_score(rows, torch.tensor([[0, 2]], device=device)).tolist() == [pytest.approx([0.5, 0.8])]


class Watched(PruneVid):
    """Notes what is chosen."""

    def begin(self, run: Run) -> "Watching":
        super().begin(run)
        object.__setattr__(self, "last", Watching(self, run))
        return self.last  # type: ignore[attr-defined, no-any-return]


class Watching(Pruning):
    """PruneVid, with what passed it."""

    def llm_layer(self, at: LlmLayer) -> Sequence:
        group, out = [*self.group], super().llm_layer(at)
        if at.layer == self.setting.layer + 1:
            self.before, self.after, self.groups = at.sequence, out, group
        return out

    def compress_caches(self, at: CacheLayers) -> tuple[Entries, ...]:
        self.cached = super().compress_caches(at)
        return self.cached


def watched(lvlm: LVLM, **setting: float) -> Watching:
    technique = Watched(**setting)  # type: ignore[arg-type]
    lvlm.run(random_request(lvlm.config, frames=4, max_new_tokens=2), [technique])
    return technique.last  # type: ignore[attr-defined, no-any-return]


def test_every_group_keeps_its_share_of_tokens(lvlm: LVLM) -> None:
    seen = watched(lvlm, layer=1, keep_ratio=0.3, threshold=0.05, segment_ratio=0.5, spared=3)
    before, after = seen.before, seen.after
    assert before.attention is not None
    place = before.vision_places()[0]
    groups = torch.tensor(seen.groups, device=place.device)
    assert len(groups) == len(place)
    behind = int(place[-1]) + 1
    score = before.attention.rows(slice(behind, None))[0].amax(dim=(0, 1))[place]
    chosen = []
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]
        best = score[members].argsort(descending=True)[: int(len(members) * 0.3)]
        chosen += place[members[best]].tolist()
    kept = [*range(int(place[0])), *sorted(chosen), *range(behind, before.length)]
    assert after.index_BN[0].tolist() == before.index_BN[0, kept].tolist()
    assert torch.equal(after.position_BN, before.position_BN[:, kept])  # with gaps


def test_layers_up_to_the_chosen_one_forget_what_was_not_chosen(lvlm: LVLM) -> None:
    seen = watched(lvlm, layer=1, keep_ratio=0.5)
    for entries in seen.cached:
        assert entries.index_BGS[0, 0].tolist() == seen.after.index_BN[0].tolist()
    run = lvlm.run(random_request(lvlm.config, frames=4), [PruneVid(layer=1, keep_ratio=0.5)]).trace
    assert run.llm_vision_tokens[0] == run.llm_vision_tokens[1] > run.llm_vision_tokens[2]


def test_with_everything_kept_nothing_changes(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=3, max_new_tokens=3)
    whole = PruneVid(threshold=1.0, cluster_ratio=1.0, keep_ratio=1.0, layer=0)
    torch.testing.assert_close(lvlm.run(request, [whole]).logits_NC, lvlm.run(request).logits_NC)


def test_what_it_cannot_read_is_refused(lvlm: LVLM, device: str) -> None:
    uneven = VisionTokens((Block(video(4, 6, device=device)), Block(video(3, 6, device=device))))
    with pytest.raises(Refusal, match=r"equally many tokens, got \[4, 3\]"):
        Pruning(PruneVid(), run=None).adapter_output(AdapterOutput(uneven))  # type: ignore[arg-type]
    request = random_request(lvlm.config, frames=2)
    with pytest.raises(Refusal, match=r"layer must lie in 0\.\.2"):
        lvlm.run(request, [PruneVid(layer=3)])
    with pytest.raises(Refusal, match="needs `equal-frames`"):
        lvlm.run(request, [PruneVid(layer=1), FastV()])
    other = LVLM.random("tiny-window", device=device)
    with pytest.raises(Refusal, match="needs `one-position-axis`"):
        other.run(random_request(other.config, frames=2), [PruneVid(layer=1)])


def test_arguments_out_of_range_are_refused() -> None:
    for wrong in (
        {"segment_ratio": 0.0}, {"cluster_ratio": 1.5}, {"keep_ratio": 0.0}, {"threshold": 2.0}, {"spared": 0},
        {"neighbours": 0}, {"layer": -1},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PruneVid(**wrong)
