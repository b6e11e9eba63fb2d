"""Token merging."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.points import EncoderLayer
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.lvlm.vision import Attention
from lvlm_atlas.reference.ops.merging import bipartite_soft_matching, merge_source, merge_wavg
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.tome import ToMe, schedule


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def patches(hidden_FND: Tensor, key_FHNd: Tensor, prefix: int = 1) -> Patches:
    """Patches after a layer's attention, with uniform queries."""
    return Patches(hidden_FND, prefix, Probe(torch.ones_like(key_FHNd), key_FHNd, causal=False), key_FHNd)


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


def test_no_more_than_half_of_the_unprotected_tokens_go_at_once(device: str) -> None:
    metric = torch.randn(2, 9, 3, device=device)
    assert bipartite_soft_matching(metric, 100).count == 9 - 4
    assert bipartite_soft_matching(metric, 100, protected=1).count == 9 - 4
    assert bipartite_soft_matching(metric, 100, protected=2).count == 9 - 3


def test_equal_similarities_are_merged_by_place(device: str) -> None:
    matching = bipartite_soft_matching(directions(*[30] * 8, device=device), 2)
    # Even tokens 0 and 2 go into odd token 1, the first of equals; 4 and 6 stay in front.
    assert matching.group_BN.tolist() == [[2, 2, 2, 3, 0, 4, 1, 5]]


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


def test_sizes_survive_into_the_next_merge(device: str) -> None:
    # 0 and 1 merge first, then their token (size 2) with the third; every patch must weigh a third.
    value = torch.tensor([[[1.0], [2.0], [6.0]]], device=device)
    first, size = merge_wavg(bipartite_soft_matching(directions(0, 1, 90, device=device), 1), value)
    assert (first.tolist(), size.tolist()) == ([[[6.0], [1.5]]], [[1, 2]])
    second, size = merge_wavg(bipartite_soft_matching(directions(0, 1, device=device), 1), first, size)
    assert (second.tolist(), size.tolist()) == ([[[3.0]]], [[3]])


def test_merged_tokens_leave_the_order_of_the_image(device: str) -> None:
    x = torch.arange(6.0, device=device)[None, :, None]
    merged, _ = merge_wavg(bipartite_soft_matching(directions(0, 50, 100, 110, 200, 260, device=device), 1), x)
    assert merged[0, :, 0].tolist() == [0, 4, 1, 2.5, 5]


def test_the_schedule_removes_r_on_average(device: str) -> None:
    assert schedule(8, 0.0, 4) == [8, 8, 8, 8]
    assert schedule(8, -1.0, 5) == [16, 12, 8, 4, 0]
    assert schedule(8, 1.0, 5) == [0, 4, 8, 12, 16]
    assert schedule(8, 0.5, 3) == [4, 8, 12]
    assert schedule(5, -1.0, 4) == [10, 6, 3, 0]  # 10, 6.67, 3.33, 0 cut to whole numbers
    assert schedule(8, 0.0, 1) == [8]


def test_attention_over_a_merged_token_equals_attention_over_its_copies(device: str) -> None:
    attention = Attention(PRESETS["tiny"].vision).to(device).double()
    x = torch.randn(1, 5, 32, dtype=torch.float64, device=device)
    copies = torch.cat([x, x[:, 3:4], x[:, 3:4]], dim=1)
    size = torch.tensor([[1.0, 1, 1, 3, 1]], dtype=torch.float64, device=device)
    whole, _ = attention(copies, None, lambda _: None)
    merged, probe = attention(x, size, lambda _: None)
    torch.testing.assert_close(merged, whole[:, :5])
    # A bias along the queries would cancel in the softmax, and the copies would not count.
    unweighted, _ = attention(x, None, lambda _: None)
    assert not torch.allclose(unweighted, whole[:, :5])
    torch.testing.assert_close(probe.rows().sum(-1), torch.ones(1, 4, 5, device=device))


def test_keys_decide_and_not_features(device: str) -> None:
    keys = directions(0, 80, 160, 165, device=device)[:, None]
    hidden = directions(0, 0, 90, 170, device=device)
    merged = ToMe(r=1).encoder_layer(EncoderLayer(0, 3, patches(hidden, keys, prefix=0)))
    torch.testing.assert_close(merged.hidden_FND[0, 2], hidden[0, 2:].mean(0))


def test_keys_are_averaged_over_heads_and_not_laid_side_by_side(device: str) -> None:
    mean = directions(0, 80, 160, 165, device=device)
    apart = torch.zeros_like(mean)
    apart[0, 2], apart[0, 3] = 50, -50  # cancels in the mean, pulls tokens 2 and 3 apart side by side
    keys = torch.stack([mean + apart, mean - apart], dim=1)
    merged = ToMe(r=1).encoder_layer(EncoderLayer(0, 3, patches(mean, keys, prefix=0)))
    torch.testing.assert_close(merged.hidden_FND[0, 2], mean[0, 2:].mean(0))


def test_keys_and_attention_are_merged_along(device: str) -> None:
    hidden, keys = torch.randn(2, 9, 8, device=device), torch.randn(2, 4, 9, 5, device=device)
    before = Patches(hidden, 1, Probe(torch.randn(2, 4, 9, 5, device=device), keys, causal=False), keys)
    assert before.attention is not None
    after = ToMe(r=3).encoder_layer(EncoderLayer(0, 3, before))
    assert after.attention is not None
    assert after.key_FHNd is not None
    assert after.size_FN is not None
    matching = bipartite_soft_matching(keys.mean(1), 3, protected=1)
    assert after.key_FHNd.shape == (2, 4, 6, 5)
    rows = before.attention.rows()
    for group in range(6):
        for frame in range(2):
            mates = (matching.group_BN[frame] == group).nonzero()[:, 0]
            torch.testing.assert_close(after.key_FHNd[frame, :, group], keys[frame][:, mates].mean(1))
            torch.testing.assert_close(after.attention.rows()[frame, ..., group], rows[frame][..., mates].sum(-1))


def test_without_proportional_attention_sizes_weigh_in_merging_only(device: str) -> None:
    hidden = torch.tensor([[[1.0, 0], [2, 0], [6, 0]]], device=device)
    key = directions(0, 1, 90, device=device).float()[:, None]
    plain = ToMe(r=1, proportional_attention=False)
    once = plain.encoder_layer(EncoderLayer(0, 2, patches(hidden, key, prefix=0)))
    assert not once.proportional
    twice = plain.encoder_layer(EncoderLayer(1, 2, once))
    assert not twice.proportional
    torch.testing.assert_close(twice.hidden_FND[0, 0, 0], torch.tensor(3.0, device=device))
    weighed = ToMe(r=1).encoder_layer(EncoderLayer(0, 2, patches(hidden, key, prefix=0)))
    assert weighed.proportional
    assert weighed.size_FN is not None
    assert weighed.size_FN.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("technique", "expected"),
    [
        (ToMe(r=8), [65, 57, 49, 41]),
        (ToMe(r=12, inflect=-1.0), [65, 41, 29, 29]),
        (ToMe(r=8, inflect=1.0), [65, 65, 57, 41]),
        (ToMe(r=100), [65, 33, 17, 9]),
        (ToMe(r=5, proportional_attention=False), [65, 60, 55, 50]),
    ],
)
def test_each_layer_removes_its_share_after_its_attention(technique: ToMe, expected: list[int], device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [technique]).trace
    assert trace.encoder_tokens == expected
    assert trace.vision_tokens == 6 * (expected[-1] - 1)
    assert trace.llm_tokens == trace.kv_entries == [trace.vision_tokens + 16] * 4
    assert trace.probe_entries == 0


def test_proportional_attention_changes_the_answer(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=1)
    on, off = (lvlm.run(request, [ToMe(proportional_attention=flag)]).logits_NC for flag in (True, False))
    assert not torch.allclose(on, off)


@pytest.mark.parametrize("flag", [True, False])
def test_removing_nothing_changes_nothing(device: str, flag: bool) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, [ToMe(r=0, proportional_attention=flag)])
    assert torch.equal(neutral.logits_NC, lvlm.run(request).logits_NC)


@pytest.mark.parametrize(("wrong", "says"), [({"r": -1}, "r must be"), ({"inflect": 1.5}, "inflect must lie")])
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ToMe(**wrong)  # type: ignore[arg-type]


def test_patches_without_keys_are_refused() -> None:
    with pytest.raises(Refusal, match="without"):
        ToMe().encoder_layer(EncoderLayer(0, 3, Patches(torch.ones(1, 9, 4), prefix=1)))
