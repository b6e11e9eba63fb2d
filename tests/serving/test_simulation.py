"""A server under load: laws that hold whatever the policy, and what policies do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.deployment import TYPICAL, Deployment
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.serving.budgets import largest, profiled
from lvlm_atlas.serving.load import load
from lvlm_atlas.serving.policy import Policy
from lvlm_atlas.serving.prices import Chunk, Prices
from lvlm_atlas.serving.simulation import Run, simulate
from lvlm_atlas.serving.traffic import Arrival, Kind, Mix, synthetic
from lvlm_atlas.serving.vision import Piece
from lvlm_atlas.serving.wires import Wires
from servers import ALL, D_, E_, P_, server

POLICIES = {
    "colocated": server((ALL, 4)),
    "in turn": server((ALL, 4), routing="in-turn", chunked=False, token_budget=49_152),
    "E+P+D": server(((E_,), 1), ((P_,), 1), ((D_,), 2), spread_images=True),
    "EP+D": server(((E_, P_), 2), ((D_,), 2)),
    "ED+P": server(((E_, D_), 2), ((P_,), 2)),
    "E+PD, overlapped": server(((E_,), 2), ((P_, D_), 2), overlap=True, spread_images=True),
    "together": server((ALL, 4), sharing="together"),
    "sliced": server(((E_,), 4), ((P_, D_), 4), sharing="sliced", shortest_first=True),
    "prefixes": server((ALL, 4), prefix_cache=True),
}
LINK = Wires(byte_s=4.5e11)


@pytest.fixture(scope="module")
def mix(planner) -> Mix:
    """Requests with no image, one, and four; some images come again."""
    kinds = [
        Kind(planner.request("single-image-chat", text=400), 2),
        Kind(planner.request("images-20", images=4), 1),
        Kind(replace(planner.workload("single-image-chat"), images=(), text_tokens=800), 1),
    ]
    return Mix(tuple(kinds), spread=0.5, reuse=0.3, seed=3)


def run(prices, policy: Policy, mix: Mix, rate: float = 12.0, number: int = 150, wires: Wires = LINK) -> Run:
    return simulate(policy, prices(), synthetic(mix, rate, number), wires)


@pytest.mark.parametrize("name", POLICIES)
def test_whatever_the_policy_requests_are_neither_lost_nor_gained(prices, mix, name: str) -> None:
    done = run(prices, POLICIES[name], mix)
    tally, server_ = done.tally, done.cluster
    # Little: requests in the system on average are the rate times the time in it.
    assert tally.present_s == pytest.approx(sum(tally.total_s), rel=1e-9)
    # No instance holds anything for requests that have left, and none was ever overbooked.
    for each in server_.instances:
        assert each.idle
        assert each.memory.used == pytest.approx(0, abs=1)
        assert 0 < each.memory.peak <= each.memory.room * (1 + 1e-9) or each.pool.stages == {E_}
        assert sum(each.busy_s.values()) <= tally.last_s * (1 + 1e-9)
    assert all(first <= total for first, total in zip(tally.ttft_s, tally.total_s, strict=True))


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_seed_gives_the_same_run(prices, mix, name: str) -> None:
    one, two = (run(prices, POLICIES[name], mix, number=60).tally for _ in range(2))
    assert (one.ttft_s, one.total_s, one.output) == (two.ttft_s, two.total_s, two.output)


@pytest.mark.parametrize("name", POLICIES)
def test_a_server_with_nothing_else_to_do_takes_what_an_estimate_says(planner, prices, name: str) -> None:
    policy = POLICIES[name]
    workload = planner.workload("single-image-chat")
    whole = planner.estimate("qwen2.5-vl-7b", "h100-sxm", workload, deployment=Deployment(efficiency=TYPICAL))
    shape, apart = prices().shape(workload), len(policy.pools) > 1 and policy.sharing != "sliced"
    sent = {
        "E+P+D": (shape.embedding_byte, shape.prompt_byte), "EP+D": (0, shape.prompt_byte),
        "ED+P": (shape.embedding_byte, shape.prompt_byte), "E+PD, overlapped": (shape.embedding_byte, 0),
    }.get(name, (0, 0))  # fmt: skip
    tally = run(prices, policy, Mix((Kind(workload, 1),)), number=1).tally
    assert tally.ttft_s[0] == pytest.approx(whole.ttft_s + sent[0] / LINK.byte_s, rel=1e-12)
    assert tally.total_s[0] == pytest.approx(whole.total_s + sum(sent) / LINK.byte_s, rel=1e-12)
    assert bool(sum(sent)) == apart


def test_so_it_does_in_a_runtime_and_the_host_prepares_others_meanwhile(planner, prices) -> None:
    workload = planner.request("single-image-chat", output=2)
    deployment = planner.paced(Deployment(), runtime="vllm-0.7")
    whole = planner.estimate("qwen2.5-vl-7b", "h100-sxm", workload, deployment=deployment)
    priced = Prices(planner.model("qwen2.5-vl-7b"), planner.device("h100-sxm"), deployment)
    one = Mix((Kind(workload, 1),))
    alone = simulate(server((ALL, 1)), priced, synthetic(one, 1.0, 1)).tally
    assert alone.ttft_s[0] == pytest.approx(whole.ttft_s, rel=1e-12)
    assert alone.total_s[0] == pytest.approx(whole.total_s, rel=1e-12)
    host_s = priced.prepare_s(priced.shape(workload))
    assert host_s > 0.5 * whole.ttft_s
    flood = [simulate(server((ALL, 1)), priced, synthetic(one, 1e6, 64), Wires(host_workers=workers)).tally.last_s
             for workers in (1, 64)]  # fmt: skip
    assert flood[0] == pytest.approx(64 * host_s, rel=0.1)
    assert flood[1] < 0.6 * flood[0]


def test_one_front_process_is_narrower_than_one_for_each_instance(planner, prices) -> None:
    """What makes the encoder's input takes one request at a time; the rest of the host's work is beside others'."""
    deployment = planner.paced(Deployment(), runtime="vllm")
    priced = Prices(planner.model("qwen2.5-vl-7b"), planner.device("h100-sxm"), deployment)
    kind = Kind(planner.request("single-image-chat", output=1), 1)
    shape = priced.shape(kind.workload)
    serial_s = priced.megapixels(shape) * server((ALL, 8)).front_megapixel_ms / 1e3
    assert 0 < serial_s < priced.images_s(shape)

    def last_s(**rules) -> float:
        flood = synthetic(Mix((kind,)), math.inf, 200)
        return simulate(server((ALL, 8), **rules), priced, flood, Wires(host_workers=64)).tally.last_s

    assert last_s(front="one") == pytest.approx(200 * serial_s, rel=0.1)
    assert last_s(front="each") < 0.3 * last_s(front="one")
    assert last_s(front="one", front_megapixel_ms=0) < 0.5 * last_s(front="one")
    assert last_s(front="one", front_megapixel_ms=1e4) == pytest.approx(200 * priced.images_s(shape), rel=0.1)


def test_encoders_apart_prepare_the_images_that_they_get(planner) -> None:
    deployment = planner.paced(Deployment(), runtime="vllm")
    priced = Prices(planner.model("qwen2.5-vl-7b"), planner.device("h100-sxm"), deployment)
    four = Mix((Kind(planner.request("images-20", images=4, output=1), 1),))
    spread = server(((E_,), 4), ((P_, D_), 1), spread_images=True)
    whole, apart = (simulate(replace(spread, spread_images=each), priced, synthetic(four, 1.0, 1)).tally.ttft_s[0]
                    for each in (False, True))  # fmt: skip
    host_s = priced.prepare_s(priced.shape(four.kinds[0].workload))
    assert whole - apart > 0.7 * host_s


def test_sequences_wait_where_prompts_go_first(prices, mix) -> None:
    mixed, first = (run(prices, server((ALL, 1), mixed=each), mix, rate=6.0) for each in (True, False))
    assert sum(first.tally.tpot_s) > sum(mixed.tally.tpot_s)
    for done in (mixed, first):
        reading = [span for span in done.tally.spans if span.prompts]
        assert any(span.decoding for span in reading) == (done is mixed)


def test_clients_that_wait_for_answers_keep_so_many_under_way(prices, mix) -> None:
    flood = [*synthetic(mix, math.inf, 120)]
    limited = simulate(server((ALL, 1)), prices(), flood, LINK, concurrency=4).tally
    assert max(limited.total_s) < 0.5 * max(simulate(server((ALL, 1)), prices(), flood, LINK).tally.total_s)
    assert limited.present_s / limited.last_s == pytest.approx(4, rel=0.05)
    one = simulate(server((ALL, 1)), prices(), flood, LINK, concurrency=1).tally
    assert sum(one.total_s) == pytest.approx(one.last_s)


def test_an_encoder_gains_from_no_more_devices_than_are_said(planner) -> None:
    model, device = planner.model("qwen2.5-vl-7b"), planner.device("h100-sxm")
    whole = Prices(model, device, Deployment(efficiency=TYPICAL, tensor_parallel=4))
    two = Prices(model, device, Deployment(efficiency=TYPICAL, tensor_parallel=4), encoder_devices=2)
    alone = Prices(model, device, Deployment(efficiency=TYPICAL, tensor_parallel=2))
    piece = [Piece(whole.shape(planner.workload("single-image-chat")), 1)]
    assert whole.encode(piece).time_s < two.encode(piece).time_s
    flop = [each.encode(piece).compute_s for each in (two, alone)]
    assert flop[0] == pytest.approx(flop[1])


def test_profiled_budgets_are_the_largest_that_keep_the_limit(prices) -> None:
    policy = server((ALL, 1), profiled=True)
    found = [profiled(policy, policy.pools[0], prices(), tpot_s) for tpot_s in (0.02, 0.03, 0.05, None)]
    budgets = [each.token_budget for each in found]
    assert budgets == sorted(budgets)
    assert budgets[0] < budgets[-1] <= 2048
    text = prices().shape(Workload(text_tokens=2048, output_tokens=1))
    for each, limit_s in zip(found, (0.02, 0.03, 0.05), strict=False):
        if each.token_budget < 2048:
            assert prices().step([Chunk(text, 0, each.token_budget)]).time_s < limit_s - 0.01
            assert prices().step([Chunk(text, 0, each.token_budget + 1)]).time_s >= limit_s - 0.01
    assert largest(7, lambda _: False) == 1


def test_slices_by_cost_keep_the_time_per_token_while_images_are_encoded(planner, prices) -> None:
    photos = Mix((Kind(planner.request("images-20", images=4, output=200, text=64), 1),))
    plain = server(((E_,), 1), ((P_, D_), 1), sharing="sliced", encoder_share=0.9)
    fixed, by_cost = (run(prices, replace(plain, slices_by_cost=each, tpot_s=0.012), photos, rate=3.0, number=60).tally
                      for each in (False, True))  # fmt: skip
    assert sum(by_cost.tpot_s) < sum(fixed.tpot_s)


def test_more_load_is_slower_and_more_devices_or_bandwidth_are_faster(prices, mix) -> None:
    policy = POLICIES["E+P+D"]

    def mean_s(policy: Policy = policy, **given) -> float:
        tally = run(prices, policy, mix, **given).tally
        return sum(tally.total_s) / len(tally.total_s)

    slow, usual, fast = (mean_s(rate=rate) for rate in (6.0, 24.0, 96.0))
    assert slow < usual < fast
    assert mean_s(policy.sized((2, 2, 4)), rate=24.0) < usual
    assert mean_s(rate=24.0, wires=Wires(byte_s=4.5e9)) > usual > mean_s(rate=24.0, wires=Wires())


def test_images_on_as_many_encoders_take_as_long_as_one(planner, prices) -> None:
    four = Mix((Kind(planner.request("images-20", images=4), 1),))
    spread = server(((E_,), 4), ((P_, D_), 1), spread_images=True)
    shape = prices().shape(four.kinds[0].workload)
    one, all_ = (prices().encode([Piece(shape, count)]).time_s for count in (1, 4))
    apart, whole = (run(prices, each, four, number=1, wires=Wires()).tally.ttft_s[0] for each in (
        spread, replace(spread, spread_images=False)))  # fmt: skip
    assert whole - apart == pytest.approx(all_ - one, rel=1e-9)


def test_a_prompt_that_is_read_while_its_images_are_encoded_starts_sooner(planner, prices) -> None:
    many = Mix((Kind(planner.request("images-20", text=16), 1),))
    policy = server(((E_,), 1), ((P_, D_), 1), image_batch=1)
    waits, overlaps = (run(prices, replace(policy, overlap=each), many, number=1).tally for each in (False, True))
    assert overlaps.ttft_s[0] < 0.75 * waits.ttft_s[0]


def test_without_room_the_latest_sequence_gives_way_and_all_answers_are_whole(planner, prices) -> None:
    long = Mix((Kind(planner.request("single-image-chat", output=900), 1),), seed=1)
    done = simulate(server((ALL, 1)), prices(), synthetic(long, 1000.0, 900))
    assert done.tally.preemptions > 0
    assert set(done.tally.output) == {900}


def test_a_request_that_no_instance_can_hold_is_refused(planner, prices) -> None:
    huge = Mix((Kind(planner.request("single-image-chat", text=3_000_000), 1),))
    with pytest.raises(AtlasError, match=r"takes .* of cache, and an instance of pool .* has .*; give --tp"):
        run(prices, server((ALL, 1)), huge, number=1)


def test_images_that_came_before_are_not_encoded_again(planner, prices) -> None:
    again = Mix((Kind(planner.workload("single-image-chat"), 1),), reuse=0.9, seed=2)
    busy = {}
    for kept in (True, False):
        done = run(prices, server((ALL, 1), embedding_cache=kept), again, number=200)
        busy[kept] = done.cluster.instances[0].busy_s["encoding"]
        if kept:
            hits = load(done, slo={}, devices=1).embedding_hits
    assert hits == pytest.approx(0.9, abs=0.05)
    assert busy[True] == pytest.approx((1 - hits) * busy[False], rel=0.1)


def test_a_shared_beginning_is_read_once(planner, prices) -> None:
    workload = planner.request("single-image-chat", text=2000)
    stream = [Arrival(at * 2.0, workload, ("photo",), (("rules", 1500),)) for at in range(3)]
    first, *later = simulate(server((ALL, 1), prefix_cache=True), prices(), stream).tally.ttft_s
    assert later[0] == pytest.approx(later[1])
    assert later[0] < 0.3 * first
    other = [each._replace(prefix=((str(index), 1500),)) for index, each in enumerate(stream)]
    apart = simulate(server((ALL, 1), prefix_cache=True, embedding_cache=False), prices(), other).tally.ttft_s
    assert [*apart] == pytest.approx([first] * 3)


def test_a_slice_of_the_device_slows_only_while_the_other_slice_is_in_use(planner, prices) -> None:
    workload = planner.request("images-20", images=8, output=600)
    one = Mix((Kind(workload, 1),))
    policy = server(((E_,), 1), ((P_, D_), 1), sharing="sliced")
    alone = run(prices, policy, one, number=1).tally.ttft_s[0]
    beside = max(run(prices, policy, one, rate=1000.0, number=2).tally.ttft_s)
    assert beside > alone


@pytest.mark.parametrize("name", ["E+PD, overlapped", "E+PD", "colocated", "E+P+D", "prefixes"])
def test_with_little_room_all_are_answered_and_none_is_booked_twice(planner, name: str) -> None:
    """Requests that are taken on while others decode must not get the room that these are about to fill."""
    policies = {**POLICIES, "E+PD": replace(POLICIES["E+PD, overlapped"], overlap=False)}
    photo = planner.request("single-image-chat", text=500, output=700)
    mix = Mix((Kind(photo, 1), Kind(replace(photo, images=(), text_tokens=900), 1)), spread=0.5, reuse=0.5)
    priced = Prices(planner.model("llava-1.5-7b"), planner.device("rtx-4090"), Deployment(efficiency=TYPICAL))
    done = simulate(policies[name], priced, synthetic(mix, 12.0, 90), Wires(byte_s=1e7 if name == "E+PD" else 1e10))
    assert len(done.tally.total_s) == 90
    for each in done.cluster.instances:
        assert each.memory.used == pytest.approx(0, abs=1)
        assert each.memory.peak <= each.memory.room
    readers = [each for each in done.cluster.instances if each.reads and D_ in each.pool.stages]
    assert all(each.memory.peak > 0.9 * each.memory.room for each in readers)
