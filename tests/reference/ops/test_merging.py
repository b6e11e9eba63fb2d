"""Bipartite matching and merging: by hand, and against plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.ops.merging import bipartite_soft_matching, merge_source, merge_wavg


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def test_the_most_similar_pair_of_an_even_and_an_odd_token_is_merged(device: str) -> None:
    # Even places 0, 2, 4 at 0°, 100° and 200°; odd places 1, 3, 5 at 50°, 110° and 260°.
    metric = directions(0, 50, 100, 110, 200, 260, device=device)
    matching = bipartite_soft_matching(metric, 1)
    # Partners: 0 → 1 (50° away), 2 → 3 (10°), 4 → 5 (60°). 2 goes into 3; 0 and 4 stay, most similar first.
    assert matching.group_BN.tolist() == [[0, 2, 3, 3, 1, 4]]
    assert matching.count == 5
    matching = bipartite_soft_matching(metric, 3)
    assert matching.group_BN.tolist() == [[0, 0, 1, 1, 2, 2]]


def test_several_tokens_may_go_into_one(device: str) -> None:
    matching = bipartite_soft_matching(directions(0, 10, 20, 100, device=device), 2)
    assert matching.group_BN.tolist() == [[0, 0, 0, 1]]


def test_length_does_not_count_as_similarity(device: str) -> None:
    metric = directions(0, 50, 100, 110, 200, 260, device=device)
    longer = metric * torch.tensor([9.0, 1, 0.1, 3, 5, 2], device=device)[:, None]
    assert torch.equal(bipartite_soft_matching(metric, 2).group_BN, bipartite_soft_matching(longer, 2).group_BN)


@settings(max_examples=60)
@given(st.integers(0, 2), st.integers(3, 15), st.integers(0, 9), st.integers(0, 10**6))
def test_matching_is_that_of_plain_loops(protected: int, tokens: int, r: int, seed: int) -> None:
    metric = torch.randn(1, tokens, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    unit = (metric / metric.norm(dim=-1, keepdim=True))[0]
    # The class token is even token 0, the distillation token odd token 1.
    evens = range(2 if protected else 0, tokens, 2)
    odds = range(3 if protected == 2 else 1, tokens, 2)
    pairs = [max((float(unit[even] @ unit[odd]), even, odd) for odd in odds) for even in evens] if odds else []
    merged = sorted(pairs, reverse=True)[: min(r, (tokens - protected) // 2)]
    target = {even: odd for _, even, odd in merged}
    group = bipartite_soft_matching(metric, r, protected).group_BN[0].tolist()
    for one in range(tokens):
        for two in range(tokens):
            assert (group[one] == group[two]) == (target.get(one, one) == target.get(two, two))
    assert group[:protected] == list(range(protected))
    assert sorted(set(group)) == list(range(tokens - len(merged)))


def test_the_class_token_is_never_merged_and_stays_in_front(device: str) -> None:
    same = directions(*[30] * 7, device=device)
    matching = bipartite_soft_matching(same, 3, protected=1)
    assert matching.group_BN[0, 0] == 0
    assert (matching.group_BN == 0).sum() == 1
    # Without protection it is merged like the others.
    assert (bipartite_soft_matching(same, 3).group_BN == bipartite_soft_matching(same, 3).group_BN[0, 0]).sum() > 1


def test_the_distillation_token_is_no_target_and_stays_beside_the_class_token(device: str) -> None:
    matching = bipartite_soft_matching(directions(*[30] * 8, device=device), 3, protected=2)
    assert matching.group_BN[0, :2].tolist() == [0, 1]
    assert (matching.group_BN < 2).sum() == 2


def test_a_fourth_kind_of_protection_is_refused() -> None:
    with pytest.raises(ValueError, match="protected must be 0, 1"):
        bipartite_soft_matching(directions(0, 1, 2, 3), 1, protected=3)


@settings(max_examples=40)
@given(st.integers(2, 20), st.integers(0, 12), st.integers(0, 1), st.integers(0, 10**6))
def test_merging_loses_no_patch_and_no_weight(tokens: int, r: int, protected: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, tokens, 5, generator=generator, dtype=torch.float64)
    size = torch.randint(1, 9, (2, tokens), generator=generator).double()
    matching = bipartite_soft_matching(torch.randn(2, tokens, 3, generator=generator), r, protected)
    merged, sizes = merge_wavg(matching, x, size)
    assert merged.shape == (2, matching.count, 5)
    assert torch.equal(sizes.sum(1), size.sum(1))
    torch.testing.assert_close((merged * sizes[..., None]).sum(1), (x * size[..., None]).sum(1))


def test_nothing_to_remove_leaves_the_tokens_as_they_are(device: str) -> None:
    x = torch.randn(2, 7, 3, device=device)
    matching = bipartite_soft_matching(x, 0)
    merged, size = merge_wavg(matching, x)
    assert torch.equal(merged, x)
    assert torch.equal(size, torch.ones(2, 7, device=device))
    assert torch.equal(matching.unmerge(x), x)


def test_merging_equal_tokens_keeps_their_value_and_counts_them(device: str) -> None:
    x = directions(0, 0, 90, 90, device=device)
    merged, size = merge_wavg(bipartite_soft_matching(x, 2), x)
    torch.testing.assert_close(merged, directions(0, 90, device=device))
    assert size.tolist() == [[2, 2]]


def test_unmerging_gives_every_token_the_value_of_its_group(device: str) -> None:
    x = torch.randn(2, 9, 4, device=device)
    matching = bipartite_soft_matching(torch.randn(2, 9, 3, device=device), 3, protected=1)
    merged, size = merge_wavg(matching, x)
    back = matching.unmerge(merged)
    alone = matching.unmerge(size[..., None])[..., 0] == 1
    assert torch.equal(back[alone], x[alone])
    assert int((~alone).sum()) >= 2 * 2
    for row, group in enumerate(matching.group_BN.tolist()):
        for token, place in enumerate(group):
            mates = [mate for mate, other in enumerate(group) if other == place]
            torch.testing.assert_close(back[row, token], x[row, mates].mean(0))


def test_the_source_map_tells_which_patches_each_token_stands_for(device: str) -> None:
    x = torch.randn(2, 12, 4, device=device)
    source, size, now = None, None, x
    for r in (4, 3):
        matching = bipartite_soft_matching(now, r, protected=1)
        source = merge_source(matching, source)
        now, size = merge_wavg(matching, now, size)
    assert source is not None
    assert source.shape == (2, 5, 12)
    assert torch.equal(source.sum(1), torch.ones(2, 12, device=device))
    assert torch.equal(source.sum(2), size)
    torch.testing.assert_close(now, source @ x / source.sum(2, keepdim=True))


def test_zero_vectors_match_nothing_and_ties_go_to_the_lower_place(device: str) -> None:
    metric = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], device=device)[
        None
    ]
    matching = bipartite_soft_matching(metric, r=1)
    merged = matching.merge(torch.eye(6, device=device)[None])[0]
    assert merged.isfinite().all()
    assert [1.0, 4.0] in [row.nonzero()[:, 0].tolist() for row in merged]  # place 1 before its twin at 3
    alike = bipartite_soft_matching(torch.zeros(1, 6, 2, device=device), r=2)
    assert alike.group_BN.tolist() == [[1, 1, 1, 2, 0, 3]]  # the first two even places go to the first odd one


@pytest.mark.parametrize(("tokens", "r"), [(1, 5), (2, 1), (3, 9)])
def test_the_fewest_tokens_and_more_to_remove_than_can_be(tokens: int, r: int, device: str) -> None:
    matching = bipartite_soft_matching(torch.ones(2, tokens, 3, device=device), r)
    assert matching.count == tokens - tokens // 2 * (tokens > 1)
    assert sorted({*matching.group_BN[0].tolist()}) == list(range(matching.count))
