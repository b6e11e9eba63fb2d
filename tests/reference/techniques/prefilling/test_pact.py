"""PACT."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.ops.attention import share_heads
from lvlm_atlas.reference.ops.clustering import bounded_peaks
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.h2o import H2O
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV
from lvlm_atlas.reference.techniques.prefilling.pact import Pact, clusters, means, relevance
from lvlm_atlas.reference.techniques.prefilling.sliding_window_attention import SlidingWindowAttention


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (N, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float()


def cut(degrees: float) -> float:
    """The cosine distance of this angle."""
    return 1 - math.cos(math.radians(degrees))


def everyone(count: int, device: str) -> Tensor:
    return torch.arange(count, device=device)


def test_the_mean_query_asks_and_the_length_of_the_state_weighs(device: str) -> None:
    query = torch.tensor([[[2.0, 0], [0, 2]]], device=device)  # mean (1, 1)
    key = torch.tensor([[[1.0, 1], [0, 0]]], device=device) * 2**0.5
    share = math.exp(2) / (math.exp(2) + 1)
    assert torch.allclose(relevance(query, key, torch.tensor([[3.0, 4], [0, 1]])), torch.tensor([5 * share, 1 - share]))


def test_heads_are_averaged_after_their_softmax(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(3, 5, 4, generator=generator).to(device) for _ in range(2))
    expected = torch.stack([(q.mean(0) @ k.T / 2).softmax(-1) for q, k in zip(query, key, strict=True)]).mean(0)
    assert torch.allclose(relevance(query, key, torch.eye(5, device=device)), expected, atol=1e-6)


@settings(max_examples=50)
@given(st.data())
def test_peaks_are_those_of_a_walk_by_falling_density(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(0, 25))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    x = torch.rand(tokens, 2, generator=generator)
    distance, density = torch.cdist(x, x), torch.rand(tokens, generator=generator).mul(6).round()
    cutoff = data.draw(st.sampled_from([0.0, 0.1, 0.3, 2.0]))
    peaks: list[int] = []
    for token in sorted(range(tokens), key=lambda each: (float(density[each]), each), reverse=True):
        if all(float(distance[token, peak]) > cutoff for peak in peaks):
            peaks.append(token)
    assert bounded_peaks(distance, density, cutoff).tolist() == sorted(peaks)


def test_no_member_lies_beyond_the_cutoff_and_centres_lie_apart(device: str) -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(1)).to(device)
    centre, group = clusters(x, everyone(60, device), 0.2, 1.0, 2.0)
    unit = x / x.norm(dim=-1, keepdim=True)
    distance = 1 - unit @ unit.mT
    assert bool((group >= 0).all())
    assert float(distance[torch.arange(60), centre[group]].max()) <= 0.2
    apart = distance[centre][:, centre] + 9 * torch.eye(len(centre), device=device)
    assert float(apart.min()) > 0.2
    assert torch.equal(centre[group[centre]], centre)


def test_dense_tokens_become_centres_first(device: str) -> None:
    # 20° lies within 25° of all others, which lie 40° apart at the ends; it is densest.
    x = directions(0, 20, 40, device=device)
    centre, group = clusters(x, everyone(3, device), cut(25), 1.0, 2.0)
    assert centre.tolist() == [1]
    assert group.tolist() == [0, 0, 0]
    assert clusters(x, everyone(3, device), cut(15), 1.0, 2.0)[0].tolist() == [0, 1, 2]


def test_dropped_tokens_return_within_the_wider_cutoff_and_never_become_centres(device: str) -> None:
    x = directions(0, 5, 14, 90, device=device)  # the first alone is kept
    centre, group = clusters(x, torch.tensor([0], device=device), cut(10), 2.0, 2.0)
    assert centre.tolist() == [0]
    assert cut(14) < 2 * cut(10) < cut(15)
    assert group.tolist() == [0, 0, 0, -1]
    assert clusters(x, torch.tensor([0], device=device), cut(10), 1.0, 2.0)[1].tolist() == [0, 0, -1, -1]


def test_a_cluster_is_the_mean_of_all_its_members(device: str) -> None:
    x = torch.tensor([[1.0, 0], [3, 0], [8, 8], [0, 5]], device=device)
    mean, size = means(x, torch.tensor([0, 0, -1, 1], device=device), 2)
    assert mean.tolist() == [[2, 0], [0, 5]]
    assert size.tolist() == [2, 1]


def by_hand(lvlm: LVLM, request: Request, tokens: list[int], setting: Pact) -> tuple[Tensor, Tensor]:
    """Places that are left, and logits after the prompt and each token, every pass from scratch."""
    inputs = lvlm.prepare(lvlm.begin(request))
    prompt, answer_MD = inputs.length, lvlm.embed(torch.tensor(tokens, dtype=torch.long))
    x_BND = torch.cat([inputs.hidden_BND, answer_MD[None]], dim=1)
    position, bias = torch.arange(x_BND.shape[1], device=lvlm.device), torch.zeros(x_BND.shape[1], device=lvlm.device)
    left = torch.arange(prompt, device=lvlm.device)
    for index, layer in enumerate(lvlm.language_model.layers):
        if index == setting.layer:
            place = inputs.vision_BN[0].nonzero()[:, 0]
            end = int(place[-1]) + 1
            query, key, _ = layer.project(x_BND[:, :prompt], None)
            score = relevance(query[0, :, :end], share_heads(key, query.shape[1])[0, :, :end], x_BND[0, :end])[place]
            kept = score.topk(int(len(place) * setting.keep_ratio)).indices.sort().values
            _, turned, _ = layer.project(x_BND[:, :prompt], position[None, :prompt])
            flat = turned[0, :, place].transpose(0, 1).flatten(1)
            centre, group = clusters(flat, kept, setting.cutoff, setting.recovery, setting.bandwidth)
            for number, one in enumerate(centre.tolist()):
                members = place[group == number]
                bias[place[one]] = math.log(len(members))
                x_BND = x_BND.index_copy(1, place[one : one + 1], x_BND[:, members].mean(1, keepdim=True))
            text = [each for each in range(x_BND.shape[1]) if each >= prompt or not inputs.vision_BN[0, each]]
            stay = torch.tensor(sorted([*text, *place[centre].tolist()]), device=lvlm.device)
            x_BND, position, bias, left = x_BND[:, stay], position[stay], bias[stay], stay[stay < prompt]
        query, key, value = layer.project(x_BND, position[None])
        logit = query @ share_heads(key, query.shape[1]).mT / query.shape[-1] ** 0.5 + bias
        seen = torch.ones(logit.shape[-2:], dtype=torch.bool, device=lvlm.device).tril()
        weight = logit.masked_fill(~seen, float("-inf")).softmax(-1)
        x_BND = layer.finish(x_BND, weight @ share_heads(value, query.shape[1]))
    return left, lvlm.language_model.logits(x_BND)[0, len(left) - 1 :]


@pytest.mark.parametrize("layer", [1, 2])
def test_logits_of_prompt_and_answer_are_those_of_attention_with_sizes(lvlm: LVLM, layer: int) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=5)
    setting = Pact(layer=layer, cutoff=0.9)
    result = lvlm.run(request, [setting])
    with torch.inference_mode():
        left, logits = by_hand(lvlm, request, result.tokens_N[:-1].tolist(), setting)
    assert 1 < len(left) - 16 < 40  # clusters of several members
    assert torch.equal(result.trace.kept[layer][0], left)
    torch.testing.assert_close(result.logits_NC, logits, atol=1e-4, rtol=1e-4)


def test_without_the_sizes_it_is_another_method(lvlm: LVLM) -> None:
    inputs = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=2)))
    assert inputs.bias_BN is None
    setting = Pact(layer=1, cutoff=0.9)
    layer = next(iter(lvlm.language_model.layers))

    def look(sequence):
        query, key, _ = layer.project(sequence.hidden_BND, sequence.position_BN)
        return Probe(query, key, causal=True, bias_BN=sequence.bias_BN)

    with torch.inference_mode():
        out = setting.begin(lvlm.begin(random_request(lvlm.config))).llm_layer(LlmLayer(1, 4, inputs, 0, look))
    assert out.bias_BN is not None
    assert float(out.bias_BN[~out.vision_BN].abs().max()) == 0
    size = out.bias_BN[out.vision_BN].exp().round()
    assert out.vision_BN.sum() <= int(128 * 0.55) < float(size.sum()) <= 128  # some of the dropped ones came back
    kept = out.keep(torch.arange(3, out.length, device=lvlm.device)[None])
    assert torch.equal(kept.bias_BN, out.bias_BN[:, 3:])


def test_a_later_round_sees_the_clusters_of_the_first_with_their_sizes(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1, max_new_tokens=3)
    words = request.prompt_N[request.prompt_N != request.image_token_id]
    session = lvlm.stream([Pact(layer=1, cutoff=0.9)])
    first = session.ask(request.prompt_N, 3, frames=request.frames_F3HW)
    second = session.ask(words, 3)
    whole = torch.cat([request.prompt_N, first.tokens_N.cpu(), words])
    setting = Pact(layer=1, cutoff=0.9)
    inputs = lvlm.prepare(lvlm.begin(request))
    with torch.inference_mode():
        _, logits = by_hand(lvlm, request, [*first.tokens_N.tolist(), *words.tolist()], setting)
    assert len(whole) == len(request.prompt_N) + 3 + len(words)
    assert inputs.length == 80
    torch.testing.assert_close(second.logits_NC[0], logits[-1], atol=1e-4, rtol=1e-4)


def test_policies_that_evict_see_the_sizes(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=6)
    both = lvlm.run(request, [Pact(layer=1, cutoff=0.9), H2O()])
    assert len(both.tokens_N) == 6


def test_where_nothing_is_dropped_and_none_is_near_nothing_changes(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, [Pact(layer=1, keep_ratio=1.0, cutoff=0.0)])
    torch.testing.assert_close(neutral.logits_NC, lvlm.run(request).logits_NC, atol=1e-4, rtol=1e-4)


def test_what_cannot_run_is_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    for stack, says in (
        ([Pact(layer=4)], r"layer must be in 1\.\.3"),
        ([Pact(layer=1), FastV(layer=2)], "leave one out"),
        ([Pact(layer=1), SlidingWindowAttention()], "block-sparse-kernel"),
    ):
        with pytest.raises(Refusal, match=says):
            lvlm.run(request, stack)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"layer": 0}, "layer must"),
        ({"keep_ratio": 0.0}, "keep_ratio must"),
        ({"cutoff": 2.1}, "cutoff must"),
        ({"recovery": 0.9}, "recovery must"),
        ({"bandwidth": 0.0}, "bandwidth must"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(Pact(), **wrong)  # type: ignore[arg-type]
