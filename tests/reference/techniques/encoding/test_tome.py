"""Token merging."""

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderLayer
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.lvlm.vision import Attention
from lvlm_atlas.reference.ops.merging import bipartite_soft_matching, merge_wavg
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.tome import ToMe, schedule


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def patches(hidden_FND: Tensor, key_FHNd: Tensor, prefix: int = 1) -> Patches:
    """Patches after a layer's attention, with uniform queries."""
    return Patches(hidden_FND, prefix, Probe(torch.ones_like(key_FHNd), key_FHNd, causal=False), key_FHNd)


def test_no_more_than_half_of_the_unprotected_tokens_go_at_once(device: str) -> None:
    metric = torch.randn(2, 9, 3, device=device)
    assert bipartite_soft_matching(metric, 100).count == 9 - 4
    assert bipartite_soft_matching(metric, 100, protected=1).count == 9 - 4
    assert bipartite_soft_matching(metric, 100, protected=2).count == 9 - 3


def test_equal_similarities_are_merged_by_place(device: str) -> None:
    matching = bipartite_soft_matching(directions(*[30] * 8, device=device), 2)
    # Even tokens 0 and 2 go into odd token 1, the first of equals; 4 and 6 stay in front.
    assert matching.group_BN.tolist() == [[2, 2, 2, 3, 0, 4, 1, 5]]


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
