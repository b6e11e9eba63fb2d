"""LOOK-M."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, StackError, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.ops.scores import accumulated_attention
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.look_m import MERGES, LookM, merge_evicted, select
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV
from lvlm_atlas.reference.techniques.prefilling.xattention import XAttention


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def randn(*shape: int, device: str, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def heads(rows: list[list[list[float]]], device: str) -> Tensor:
    """(1, G, S, d) from lists."""
    return torch.tensor([rows], device=device)


def merged_by_hand(
    key_Sd: Tensor, value_Sd: Tensor, keep: list[int], merge: str, used: list[bool]
) -> tuple[Tensor, Tensor]:
    """One head, entry by entry."""
    evicted = [e for e in range(len(key_Sd)) if e not in keep]
    received: dict[int, list[tuple[int, float]]] = {k: [] for k in keep}
    for e, use in zip(evicted, used, strict=True):
        cosines = [float(functional.cosine_similarity(key_Sd[e], key_Sd[k], dim=0)) for k in keep]
        if use:
            received[keep[cosines.index(max(cosines))]].append((e, max(cosines)))
    weigh = {
        "averaged": lambda x, k, e, cosine: x[e],
        "pivotal": lambda x, k, e, cosine: (x[e] + x[k]) / 2,
        "weighted": lambda x, k, e, cosine: cosine * x[e],
    }[merge]
    key, value = (
        torch.stack([torch.stack([x[k], *(weigh(x, k, e, c) for e, c in received[k])]).mean(0) for k in keep])
        for x in (key_Sd, value_Sd)
    )
    return key, value


def test_scores_are_column_sums_averaged_over_the_heads_of_a_group(device: str) -> None:
    weight = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.25, 0.75]]], device=device)[None]
    assert accumulated_attention(weight, groups=1).tolist() == [[[1.375, 0.625]]]
    assert accumulated_attention(weight, groups=2).tolist() == [[[1.5, 0.5], [1.25, 0.75]]]
    four = weight.repeat_interleave(2, dim=1)  # query heads 0 and 1 share the first key-value head
    assert accumulated_attention(four, groups=2).tolist() == [[[1.5, 0.5], [1.25, 0.75]]]


@given(st.data())
@settings(max_examples=40)
def test_the_strict_rule_keeps_the_budget_recent_entries_and_text_first(device: str, data: st.DataObject) -> None:
    length = data.draw(st.integers(2, 24))
    recent = data.draw(st.integers(0, length - 1))
    heavy = data.draw(st.integers(0, length - recent))
    vision = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    score = data.draw(st.permutations(range(length)))
    kept = select(
        torch.tensor([[score]], dtype=torch.float32, device=device),
        torch.tensor([[vision]], device=device),
        heavy,
        recent,
    )[0, 0].tolist()
    older = sorted(range(length - recent), key=lambda j: (vision[j], -score[j]))
    assert kept == sorted([*older[:heavy], *range(length - recent, length)])


@pytest.mark.parametrize("lead", [1e-3, 1e-6])
def test_scores_that_lie_close_keep_their_order_among_vision_entries(device: str, lead: float) -> None:
    """Taking a large constant off would tie them."""
    score = torch.tensor([[[0.5, 0.5 + lead, 0.5, 0.1, 0.0]]], device=device)
    vision = torch.tensor([[[True, True, True, False, True]]], device=device)
    assert select(score, vision, 1, 0).tolist() == [[[3]]]
    assert select(score, vision, 2, 0).tolist() == [[[1, 3]]]
    assert select(score, vision, 3, 0).tolist() == [[[0, 1, 3]]]  # of equals the earlier


def test_the_released_rule_keeps_all_text_besides(device: str) -> None:
    score = torch.tensor([[[5.0, 4.0, 9.0, 8.0, 1.0, 7.0, 2.0]]], device=device)
    vision = torch.tensor([[[False, False, True, True, False, True, True]]], device=device)
    assert select(score, vision, 1, 1, strict=True).tolist() == [[[0, 6]]]
    assert select(score, vision, 1, 1, strict=False).tolist() == [[[0, 1, 4, 6]]]
    for heavy in (4, 5):  # more than there is text: the two rules agree
        both = [select(score, vision, heavy, 1, strict=strict).tolist() for strict in (True, False)]
        assert both[0] == both[1]


def test_heads_that_would_keep_different_numbers_are_refused(device: str) -> None:
    score = torch.ones(1, 2, 4, device=device)
    vision = torch.tensor([[[False, True, True, True], [False, False, True, True]]], device=device)
    assert select(score, vision, 1, 1, strict=True).shape == (1, 2, 2)
    with pytest.raises(Refusal, match="equally many"):
        select(score, vision, 1, 1, strict=False)


def test_averaged_merging_is_the_mean_with_the_target_in_it(device: str) -> None:
    key = heads([[[1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [0.0, 3.0]]], device)
    keep = torch.tensor([[[0, 3]]], device=device)
    merged_key, merged_value = merge_evicted(key, 10 * key, keep, "averaged")
    torch.testing.assert_close(merged_key, heads([[[7 / 3, 0.0], [0.0, 3.0]]], device))
    torch.testing.assert_close(merged_value, heads([[[70 / 3, 0.0], [0.0, 30.0]]], device))


def test_pivotal_merging_moves_half_way_to_the_target_first(device: str) -> None:
    key = heads([[[1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [0.0, 3.0]]], device)
    merged_key, _ = merge_evicted(key, key, torch.tensor([[[0, 3]]], device=device), "pivotal")
    torch.testing.assert_close(merged_key, heads([[[(1 + 1.5 + 2.5) / 3, 0.0], [0.0, 3.0]]], device))


def test_weighted_merging_filters_by_the_mean_over_heads(device: str) -> None:
    # Cosines with the one kept entry: head 0 has 1 and 0.6, head 1 has 0 and 1; means over heads 0.5 and 0.8.
    key = heads([[[2.0, 0.0], [5.0, 0.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 2.0], [4.0, 0.0]]], device)
    merged_key, _ = merge_evicted(key, key, torch.tensor([[[0], [0]]], device=device), "weighted")
    torch.testing.assert_close(merged_key, heads([[[(2 + 0.6 * 3) / 2, 0.6 * 4 / 2]], [[2.5, 0.0]]], device))


def test_values_follow_the_assignment_of_the_keys(device: str) -> None:
    key = heads([[[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]], device)
    value = heads([[[0.0, 2.0], [2.0, 0.0], [4.0, 0.0]]], device)  # by values, entry 2 would go to entry 1
    _, merged = merge_evicted(key, value, torch.tensor([[[0, 1]]], device=device), "averaged")
    torch.testing.assert_close(merged, heads([[[2.0, 1.0], [2.0, 0.0]]], device))


def test_without_merging_evicted_entries_are_gone(device: str) -> None:
    key, value = randn(2, 2, 9, 4, device=device), randn(2, 2, 9, 4, device=device, seed=1)
    keep = torch.tensor([[[0, 5], [2, 8]], [[1, 2], [3, 4]]], device=device)
    merged_key, merged_value = merge_evicted(key, value, keep, "none")
    for b in range(2):
        for g in range(2):
            assert torch.equal(merged_key[b, g], key[b, g, keep[b, g]])
            assert torch.equal(merged_value[b, g], value[b, g, keep[b, g]])


@pytest.mark.parametrize("merge", ["pivotal", "averaged", "weighted"])
def test_merging_equals_the_rule_entry_by_entry(device: str, merge: str) -> None:
    key, value = randn(2, 3, 20, 8, device=device), randn(2, 3, 20, 8, device=device, seed=1)
    keep = randn(2, 3, 20, device=device, seed=2).topk(6).indices.sort(-1).values
    merged_key, merged_value = merge_evicted(key, value, keep, merge)
    for b in range(2):
        best = torch.stack([
            functional.normalize(key[b, g, [s for s in range(20) if s not in keep[b, g].tolist()]], dim=-1)
            .matmul(functional.normalize(key[b, g, keep[b, g]], dim=-1).mT).max(-1).values
            for g in range(3)
        ])  # fmt: skip
        used = (best.mean(0) >= best.mean()) if merge == "weighted" else torch.ones(14, dtype=torch.bool)
        assert merge != "weighted" or 0 < int(used.sum()) < 14
        for g in range(3):
            expected = merged_by_hand(key[b, g], value[b, g], keep[b, g].tolist(), merge, used.tolist())
            torch.testing.assert_close(merged_key[b, g], expected[0])
            torch.testing.assert_close(merged_value[b, g], expected[1])


@pytest.mark.parametrize("merge", MERGES)
def test_a_budget_of_all_entries_changes_nothing(lvlm: LVLM, merge: str) -> None:
    request = random_request(lvlm.config, max_new_tokens=4)
    plain, whole = lvlm.run(request), lvlm.run(request, [LookM(hh_ratio=1.0, merge=merge)])
    assert whole.tokens_N.tolist() == plain.tokens_N.tolist()
    torch.testing.assert_close(whole.logits_NC, plain.logits_NC, atol=1e-5, rtol=1e-5)
    assert whole.trace.kv_byte == plain.trace.kv_byte


def test_the_prompt_is_processed_in_full_and_only_the_cache_is_cut(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    plain, cut = lvlm.run(request), lvlm.run(request, [LookM()])
    trace = cut.trace
    torch.testing.assert_close(cut.logits_NC[0], plain.logits_NC[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(cut.logits_NC[1], plain.logits_NC[1], atol=1e-2)
    assert trace.llm_tokens == [400] * 4
    assert trace.kv_entries == [80] * 4
    assert trace.kv_byte == [80 * 2 * 2 * 16 * 4] * 4  # K and V, 2 heads, d = 16, float32
    assert trace.kv_vision_entries == [64.0] * 4
    assert trace.probe_entries == 4 * 4 * 400 * 401 // 2  # the whole map of four layers and heads
    text = {*range(4), *range(388, 400)}
    for index_BGS in trace.kv_index:
        assert index_BGS.diff(dim=-1).min() > 0
        for head in index_BGS[0]:
            assert text | set(range(360, 400)) <= set(head.tolist())
    assert any((index[0, 0] != index[0, 1]).any() for index in trace.kv_index)  # heads choose for themselves


def test_kept_keys_keep_their_rotation(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    with torch.inference_mode():
        run = lvlm.begin(request, [LookM(merge="none")])
        inputs = lvlm.prepare(run)
        plain, short = lvlm.prefill(inputs).cache, lvlm.prefill(inputs, run).cache
    for layer, (everything, kept) in enumerate(zip(plain.stores, short.stores, strict=True)):
        index = short.held(layer).index_BGS
        for all_BGSd, kept_BGKd in zip(everything.read(), kept.read(), strict=True):
            torch.testing.assert_close(kept_BGKd, take(all_BGSd, index))


def test_decoding_goes_on_at_the_true_length(lvlm: LVLM) -> None:
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config), [LookM()])
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
    assert [store.length for store in cache.stores] == [80] * 4
    assert cache.next_position.tolist() == [[400]] * 4


def test_the_released_rule_runs_in_the_model(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, max_new_tokens=2)
    ratios = {"hh_ratio": 0.005, "recent_ratio": 0.01}  # 2 and 4 entries
    assert lvlm.run(request, [LookM(**ratios)]).trace.kv_entries == [6] * 4
    trace = lvlm.run(request, [LookM(**ratios, strict=False)]).trace
    assert trace.kv_entries == [16] * 4  # all text, of which the recent four are part
    assert trace.kv_vision_entries == [0.0] * 4


def test_the_budget_is_a_share_of_what_earlier_pruning_left(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=2), [FastV(layer=2, keep_ratio=0.5), LookM()]).trace
    assert trace.kv_entries == [80, 80, 40, 40]  # int(20.8) + int(20.8) of 208
    for layer in (2, 3):
        assert set(trace.kv_index[layer].flatten().tolist()) <= set(trace.kept[layer].flatten().tolist())


def test_a_kernel_that_forms_no_map_is_refused(lvlm: LVLM) -> None:
    with pytest.raises(StackError, match="LookM needs `attention-map`, which nobody can read once XAttention acts"):
        lvlm.run(random_request(lvlm.config), [XAttention(), LookM()])


def entries(length: int, device: str, *, vision: bool) -> tuple[Entries, Probe]:
    place = torch.arange(length, device=device).expand(1, 2, length)
    key = randn(1, 2, length, 4, device=device)
    return Entries(key, key, torch.full_like(place, vision, dtype=torch.bool), place), Probe(key, key, causal=True)


def test_a_prompt_without_vision_tokens_is_left_alone(device: str) -> None:
    text, probe = entries(30, device, vision=False)
    assert LookM().compress_cache(CacheTokens(0, 1, text, probe)) is text


def test_a_budget_of_no_entry_is_refused(device: str) -> None:
    with pytest.raises(Refusal, match="keep none of 5 entries"):
        LookM().compress_cache(CacheTokens(0, 1, *entries(5, device, vision=True)))


def test_entries_that_another_technique_evicted_before_are_refused(device: str) -> None:
    seen, probe = entries(30, device, vision=True)
    fewer = seen.keep(torch.arange(20, device=device).expand(1, 2, 20))
    with pytest.raises(Refusal, match="30 columns for 20 entries"):
        LookM().compress_cache(CacheTokens(0, 1, fewer, probe))


def test_arguments_out_of_range_are_refused() -> None:
    for name in ("hh_ratio", "recent_ratio"):
        for value in (0.0, 1.1, float("nan")):
            with pytest.raises(ValueError, match=name):
                LookM(**{name: value})
    with pytest.raises(ValueError, match="pivotal, averaged, weighted, none, got 'mean'"):
        LookM(merge="mean")
