"""VideoNSA."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.ops.attention import attend, causal_mask, share_heads
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.videonsa import (
    Branches,
    Gates,
    VideoNSA,
    compressed,
    means,
    selected,
)

SMALL = VideoNSA(block_size=4, block_count=2, window_size=3)


def randn(*shape: int, device: str, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def tensors(length: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(randn(1, h, length, 8, device=device, seed=i) for i, h in enumerate((4, 2, 2)))  # type: ignore[return-value]


def mixed(setting: VideoNSA, tensors: tuple[Tensor, ...], gates: tuple[float, float, float]) -> tuple[Tensor, int]:
    query = tensors[0]
    gate = torch.tensor(gates, device=query.device)[:, None, None, None].expand(3, *query.shape[:3])
    return Branches(setting, None, (1, 1)).mixed(*tensors, gate)  # type: ignore[arg-type]


def test_a_short_block_has_the_mean_of_its_own_tokens(device: str) -> None:
    x = randn(1, 2, 6, 3, device=device)
    torch.testing.assert_close(means(x, 4), torch.stack([x[:, :, :4].mean(2), x[:, :, 4:].mean(2)], dim=2))


@pytest.mark.parametrize("length", [1, 3, 4, 9])
def test_the_compressed_branch_is_that_of_a_loop(device: str, length: int) -> None:
    query, key, value = tensors(length, device)
    out, weight = compressed(query, key, value, 4)
    key, value = (share_heads(x, 4) for x in (key, value))
    for i in range(length):
        blocks = [slice(4 * j, 4 * j + 4) for j in range((i + 1) // 4)]
        assert int((weight[0, 0, i] > 0).sum()) == len(blocks)
        if not blocks:
            assert not out[:, :, i].any()
            continue
        mean_key, mean_value = (torch.stack([x[:, :, b].mean(2) for b in blocks], dim=2) for x in (key, value))
        expected = attend(query[:, :, i : i + 1], mean_key, mean_value)[:, :, 0]
        torch.testing.assert_close(out[:, :, i], expected)


def test_the_own_block_is_always_among_them(device: str) -> None:
    weight = torch.zeros(1, 2, 12, 3, device=device)
    weight[:, :, 8:, 1], weight[:, :, 8:, 0] = 0.9, 0.1
    keep = selected(weight, 1, 2, 4)[0, 0]
    assert keep[3].tolist() == [True, False, False]  # no other block before it
    assert keep[5].tolist() == [True, True, False]
    assert keep[8].tolist() == [False, True, True]
    assert selected(weight, 1, 1, 4)[0, 0, 8].tolist() == [False, False, True]
    assert selected(weight, 1, 9, 4)[0, 0, 11].tolist() == [True, True, True]


def test_heads_of_a_group_choose_the_same_blocks(device: str) -> None:
    weight = torch.zeros(1, 4, 13, 4, device=device)
    weight[0, 0, 12] = torch.tensor([0.5, 0.4, 0.1, 0])  # two heads of the first group: 0.6, 0.9, 0.5
    weight[0, 1, 12] = torch.tensor([0.1, 0.5, 0.4, 0])
    weight[0, 2:, 12, 2] = 1
    keep = selected(weight, 2, 2, 4)[0, :, 12]
    assert keep.tolist() == [[False, True, False, True], [False, False, True, True]]


def test_branches_have_a_softmax_each_and_add_up_by_their_gates(device: str) -> None:
    all_ = tensors(21, device)
    alone = [mixed(SMALL, all_, tuple(float(i == j) for j in range(3)))[0] for i in range(3)]  # type: ignore[arg-type]
    together, _ = mixed(SMALL, all_, (0.9, 0.7, 0.4))
    torch.testing.assert_close(together, 0.9 * alone[0] + 0.7 * alone[1] + 0.4 * alone[2])
    torch.testing.assert_close(alone[0], compressed(*all_, 4)[0])
    place = torch.arange(21, device=device)
    near = (place[:, None] >= place) & (place[:, None] - place < 3)
    torch.testing.assert_close(alone[2], attend(*all_, near))


def test_enough_blocks_are_dense_attention(device: str) -> None:
    all_ = tensors(21, device)
    out, pairs = mixed(VideoNSA(4, 6, 1), all_, (0, 1, 0))
    torch.testing.assert_close(out, attend(*all_, causal=True))
    assert pairs == 4 * 21 * 22 // 2


def test_nothing_depends_on_later_tokens(device: str) -> None:
    query, key, value = tensors(21, device)
    before, _ = mixed(SMALL, (query, key, value), (1, 1, 1))
    key, value = key.clone(), value.clone()
    key[:, :, 13:], value[:, :, 13:] = 5, -5
    after, _ = mixed(SMALL, (query, key, value), (1, 1, 1))
    torch.testing.assert_close(after[:, :, :13], before[:, :, :13])
    assert not torch.allclose(after[:, :, 13:], before[:, :, 13:], atol=1e-2)


def test_pairs_are_those_that_blocks_or_window_look_at(device: str) -> None:
    query, key, value = tensors(30, device)
    _, pairs = mixed(SMALL, (query, key, value), (1, 1, 1))
    keep = selected(compressed(query, key, value, 4)[1], 2, 2, 4)
    expected = sum(bool(keep[0, g, i, j // 4]) or i - j < 3 for g in range(2) for i in range(30) for j in range(i + 1))
    assert pairs == 2 * expected


def test_gates_lie_between_0_and_1_and_differ_by_branch(device: str) -> None:
    gates = drawn(lambda: Gates(16, 4), device=device)
    x = randn(2, 5, 16, device=device)
    gate = gates(x)
    assert gate.shape == (3, 2, 4, 5)
    hidden = torch.nn.functional.gelu(x @ gates.g_proj_1.weight.T + gates.g_proj_1.bias)
    logit = hidden @ gates.g_proj_2.weight.T + gates.g_proj_2.bias
    torch.testing.assert_close(gate[1, :, 2], (logit[..., 3 * 2 + 1] / 0.3).sigmoid())


@pytest.mark.parametrize("preset", ["tiny", "tiny-window"])
def test_text_rows_are_dense_attention(preset: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LVLM.random(preset, device=device)
    seen = []
    choose = Branches.choose_blocks

    def noted(self: Branches, at):  # type: ignore[no-untyped-def]
        seen.append((at, choose(self, at)))
        return seen[-1][1]

    monkeypatch.setattr(Branches, "choose_blocks", noted)
    result = model.run(random_request(model.config), [SMALL])
    at, chosen = seen[0]
    text = ~at.sequence.vision_BN[0]
    dense = attend(at.query_BHNd, at.key_BGNd, at.value_BGNd, causal=True)
    torch.testing.assert_close(chosen.out_BHNd[:, :, text], dense[:, :, text], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(chosen.out_BHNd[:, :, ~text], dense[:, :, ~text], atol=1e-3)
    heads, length = dense.shape[1:3]
    rows = int(causal_mask(length, text.device)[text].sum()) * heads
    assert rows < result.trace.score_entries[0] < heads * length * (length + 1) // 2
    assert result.trace.kv_entries == [length] * at.layers


def test_a_second_round_is_refused(device: str) -> None:
    model = LVLM.random(device=device)
    stream = model.stream([SMALL])
    frames = random_request(model.config, frames=2).frames_F3HW
    stream.see(frames[:1])
    with pytest.raises(Refusal, match="one round"):
        stream.see(frames[1:])


@pytest.mark.parametrize("wrong", [{"block_size": 0}, {"block_count": 0}, {"window_size": 0}])
def test_illegal_values_are_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VideoNSA(**wrong)
