"""ViCO."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm import LVLM, Refusal, StackError, random_request
from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.techniques.encoding.pixel_shuffle import space_to_depth
from lvlm_atlas.reference.techniques.encoding.tome import ToMe
from lvlm_atlas.reference.techniques.encoding.vico import Connectors, DeepProjector, Router, ViCO, to_compress

ALL = {"relative_threshold": 0.0, "absolute_threshold": 0.0}


def test_what_lies_at_the_quantile_stays(device: str) -> None:
    gate = torch.tensor([0.9, 0.6, 0.7, 0.8], device=device)
    assert to_compress(gate, 0.0, 0.0).tolist() == [True, False, True, True]  # all but the least
    assert to_compress(gate, 0.5, 0.0).tolist() == [True, False, False, True]  # above 0.75
    assert not to_compress(gate, 1.0, 0.0).any()
    assert not to_compress(gate[:1], 0.1, 0.5).any()  # a single one lies at any quantile
    assert not to_compress(torch.full((5,), 0.8, device=device), 0.1, 0.5).any()  # so do equals


def test_a_tile_at_the_least_is_compressed(device: str) -> None:
    gate = torch.tensor([0.2, 0.5, 0.49, 0.75], device=device)
    assert to_compress(gate, 0.0, 0.5).tolist() == [False, True, False, True]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12, unique=True), st.floats(0, 1), st.floats(0, 1))
def test_no_more_are_compressed_than_lie_above_the_quantile(gates: list[float], relative: float, least: float) -> None:
    few = to_compress(torch.tensor(gates), relative, least)
    place = relative * (len(gates) - 1)
    assert int(few.sum()) <= len(gates) - 1 - math.floor(place)
    rank = sorted(gates)
    low, high = rank[math.floor(place)], rank[math.ceil(place)]
    for gate, compressed in zip(gates, few.tolist(), strict=True):
        if gate < low or gate < least - 1e-6:
            assert not compressed
        if gate > high and gate >= least + 1e-6:
            assert compressed


def plain(width: int) -> Router:
    """A router with random weights."""
    return drawn(lambda: Router(width))


def test_the_last_three_rounds_share_their_weights(device: str) -> None:
    router, patch = plain(8).to(device), torch.randn(3, 5, 8, device=device)

    def attend(module: nn.Module, query: Tensor) -> Tensor:
        heads = math.gcd(16, 8)
        q, k, v = (proj(x) for proj, x in ((module.q_proj, query), (module.k_proj, patch), (module.v_proj, patch)))
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        weight = (q @ k.transpose(2, 3) / math.sqrt(8 // heads)).softmax(-1)
        return module.norm(module.out_proj((weight @ v).transpose(1, 2).flatten(2)))

    read = attend(router.first, router.query_token.expand(3, 1, -1))
    for _ in range(3):
        read = attend(router.later, read)
    judged = read[:, 0]
    for block in router.blocks:
        judged = judged + block.norm(block.linear_2(nn.functional.gelu(block.linear_1(judged))))
    expected = router.gate(router.norm(judged)).softmax(-1)[:, 0]
    assert torch.allclose(router(patch), expected, atol=1e-5)
    assert len([*router.children()]) == 5  # two modules of attention, blocks, norm and gate


def test_the_first_number_says_that_few_tokens_will_do(device: str) -> None:
    router = plain(8).to(device)
    router.gate.weight.zero_()
    router.gate.bias.copy_(torch.tensor([2.0, 0.0]))
    assert torch.allclose(router(torch.randn(2, 4, 8, device=device)), torch.tensor(0.8808, device=device), atol=1e-3)


def test_few_tokens_are_projected_from_the_patches(device: str) -> None:
    """A connector of its own on larger squares, with twice the LLM's width inside."""
    low = DeepProjector(3, 8, factor=4)
    assert [each.weight.shape for each in (low.linear_1, low.linear_2, low.linear_3)] == [(16, 48), (16, 16), (8, 16)]
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config, frames=6), [ViCO(**ALL)])
    acting = run.acts.owner("adapter")
    hidden = torch.randn(6, 64, 32, device=device)
    tokens = acting.adapt(Adapter(hidden, None, lvlm.dialect.adapter))  # type: ignore[arg-type]
    gate = acting.modules.router(hidden)
    grid = hidden.unflatten(1, (8, 8))
    for frame, token in enumerate(tokens):
        kept = frame == int(gate.argmin())
        factor, module = (2, acting.modules.high) if kept else (4, acting.modules.low)
        assert torch.allclose(token, module(space_to_depth(grid, factor).flatten(1, 2))[frame], atol=1e-5)


@pytest.mark.parametrize(("relative", "compressed"), [(0.0, 5), (0.1, 5), (0.3, 4), (0.5, 3), (1.0, 0)])
def test_compressed_frames_cost_a_quarter(device: str, relative: float, compressed: int) -> None:
    lvlm = LVLM.random(device=device)
    setting = ViCO(relative_threshold=relative, absolute_threshold=0.0)
    trace = lvlm.run(random_request(lvlm.config, frames=6), [setting]).trace
    assert trace.llm_vision_tokens == [compressed * 4 + (6 - compressed) * 16] * 4
    assert trace.encoder_tokens == [65] * 4


def test_tiles_of_an_image_are_judged_one_by_one(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config, frames=2)
    (clip,) = lvlm.dialect.split(request)
    tiles = sum(tiling.views for tiling in clip.tilings)
    run = lvlm.begin(request, [ViCO(**ALL)])
    lvlm.prepare(run)
    assert run.trace.vision_tokens == 4 + (tiles - 1)


def test_both_connectors_run_on_every_tile(device: str) -> None:
    lvlm = LVLM.random(device=device)
    flop = []
    for least in (0.0, 1.0):
        request = random_request(lvlm.config, frames=6)
        flop.append(lvlm.run(request, [ViCO(relative_threshold=0.0, absolute_threshold=least)]).trace.adapter_flop)
    high, low = 16 * (128 * 64 + 64 * 64), 4 * (512 * 128 + 128 * 128 + 128 * 64)
    attention = 4 * (2 * 32 * 32 + 2 * 64 * 32 * 32 + 2 * 64 * 32)
    judged = 4 * 2 * 32 * 128 + 32 * 2
    assert flop == [2 * 6 * (high + low + attention + judged)] * 2


def test_thresholds_share_the_weights_and_trained_ones_take_their_place(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    one, other = (ViCO(absolute_threshold=least, relative_threshold=0.0) for least in (0.0, 1.0))
    modules = [lvlm.begin(request, [each]).acts.owner("adapter").modules for each in (one, other)]
    assert modules[0] is modules[1]
    before = lvlm.run(request, [one]).logits_NC
    give(lvlm, (ViCO, 32, 64, 2, 4), Connectors(32, 64, 2, 4).to(device))
    assert not torch.equal(before, lvlm.run(request, [one]).logits_NC)


def test_text_plays_no_part(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, seed=1)
    words = request.prompt_N.clone()
    words[-3:] = (words[-3:] + 7) % 100
    spans = []
    for prompt in (request.prompt_N, words):
        run = lvlm.begin(replace(request, prompt_N=prompt), [ViCO(relative_threshold=0.5, absolute_threshold=0.0)])
        lvlm.prepare(run)
        assert run.prompt is not None
        spans.append(run.prompt.span_lengths)
    assert spans[0] == spans[1]


def test_what_is_no_whole_square_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    with pytest.raises(Refusal, match="low_factor must divide 8, the patches along a side, got 6"):
        lvlm.run(request, [ViCO(2, 6)])
    with pytest.raises(Refusal, match="low_factor must be a multiple of factor, 3, got 4"):
        ViCO(3, 4)
    with pytest.raises(StackError, match="needs `whole-grid`, which nobody finds behind ToMe"):
        lvlm.run(request, [ToMe(), ViCO()])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"factor": 0}, "at least 1, got 0"),
        ({"relative_threshold": 1.1}, "lie in"),
        ({"absolute_threshold": -0.1}, "lie in"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ViCO(**wrong)  # type: ignore[arg-type]
