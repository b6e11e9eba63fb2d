"""BTP."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.ops.attention import attend
from lvlm_atlas.reference.ops.similarity import cosine_distance
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.btp import (
    Btp,
    balanced_attention,
    fill_up,
    spatial_seed,
    stages_behind,
    turn_of,
)
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV

PLAIN: dict[str, Any] = {"layers": (1,), "divisors": (2,), "diversity": (0.0,), "attention": (1.0,), "extras": (1.0,)}


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def test_early_tokens_among_the_best_go_first(device: str) -> None:
    score_V = torch.tensor([0.1, 0.5, 0.2, 0.9, 0.8, 0.7], device=device)  # best: 3, 4, 5, 1, 2, 0
    assert balanced_attention(score_V, 2, 1.0, 3).tolist() == [3, 4]
    assert balanced_attention(score_V, 2, 1.5, 3).tolist() == [3, 4]  # looks at 3, 4, 5: none is early
    assert balanced_attention(score_V, 2, 2.0, 3).tolist() == [1, 3]
    assert balanced_attention(score_V, 2, 2.9, 3).tolist() == [1, 2]  # int(5.8): looks at 3, 4, 5, 1, 2
    assert balanced_attention(score_V, 3, 9.0, 3).tolist() == [1, 2, 0]
    assert balanced_attention(score_V, 0, 2.0, 3).tolist() == []


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_balanced_attention_is_the_rule_token_by_token(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, 12))
    score = data.draw(st.permutations(range(tokens)))
    select, early = data.draw(st.integers(0, tokens)), data.draw(st.integers(0, tokens))
    extra = data.draw(st.sampled_from([1.0, 1.2, 1.5, 3.7]))
    looked = sorted(range(tokens), key=lambda v: -score[v])[: int(select * extra)]
    expected = [*filter(lambda v: v < early, looked), *filter(lambda v: v >= early, looked)][:select]
    assert balanced_attention(torch.tensor(score).float(), select, extra, early).tolist() == expected


def grid(frames: int, rows: int, columns: int, device: str) -> torch.Tensor:
    return torch.cartesian_prod(*(torch.arange(n, device=device) for n in (frames, rows, columns)))


def test_the_seed_spreads_over_rows_and_columns(device: str) -> None:
    # From the corner (0, 0) the farthest is (2, 3); then (0, 3) and (1, 2), (2, 0), … are 3 or 2 away.
    assert spatial_seed(grid(1, 3, 4, device), 0.25).tolist()[:2] == [0, 11]
    assert spatial_seed(grid(1, 3, 3, device), 0.5).tolist() == [0, 8, 2, 4]  # 4 and 6 are 2 away
    assert spatial_seed(grid(2, 3, 3, device), 0.5).tolist() == [0, 8, 2, 4, 9, 17, 11, 13]  # a frame on its own
    assert spatial_seed(grid(1, 3, 3, device), 0.1).tolist() == []


def test_what_several_rules_choose_is_kept_once_and_the_rest_is_filled_up(device: str) -> None:
    x_VD = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.2]], device=device)
    distance_VV = cosine_distance(x_VD[None])[0]
    assert fill_up([1, 1, 0], distance_VV, 3) == [1, 0, 3]  # the opposite vector is farthest
    assert fill_up([1, 0, 1], distance_VV, 4) == [1, 0, 3, 2]
    assert fill_up([4, 4, 2, 0], distance_VV, 2) == [4, 2]
    assert fill_up([], distance_VV, 2)[0] == 3
    assert sorted(fill_up([2], distance_VV, 5)) == [0, 1, 2, 3, 4]
    assert fill_up([], distance_VV, 0) == []


def test_stages_hold_as_many_tokens_as_published(device: str) -> None:
    # 576 tokens in layers 0 to 2, then 288, 144 from the seventh layer on, 48 from the fifteenth, none after 22.
    setting = Btp()
    kept = [576 // divisor for divisor in setting.divisors]
    assert kept == [576 // 2, 576 // 2 // 2, 576 // 2 // 2 // 3]
    assert [layer + 1 for layer in setting.layers] == [4, 7, 15]
    assert setting.end_layer + 1 == 23

    model = LVLM.random(device=device)
    request = random_request(model.config, frames=2)
    arrived = model.run(request).trace.llm_vision_tokens[0]
    stages = Btp((1, 2), (2, 5), (0.3, 0.1), (0.3, 0.9), (3.7, 1.5), 0.25, 3)
    trace = model.run(request, [stages]).trace
    assert trace.llm_vision_tokens == [arrived, arrived // 2, arrived // 5, 0]
    assert all(index_BK.unique().numel() == index_BK.numel() for index_BK in trace.kept)
    assert trace.probe_entries == sum(4 * trace.llm_tokens[layer] for layer in (0, 1))  # a row a head for each stage


def test_positions_are_kept_and_vision_ends(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    run = lvlm.begin(request, [Btp(**PLAIN, seed=0.0, end_layer=2)])
    inputs = lvlm.prepare(run)
    with torch.inference_mode():
        cache = lvlm.prefill(inputs, run).cache
    before = cache.held(1)
    assert torch.equal(before.index_BGS, before.position_BGS.view_as(before.index_BGS))
    text_N = (~inputs.vision_BN[0]).nonzero()[:, 0]
    assert torch.equal(cache.held(2).index_BGS[0, 0], text_N)
    assert torch.equal(cache.held(3).position_BGS[0, 0].view(-1), text_N)


def test_attention_alone_is_the_ranking_of_fastv(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    ours = lvlm.run(request, [Btp(**PLAIN, seed=0.0, end_layer=9)])
    theirs = lvlm.run(request, [FastV(layer=1, keep_ratio=0.5)])
    assert [each.tolist() for each in ours.trace.kept] == [each.tolist() for each in theirs.trace.kept]
    torch.testing.assert_close(ours.logits_NC, theirs.logits_NC)


@pytest.mark.parametrize("change", [{"seed": 0.25}, {"diversity": (0.5,)}, {"extras": (1.8,)}, {"attention": (0.5,)}])
def test_each_rule_changes_what_is_kept(lvlm: LVLM, change: dict[str, Any]) -> None:
    request = random_request(lvlm.config)
    base = {**PLAIN, "attention": (0.8,), "seed": 0.0, "end_layer": 9}
    kept = [lvlm.run(request, [Btp(**{**base, **each})]).trace.kept[1].tolist() for each in ({}, change)]
    assert kept[0] != kept[1]
    assert len(kept[0][0]) == len(kept[1][0])


def test_a_stage_that_keeps_all_leaves_the_prompt_as_it_is(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    same = lvlm.run(request, [Btp(**{**PLAIN, "divisors": (1,)}, end_layer=4)])
    assert torch.equal(same.logits_NC, lvlm.run(request).logits_NC)
    ended = lvlm.run(request, [Btp(**{**PLAIN, "layers": (2,)}, end_layer=1)])  # a stage that finds nothing
    assert ended.trace.llm_vision_tokens == [same.trace.llm_vision_tokens[0], 0, 0, 0]


def test_without_a_grid_the_seed_spreads_along_the_order(device: str) -> None:
    model = LVLM.random("tiny-tiles", device=device)
    request = random_request(model.config)
    result = model.run(request, [Btp(**{**PLAIN, "attention": (0.0,), "divisors": (8,)}, seed=0.125, end_layer=9)])
    inputs = model.prepare(model.begin(request))
    place_V = inputs.vision_places()[0]
    vision = len(place_V)
    seeds = spatial_seed(grid(1, 1, vision, device), 0.125)
    assert seeds.tolist()[:2] == [0, vision - 1]
    kept = set(result.trace.kept[1][0].tolist())
    assert set(place_V[seeds].tolist()) <= kept


def test_what_cannot_be_is_refused(lvlm: LVLM) -> None:
    for wrong, message in (
        ({"layers": (2, 1)}, "layers"),
        ({"divisors": (4, 2)}, "divisors"),
        ({"diversity": (1.5,)}, "diversity"),
        ({"extras": (0.5,)}, "extras"),
        ({"seed": -0.1}, "seed"),
        ({"end_layer": 0}, "end_layer"),
    ):
        with pytest.raises(ValueError, match=message):
            Btp(**wrong)
    request = random_request(lvlm.config)
    with pytest.raises(Refusal, match="equally many"):
        lvlm.run(request, [Btp(layers=(1,))])
    with pytest.raises(Refusal, match="FastV may drop some"):
        lvlm.run(request, [Btp(**PLAIN), FastV(layer=1)])
    with pytest.raises(Refusal, match=r"1\.\.3"):
        lvlm.run(request, [Btp()])


def test_a_turn_is_the_mean_of_one_minus_the_cosine(device: str) -> None:
    before = torch.tensor([[[1.0, 0], [1, 0], [0, 2]]], device=device)
    after = torch.tensor([[[9.0, 0], [0, 3], [0, -1]]], device=device)
    assert turn_of(before, after) == pytest.approx((0 + 1 + 2) / 3)
    assert turn_of(before, 5 * before) == pytest.approx(0)  # lengths do not count


def test_stages_begin_behind_the_layers_that_turn_the_vision_tokens_most(device: str) -> None:
    assert stages_behind([0.1, 0.5, 0.2, 0.4], 2) == (2, 4)
    assert stages_behind([0.3, 0.3, 0.1, 0.3], 2) == (1, 2)
    assert stages_behind([0.3, 0.1], 2) == (1, 2)
    assert stages_behind([0.3, 0.1], 0) == ()
    lvlm = LVLM.random("tiny", device=device)
    with torch.no_grad():  # layer 1 turns most, layer 2 next
        for index, layer in enumerate(lvlm.language_model.layers):
            layer.mlp.down_proj.weight *= (0.1, 30, 3, 1)[index]
            layer.self_attn.o_proj.weight *= 0.1
    requests = [random_request(lvlm.config, frames=1, seed=seed) for seed in range(2)]
    calibrated = Btp(**PLAIN, end_layer=9).calibrate(lvlm, requests)
    assert calibrated.layers == (2,)
    assert lvlm.run(requests[0], [calibrated]).trace.llm_vision_tokens == [64, 64, 32, 32]
    two = Btp((1, 2), (2, 4), (0.3, 0.1), (0.3, 0.9), (3.7, 1.5), end_layer=9)
    assert two.calibrate(lvlm, requests).layers == (2, 3)
    assert two.layers == (1, 2)
    assert Btp(**PLAIN, end_layer=2).calibrate(lvlm, requests).layers == (1,)  # in front of the layers without vision


def test_it_is_calibrated_by_hand_as_by_the_model(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=1)
    with torch.inference_mode():
        inputs = lvlm.prepare(lvlm.begin(request))
        x_BND, states = inputs.hidden_BND, [inputs.hidden_BND[:, inputs.vision_BN[0]]]
        for layer in lvlm.language_model.layers:
            query, key, value = layer.project(x_BND, inputs.position_BN)
            x_BND = layer.finish(x_BND, attend(query, key, value, causal=True))
            states.append(x_BND[:, inputs.vision_BN[0]])
        turns = [float(cosine_turn(a, b)) for a, b in pairwise(states[:4])]
    best = max(range(3), key=turns.__getitem__)
    assert Btp(**PLAIN, end_layer=9).calibrate(lvlm, [request]).layers == (best + 1,)


def cosine_turn(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (1 - torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)).mean()


def test_a_calibration_that_cannot_be_is_refused(lvlm: LVLM) -> None:
    with pytest.raises(ValueError, match="calibrated on samples, got none"):
        Btp().calibrate(lvlm, [])
    with pytest.raises(Refusal, match="3 stages do not fit behind 2 layers"):
        Btp(end_layer=3).calibrate(lvlm, [random_request(lvlm.config, frames=1)])
    blind = random_request(lvlm.config, frames=1).keep_frames(torch.empty(0, dtype=torch.long))
    with pytest.raises(ValueError, match="one has none; give it images"):
        Btp().calibrate(lvlm, [blind])
