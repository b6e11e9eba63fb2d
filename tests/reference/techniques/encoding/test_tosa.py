"""ToSA."""

import math

import pytest
import torch
from torch import Tensor, nn

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderLayer
from lvlm_atlas.reference.modules.kept import give
from lvlm_atlas.reference.ops.merging import bipartite_soft_matching, match_pairs, merge_wavg
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.tosa import (
    DepthHead,
    Merging,
    ToSA,
    depth_bins,
    likeness,
    semantic_share,
    sinusoids,
    spatial_tokens,
)


def grid(rows: int, columns: int, device: str = "cpu") -> Tensor:
    """Row and column (1, N, 2) of the patches of a grid."""
    return torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))[None]


def test_space_decides_first_and_keys_at_the_end() -> None:
    assert [semantic_share("increase", layer, 5) for layer in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert [semantic_share("decrease", layer, 5) for layer in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert {semantic_share("uniform", layer, 5) for layer in range(5)} == {0.5}
    assert semantic_share("increase", 0, 1) == 0


def test_depth_is_cut_in_bins_and_the_deepest_is_not_past_the_last(device: str) -> None:
    gap = 256 / 27
    depth = torch.tensor([[0.0, 0.49 * gap, 0.51 * gap, 13.4 * gap, 255.0, 26.6 * gap]], device=device)
    assert depth_bins(depth).tolist() == [[0, 0, 1, 13, 26, 26]]  # 255 is 26.9 gaps, which rounds to 27
    assert depth_bins(depth, bins=1).tolist() == [[0] * 6]


def test_sine_and_cosine_take_turns(device: str) -> None:
    code = sinusoids(torch.tensor([0, 3], device=device))
    assert code.shape == (2, 24)
    assert code[0].tolist() == [0, 1] * 12
    slow = 10000 ** (-2 / 24)
    expected = [math.sin(3), math.cos(3), math.sin(3 * slow), math.cos(3 * slow)]
    torch.testing.assert_close(code[1, :4].cpu(), torch.tensor(expected))


def test_a_spatial_token_holds_row_column_and_depth_side_by_side(device: str) -> None:
    place = torch.tensor([[[-1, -1], [2, 5]]], device=device)
    token = spatial_tokens(place, torch.tensor([[0, 7]], device=device))
    assert token.shape == (1, 2, 72)
    assert not bool(token[0, 0].any())  # the class token stands nowhere
    for part, index in enumerate((2, 5, 7)):
        torch.testing.assert_close(
            token[0, 1, 24 * part : 24 * part + 24], sinusoids(torch.tensor(index, device=device))
        )


def test_without_keys_the_nearest_in_space_merge_and_depth_tells_neighbours_apart(device: str) -> None:
    # Four patches in a row: 1 and 2 lie at one depth, 0 and 3 far behind.
    place, depth = grid(1, 4, device), torch.tensor([[20, 3, 3, 20]], device=device)
    spatial = spatial_tokens(place, depth)
    keys = torch.randn(1, 4, 5, device=device)
    group = match_pairs(likeness(keys, spatial, 0.0), 1).group_BN[0].tolist()
    assert group[1] == group[2]
    flat = match_pairs(likeness(keys, spatial_tokens(place, torch.zeros_like(depth)), 0.0), 1).group_BN[0].tolist()
    assert flat[0] == flat[1]  # equally near, the first pair goes


def test_with_keys_alone_it_merges_as_tome_does(device: str) -> None:
    keys = torch.randn(2, 9, 5, device=device)
    spatial = torch.randn(2, 9, 72, device=device)
    assert torch.equal(match_pairs(likeness(keys, spatial, 1.0), 3).group_BN, bipartite_soft_matching(keys, 3).group_BN)


def test_the_two_cosines_are_weighed_and_not_multiplied(device: str) -> None:
    keys, spatial = torch.randn(1, 6, 4, device=device), torch.randn(1, 6, 72, device=device)
    for even in range(3):
        for odd in range(3):
            parts = [torch.cosine_similarity(x[0, 2 * even], x[0, 2 * odd + 1], dim=0) for x in (keys, spatial)]
            torch.testing.assert_close(likeness(keys, spatial, 0.3)[0, even, odd], 0.3 * parts[0] + 0.7 * parts[1])


def patches_of(device: str, places: bool = True) -> Patches:
    generator = torch.Generator().manual_seed(3)
    hidden, key = (torch.randn(2, *shape, generator=generator).to(device) for shape in ((17, 8), (4, 17, 5)))
    place = nn.functional.pad(grid(4, 4, device), (0, 0, 1, 0), value=-1).expand(2, -1, -1) if places else None
    return Patches(hidden, 1, Probe(key, key, causal=False), key, place_FN2=place)


def test_spatial_tokens_are_merged_along_with_the_old_sizes(device: str) -> None:
    acts = Merging(ToSA(r=3, style="uniform"), DepthHead(8).to(device))
    first = acts.encoder_layer(EncoderLayer(0, 3, patches_of(device)))
    spatial, keys = acts.spatial_FNe, first.key_FHNd
    assert spatial is not None
    assert keys is not None
    assert first.size_FN is not None
    assert spatial.shape == (2, 14, 72)
    second = acts.encoder_layer(EncoderLayer(1, 3, first))
    matching = match_pairs(likeness(keys.mean(1), spatial, 0.5), 3, 1)
    expected, _ = merge_wavg(matching, spatial, first.size_FN)
    assert acts.spatial_FNe is not None
    torch.testing.assert_close(acts.spatial_FNe, expected)
    torch.testing.assert_close(second.hidden_FND, merge_wavg(matching, first.hidden_FND, first.size_FN)[0])
    # With the sizes after merging, groups would weigh otherwise.
    assert not torch.allclose(expected, merge_wavg(matching, spatial)[0])


def test_depth_is_spread_over_each_frame_and_a_flat_one_is_all_near(device: str) -> None:
    head = DepthHead(4).to(device)
    depth = head(torch.randn(3, 9, 4, device=device))
    torch.testing.assert_close(depth.amin(1), torch.zeros(3, device=device))
    torch.testing.assert_close(depth.amax(1), torch.full((3,), 255.0, device=device))
    assert not bool(head(torch.ones(1, 9, 4, device=device)).any())


def test_another_depth_merges_other_patches(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=1)
    before = lvlm.run(request, [ToSA(r=12)]).logits_NC
    give(lvlm, DepthHead, DepthHead(32).to(device))
    assert not torch.equal(before, lvlm.run(request, [ToSA(r=12)]).logits_NC)
    # With one bin all patches are equally deep, whatever the head says.
    once = lvlm.run(request, [ToSA(r=12, bins=1)]).logits_NC
    give(lvlm, DepthHead, DepthHead(32).to(device))
    assert torch.equal(once, lvlm.run(request, [ToSA(r=12, bins=1)]).logits_NC)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (ToSA(r=8), [65, 57, 49, 41]),
        (ToSA(r=25), [65, 40, 21, 11]),
        (ToSA(r=5, style="decrease", size_bias=True), [65, 60, 55, 50]),
    ],
)
def test_each_layer_removes_r_and_half_at_most_after_its_attention(
    setting: ToSA, expected: list[int], device: str
) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [setting]).trace
    assert trace.encoder_tokens == expected
    assert trace.vision_tokens == 6 * (expected[-1] - 1)
    assert trace.probe_entries == 0


def test_the_bias_of_the_released_code_is_none(device: str) -> None:
    # Along the queries it cancels in the softmax, which is `size_bias: false`; along the keys it does not.
    generator = torch.Generator().manual_seed(0)
    logits, size = torch.randn(1, 5, 5, generator=generator), torch.tensor([[1.0, 2, 1, 3, 1]])
    torch.testing.assert_close((logits + size.log()[..., None]).softmax(-1), logits.softmax(-1))
    assert not torch.allclose((logits + size.log()[:, None]).softmax(-1), logits.softmax(-1))
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=1)
    on, off = (lvlm.run(request, [ToSA(r=12, size_bias=flag)]).logits_NC for flag in (True, False))
    assert not torch.allclose(on, off)


def test_removing_nothing_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    assert torch.equal(lvlm.run(request, [ToSA(r=0)]).logits_NC, lvlm.run(request).logits_NC)


def test_merged_patches_and_those_without_keys_or_places_are_refused(device: str) -> None:
    acts = Merging(ToSA(r=3), DepthHead(8).to(device))
    with pytest.raises(Refusal, match="where each patch stands"):
        acts.encoder_layer(EncoderLayer(0, 3, patches_of(device, places=False)))
    acts.encoder_layer(EncoderLayer(0, 3, patches_of(device)))
    with pytest.raises(Refusal, match="has merged some"):
        acts.encoder_layer(EncoderLayer(1, 3, patches_of(device)))
    bare = Patches(torch.ones(1, 2, 8, device=device), 1, place_FN2=grid(1, 2, device))
    with pytest.raises(Refusal, match="keys"):
        Merging(ToSA(r=1), DepthHead(8).to(device)).encoder_layer(EncoderLayer(0, 1, bare))


@pytest.mark.parametrize(
    ("wrong", "says"), [({"r": -1}, "r must be"), ({"bins": 0}, "bins must be"), ({"style": "linear"}, "style must be")]
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ToSA(**wrong)  # type: ignore[arg-type]
