"""Dynamic-LLaVA."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm import LVLM, Refusal, Request, random_request
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.ops.attention import attend
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling
from lvlm_atlas.reference.techniques.prefilling.dynamic_llava import (
    DynamicLlava,
    TextPredictor,
    VisionPredictor,
    is_cached,
    keep_likeliest,
    with_mean,
)

SETTING = DynamicLlava(sparse_layer=2, vision_keep_rate=0.3, width=16)


class Says(nn.Module):
    """A predictor of generated tokens that keeps every other one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x_BD: Tensor) -> Tensor:
        self.calls += 1
        return torch.tensor([[float(self.calls % 2), 0.5]], device=x_BD.device).expand(len(x_BD), 2)


@pytest.fixture
def lvlm(device: str) -> LVLM:
    lvlm = LVLM.random(device=device)
    give(lvlm, (TextPredictor, 16), Says())
    return lvlm


def by_hand(lvlm: LVLM, request: Request, tokens: list[int], *, forget: bool = True) -> tuple[list, Tensor]:
    """Kept places before each layer and logits after the prompt and each token: one sequence, masks for what is gone.

    Of the generated tokens the second, fourth, … are hidden from later ones in layers 2 and 3.
    """
    inputs = lvlm.prepare(lvlm.begin(request))
    predictor = drawn(lambda: VisionPredictor(64, 16), device=lvlm.device)
    length, total = inputs.length, inputs.length + len(tokens)
    answer_MD = lvlm.embed(torch.tensor(tokens, dtype=torch.long))
    x_BND = torch.cat([inputs.hidden_BND, answer_MD[None]], dim=1)
    place = torch.arange(total, device=lvlm.device)
    alive, kept = torch.ones(total, dtype=torch.bool, device=lvlm.device), []
    for index, layer in enumerate(lvlm.language_model.layers):
        if index == 2:
            vision = inputs.vision_BN[0].nonzero()[:, 0]
            logit = predictor(x_BND[:, vision])[0].double()
            best = (logit[:, 0] - logit.logsumexp(-1)).argsort(descending=True, stable=True)
            alive[vision[best[int(len(vision) * 0.3) :]]] = False
        kept.append(place[:length][alive[:length]].tolist())
        mask = torch.ones(total, total, dtype=torch.bool, device=lvlm.device).tril() & alive
        if index >= 2 and forget:
            gone = (place >= length) & ((place - length) % 2 == 1)
            mask &= ~gone[None] | torch.eye(total, dtype=torch.bool, device=lvlm.device)
        mask |= torch.eye(total, dtype=torch.bool, device=lvlm.device)
        query, key, value = layer.project(x_BND, place[None])
        x_BND = layer.finish(x_BND, attend(query, key, value, mask))
    return kept, lvlm.language_model.logits(x_BND)[0, length - 1 :]


def test_a_forgotten_token_is_seen_by_its_own_step_alone_and_positions_count_on(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=7)
    result = lvlm.run(request, [SETTING])
    with torch.inference_mode():
        kept, logits_MC = by_hand(lvlm, request, result.tokens_N[:-1].tolist())
        everything = by_hand(lvlm, request, result.tokens_N[:-1].tolist(), forget=False)[1]
    assert [each[0].tolist() for each in result.trace.kept] == kept
    torch.testing.assert_close(result.logits_NC, logits_MC, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result.logits_NC[:3], everything[:3], atol=1e-4, rtol=1e-4)  # nobody looks back yet
    assert not torch.allclose(result.logits_NC[3:], everything[3:], atol=1e-3)


def test_layers_before_the_sparse_one_hold_everything(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=8)
    trace = lvlm.run(request, [SETTING]).trace
    assert trace.llm_vision_tokens == [128, 128, 38, 38]
    assert trace.kv_entries == [144, 144, 54, 54]
    assert trace.kv_most_entries == [151, 151, 58, 58]  # 4 of 7
    whole = lvlm.run(request, [DynamicLlava(2, 0.3, output_text_predictor=False, width=16)]).trace
    assert whole.kv_most_entries == [151, 151, 61, 61]


def test_the_prompts_text_is_never_forgotten(device: str) -> None:
    class Never(nn.Module):
        def forward(self, x_BD: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0]], device=x_BD.device).expand(len(x_BD), 2)

    lvlm = LVLM.random(device=device)
    give(lvlm, (TextPredictor, 16), Never())
    session = lvlm.stream([SETTING])
    request = random_request(lvlm.config, frames=1, max_new_tokens=4)
    for number in (1, 2):
        session.ask(request.prompt_N, 4, frames=request.frames_F3HW)
        assert [store.length for store in session.cache.stores] == [number * 84] * 2 + [number * 35] * 2


def test_drafted_tokens_are_judged_once_they_are_accepted(device: str) -> None:
    """A predictor of the state alone judges alike, whatever was drafted in between."""
    lvlm = LVLM.random(device=device)
    setting = DynamicLlava(1, 0.3, width=64)
    request = random_request(lvlm.config, frames=2, max_new_tokens=8)
    judged: list[Tensor] = []
    predictor = drawn(lambda: TextPredictor(64, 64), device=device)
    predictor.register_forward_pre_hook(lambda _, args: judged.append(args[0]))
    give(lvlm, (TextPredictor, 64), predictor)
    plain = lvlm.run(request, [setting])
    alone, judged[:] = torch.cat(judged), []
    assert 0 < plain.trace.kv_most_entries[-1] - plain.trace.kv_entries[-1] < 7
    result = lvlm.run(request, [setting, SpeculativeSampling(gamma=3, draft=LVLM.random(seed=1, device=device))])
    rejected = sum(result.trace.draft_nodes) - sum(result.trace.accepted_lengths)
    assert rejected > 0
    assert len(judged) == sum(result.trace.accepted_lengths) + result.trace.target_passes
    torch.testing.assert_close(judged[0], alone[:1], atol=1e-4, rtol=1e-4)


def test_half_of_the_channels_are_the_tokens_own_and_half_their_mean(device: str) -> None:
    x = torch.tensor([[[1.0, 2, 3, 4], [5, 6, 7, 10]]], device=device)
    assert with_mean(x).tolist() == [[[1, 2, 5, 7], [5, 6, 5, 7]]]


def test_the_likeliest_to_be_kept_stay_in_reading_order(device: str) -> None:
    logit = torch.tensor([[[9.0, 9], [0, -3], [1, 1], [0, -1], [5, 8], [0, -3]]], device=device)
    assert keep_likeliest(logit, 0.5).tolist() == [[1, 3, 5]]  # by the difference of the two
    assert keep_likeliest(logit, 0.34).tolist() == [[1, 5]]  # 2.04
    assert keep_likeliest(logit, 0.99).tolist() == [[0, 1, 2, 3, 5]]  # of equal ones the earlier
    assert keep_likeliest(logit, 0.16).shape == (1, 0)
    assert keep_likeliest(logit, 1.0).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_token_is_cached_if_its_first_logit_is_the_greater() -> None:
    assert is_cached(torch.tensor([[0.1, 0.0], [0.0, 0.1], [-2.0, -2.0]])).tolist() == [True, False, False]


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(0, 99))
def test_the_predictor_rates_tokens_alike_wherever_they_stand(tokens: int, seed: int) -> None:
    """It has no positions: another order of tokens is another order of logits."""
    generator = torch.Generator().manual_seed(seed)
    x, order = torch.randn(1, tokens, 8, generator=generator), torch.randperm(tokens, generator=generator)
    predictor = drawn(lambda: VisionPredictor(8, 8))
    torch.testing.assert_close(predictor(x[:, order]), predictor(x)[:, order], atol=1e-5, rtol=1e-5)


def test_the_predictor_has_the_published_shapes() -> None:
    with torch.device("meta"):
        vision, text = VisionPredictor(4096, 512), TextPredictor(4096, 512)
    own = 2 * 4096 + 4096 * 512 + 512, 512 * 256 + 256 + 256 * 128 + 128 + 128 * 2 + 2
    block = 2 * 2 * 512 + 512 * 1536 + 512 * 512 + 512 + 512 * 2048 + 2048 + 2048 * 512 + 512
    assert sum(each.numel() for each in vision.parameters()) == sum(own) + 2 * block
    assert sum(each.numel() for each in text.parameters()) == sum(own)


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_keeping_everything_changes_nothing(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2)
    plain, kept = lvlm.run(request), lvlm.run(request, [DynamicLlava(1, 1.0, output_text_predictor=False, width=16)])
    torch.testing.assert_close(kept.logits_NC, plain.logits_NC, atol=1e-5, rtol=1e-5)


def test_a_quantised_cache_forgets_the_same_tokens(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1, max_new_tokens=8)
    trace = lvlm.run(request, [SETTING, Kivi(group_size=8, residual_length=8)]).trace
    assert trace.kv_most_entries[1:] == [87, 39, 39]


def test_parameters_outside_their_range_are_refused(lvlm: LVLM) -> None:
    for wrong, said in (
        ({"sparse_layer": 0}, "at least 1"), ({"vision_keep_rate": 1.1}, "lie in"), ({"width": 4}, "at least 8"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            DynamicLlava(**wrong)  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="multiple of 8"):
        DynamicLlava(width=12)
    with pytest.raises(Refusal, match=r"1\.\.3 for an LLM of 4 layers"):
        lvlm.run(random_request(lvlm.config, frames=1), [DynamicLlava(4, width=16)])
