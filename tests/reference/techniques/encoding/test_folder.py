"""FOLDER."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderLayer
from lvlm_atlas.reference.ops.merging import bipartite_soft_matching, merge_wavg
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.folder import Folder, fold, resisting, rounds
from lvlm_atlas.reference.techniques.encoding.tome import ToMe


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def nothing_paid(metric_BNd: Tensor) -> Tensor:
    return torch.zeros_like(metric_BNd[..., 0])


@pytest.mark.parametrize(
    ("tokens", "r", "expected"),
    [
        (577, 384, [288, 96]),
        (577, 432, [288, 144]),
        (577, 200, [200]),
        (65, 64, [32, 16, 8, 4, 2, 1]),
        (9, 0, []),
        (2, 5, []),
    ],
)
def test_rounds_halve_until_enough_are_gone_or_one_patch_is_left(tokens: int, r: int, expected: list[int]) -> None:
    assert rounds(tokens, r) == expected


def test_one_round_without_attention_is_a_merge_of_tome(device: str) -> None:
    metric = torch.randn(2, 17, 4, generator=torch.Generator().manual_seed(1)).to(device)
    expected = bipartite_soft_matching(metric, 5, protected=1)
    assert torch.equal(fold(metric, nothing_paid(metric), 5).group_BN, expected.group_BN)


def test_attention_keeps_a_token_from_being_merged_away_and_not_from_taking_others_in(device: str) -> None:
    # 0 is the class token. 2 lies 1° from 1, and 4 lies 10° from 3, so that 2 goes first.
    metric = directions(200, 1, 0, 90, 100, device=device)
    assert fold(metric, nothing_paid(metric), 1).group_BN.tolist() == [[0, 2, 2, 3, 1]]
    paid = torch.tensor([[0.0, 0, 0.01, 0, 0]], dtype=torch.float64, device=device)
    assert fold(metric, paid, 1, alpha=1.0).group_BN.tolist() == [[0, 2, 1, 3, 3]]  # 2 resists: 4 goes
    into = torch.tensor([[0.0, 0.5, 0, 0, 0]], dtype=torch.float64, device=device)
    assert fold(metric, into, 1, alpha=1.0).group_BN.tolist() == [[0, 2, 2, 3, 1]]  # 1 may take 2 in all the same


def test_attention_counts_a_hundredfold(device: str) -> None:
    metric = directions(200, 1, 0, 90, 100, device=device)
    paid = torch.tensor([[0.0, 0, 0.001, 0, 0.0003]], dtype=torch.float64, device=device)
    score = resisting(metric, paid, alpha=2.0)[0]
    cosine = metric[0, ::2] @ metric[0, 1::2].T
    torch.testing.assert_close(
        cosine - score, torch.tensor([[0.0] * 2, [0.2] * 2, [0.06] * 2], dtype=torch.float64, device=device)
    )


def test_the_class_token_stays_first_and_alone_through_all_rounds(device: str) -> None:
    metric = directions(0, 0, 0, 0, 0, 0, 0, 0, 0, device=device)
    for r in range(9):
        matching = fold(metric, nothing_paid(metric), r)
        group = matching.group_BN[0].tolist()
        assert group.count(group[0]) == 1
        assert group[0] == 0
        assert matching.count == max(2, 9 - r)


def test_what_stays_comes_first_and_what_takes_in_behind_it(device: str) -> None:
    # 4 goes into 3, the even ones that stay keep their order, the odd ones follow: not the order of the image.
    x = torch.arange(6.0, dtype=torch.float64, device=device)[None, :, None]
    metric = directions(300, 50, 100, 110, 111, 200, device=device)
    merged, _ = merge_wavg(fold(metric, nothing_paid(metric), 1), x)
    assert merged[0, :, 0].tolist() == [0, 2, 1, 3.5, 5]


def by_loops(metric_Nd: Tensor, paid_N: Tensor, r: int, alpha: float) -> list[list[int]]:
    """The patches of each token that is left, in order."""
    tokens = [([place], metric_Nd[place], float(paid_N[place])) for place in range(len(metric_Nd))]
    while step := min(r, (len(tokens) - 1) // 2):
        even, odd = tokens[::2], tokens[1::2]
        bids = []
        for at, (_, key, paid) in enumerate(even):
            score = [float(torch.cosine_similarity(key, other, dim=0)) - 100 * alpha * paid for _, other, _ in odd]
            bids.append((max(score), at, score.index(max(score))))
        going = {at: into for _, at, into in sorted(bids[1:], key=lambda bid: -bid[0])[:step]}
        tokens = [token for at, token in enumerate(even) if at not in going]
        for place, token in enumerate(odd):
            joined = [token, *(even[at] for at, into in going.items() if into == place)]
            patches = sum(len(members) for members, _, _ in joined)
            key = sum((len(members) * key for members, key, _ in joined), torch.zeros_like(token[1])) / patches
            paid = sum(paid for *_, paid in joined) / len(joined)
            tokens.append((sorted(place for members, _, _ in joined for place in members), key, paid))
        r -= step
    return [members for members, _, _ in tokens]


def groups(metric_Nd: Tensor, paid_N: Tensor, r: int, alpha: float) -> list[list[int]]:
    matching = fold(metric_Nd[None], paid_N[None], r, alpha)
    return [(matching.group_BN[0] == group).nonzero()[:, 0].tolist() for group in range(matching.count)]


def keys_and_attention(seed: int, tokens: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    metric = torch.randn(tokens, 3, generator=generator, dtype=torch.float64)
    return metric.to(device), torch.rand(tokens, generator=generator, dtype=torch.float64).to(device) / 15


# Three rounds in which plain means of keys, sums or size-weighted means of attention, and what the token that takes
# others in had of either, each lead to other groups.
TELLING = 267


def test_between_rounds_the_metric_is_the_mean_of_the_groups(device: str) -> None:
    metric, paid = keys_and_attention(TELLING, 17, device)
    first = bipartite_soft_matching(metric[None], 8, protected=1)
    stale = torch.cat([metric[:1], metric[1::2]])[None]
    fresh = first.then(bipartite_soft_matching(merge_wavg(first, metric[None])[0], 3, protected=1))
    assert torch.equal(fold(metric[None], torch.zeros_like(paid)[None], 11).group_BN, fresh.group_BN)
    assert not torch.equal(fresh.group_BN, first.then(bipartite_soft_matching(stale, 3, protected=1)).group_BN)
    assert groups(metric, paid, 13, 1.0) == by_loops(metric, paid, 13, 1.0)


def test_between_rounds_attention_is_the_plain_mean_of_those_joined(device: str) -> None:
    metric, paid = keys_and_attention(TELLING, 17, device)
    assert groups(metric, paid, 13, 1.0) == by_loops(metric, paid, 13, 1.0)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(0, 22), st.sampled_from([0.0, 0.1, 1.0]))
def test_groups_are_those_of_plain_loops(seed: int, tokens: int, r: int, alpha: float) -> None:
    metric, paid = keys_and_attention(seed, tokens)
    assert groups(metric, paid, r, alpha) == by_loops(metric, paid, r, alpha)


@settings(max_examples=40)
@given(st.data())
def test_any_number_is_removed_and_every_patch_counts_once(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(2, 40))
    r = data.draw(st.integers(0, 45))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    metric, x = (torch.randn(2, tokens, width, generator=generator, dtype=torch.float64) for width in (3, 5))
    matching = fold(metric, torch.rand(2, tokens, generator=generator, dtype=torch.float64), r)
    merged, size = merge_wavg(matching, x)
    assert matching.count == max(2, tokens - r)
    assert torch.equal(size.sum(1), torch.full((2,), float(tokens), dtype=torch.float64))
    torch.testing.assert_close((merged * size[..., None]).sum(1), x.sum(1))


def patches_of(device: str) -> Patches:
    generator = torch.Generator().manual_seed(3)
    hidden, query, key = (
        torch.randn(2, *shape, generator=generator).to(device) for shape in ((17, 8), (4, 17, 5), (4, 17, 5))
    )
    return Patches(hidden, 1, Probe(query, key, causal=False), key)


def test_the_last_layers_keys_and_class_attention_averaged_over_heads_decide(device: str) -> None:
    patches = patches_of(device)
    acts = Folder(r=11, alpha=0.2)
    assert acts.encoder_layer(EncoderLayer(1, 3, patches)) is patches
    out = acts.encoder_layer(EncoderLayer(2, 3, patches))
    assert patches.attention is not None
    assert patches.key_FHNd is not None
    weight = (patches.attention.query_BHNd @ patches.attention.key_BGNd.mT * 5**-0.5).softmax(-1)[:, :, 0].mean(1)
    hidden, size = merge_wavg(fold(patches.key_FHNd.mean(1), weight, 11, 0.2), patches.hidden_FND)
    torch.testing.assert_close(out.hidden_FND, hidden)
    assert out.size_FN is not None
    assert torch.equal(out.size_FN, size)
    assert not out.proportional
    assert out.prefix == 1


@pytest.mark.parametrize(("r", "left"), [(20, 44), (31, 33), (45, 19), (63, 1), (384, 1)])
def test_only_the_last_layer_that_runs_merges_and_after_its_attention(r: int, left: int, device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [Folder(r=r)]).trace
    # In a layer that does not run, or behind the features' own, merging would change nothing.
    assert trace.encoder_tokens == [65, 65, 65, left + 1]
    assert trace.vision_tokens == 6 * left
    assert trace.probe_entries == 4 * 6 * 65  # the class token's row


def test_removing_nothing_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, [Folder(r=0)])
    assert torch.equal(neutral.logits_NC, lvlm.run(request).logits_NC)
    assert neutral.trace.probe_entries == 0


def test_it_folds_what_earlier_merging_left(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [ToMe(r=8), Folder(r=10)]).trace
    assert trace.encoder_tokens == [65, 57, 49, 31]


def test_patches_without_keys_or_attention_are_refused() -> None:
    with pytest.raises(Refusal, match="keys"):
        Folder(r=2).encoder_layer(EncoderLayer(2, 3, Patches(torch.ones(1, 9, 4), prefix=1)))
    with pytest.raises(Refusal, match="attention"):
        Folder(r=2).encoder_layer(EncoderLayer(2, 3, Patches(torch.ones(1, 9, 4), 1, key_FHNd=torch.ones(1, 2, 9, 2))))


@pytest.mark.parametrize(("wrong", "says"), [({"r": -1}, "r must be"), ({"alpha": -0.1}, "alpha must be")])
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Folder(**wrong)  # type: ignore[arg-type]
