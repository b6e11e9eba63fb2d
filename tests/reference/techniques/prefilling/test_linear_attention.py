"""Linear attention, and the store that holds its state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.caches.state import StateStore
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.ops.attention import causal_mask, share_heads
from lvlm_atlas.reference.ops.linear import FEATURE_MAPS, attend_behind, chunked, empty
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.prompt_lookup import PromptLookup
from lvlm_atlas.reference.techniques.prefilling.linear_attention import LinearAttention

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def randn(*shape: int, device: str, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def features(length: int, device: str, heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """φ(q), φ(k) and v; more features than channels, which a learned map may have."""
    query, key = (FEATURE_MAPS["elu"](randn(1, heads, length, 6, device=device, seed=seed)) for seed in (0, 1))
    return query, key, randn(1, heads, length, 4, device=device, seed=2)


def by_pairs(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The weighted mean by φ(q) · φ(k), all pairs formed."""
    weight = (query @ key.mT).tril()
    return weight @ value / weight.sum(-1, keepdim=True)


def by_steps(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Token by token, with a state."""
    total, norm, parts = torch.zeros(1, 2, 6, 4, device=query.device), torch.zeros(1, 2, 6, device=query.device), []
    for t in range(query.shape[2]):
        total = total + key[:, :, t, :, None] * value[:, :, t, None]
        norm = norm + key[:, :, t]
        out = (query[:, :, t, None] @ total)[:, :, 0]
        parts.append(out / (query[:, :, t] * norm).sum(-1, keepdim=True))
    return torch.stack(parts, dim=2)


@pytest.mark.parametrize("chunk", [1, 3, 8, 64])
def test_three_forms_agree(device: str, chunk: int) -> None:
    tensors = features(19, device)
    out, state = chunked(*tensors, chunk)
    torch.testing.assert_close(out, by_pairs(*tensors), **CLOSE)
    torch.testing.assert_close(out, by_steps(*tensors), **CLOSE)
    torch.testing.assert_close(state.sum_BHed, tensors[1].mT @ tensors[2])
    torch.testing.assert_close(state.norm_BHe, tensors[1].sum(2))


def test_a_state_gives_what_its_tokens_would(device: str) -> None:
    query, key, value = features(11, device)
    _, state = chunked(query[:, :, :8], key[:, :, :8], value[:, :, :8], 5)
    out = attend_behind(query[:, :, 8:], key[:, :, 8:], value[:, :, 8:], state, causal_mask(3, query.device))
    torch.testing.assert_close(out, by_pairs(query, key, value)[:, :, 8:], **CLOSE)
    one = attend_behind(query[:, :, 8:9], key[:, :, 8:9], value[:, :, 8:9], empty(key, value))
    torch.testing.assert_close(one, value[:, :, 8:9], **CLOSE)  # a weighted mean of one value


def test_nothing_depends_on_later_tokens(device: str) -> None:
    query, key, value = features(12, device)
    before, _ = chunked(query, key, value, 5)
    key[:, :, 7:], value[:, :, 7:] = 9, -9
    after, _ = chunked(query, key, value, 5)
    torch.testing.assert_close(after[:, :, :7], before[:, :, :7])
    assert not torch.allclose(after[:, :, 7:], before[:, :, 7:], atol=1e-2)


def test_a_store_holds_a_state_whatever_it_has_read(device: str) -> None:
    store = StateStore(FEATURE_MAPS["elu"])
    sizes = []
    for length in (3, 20, 1):
        store.append(randn(1, 2, length, 8, device=device), randn(1, 2, length, 8, device=device, seed=1))
        assert store.length == length
        store.settle()
        assert store.length == 0
        sizes.append(sum(tensor.numel() for tensor in store.tensors))
    assert sizes == [2 * (8 * 8 + 8)] * 3
    with pytest.raises(Refusal, match="no entries"):
        store.keep(torch.zeros(1, 2, 1, dtype=torch.long))


def test_rejected_tokens_leave_no_trace(device: str) -> None:
    key, value, query = (randn(1, heads, 9, 8, device=device, seed=heads) for heads in (2, 2, 4))
    stores = [StateStore(FEATURE_MAPS["elu"]) for _ in range(2)]
    for store, drafted in zip(stores, ([6, 7, 8], [6, 8]), strict=True):
        store.append(key[:, :, :6], value[:, :, :6])
        store.settle()
        store.append(key[:, :, drafted], value[:, :, drafted])
    stores[0].retain(torch.tensor([0, 2]))
    for store in stores:
        store.settle()
    nothing = key[:, :, :0]
    outs = [store.attend(query[:, :, :1], nothing, nothing, None) for store in stores]
    torch.testing.assert_close(outs[0], outs[1])
    seen = [*range(7), 8]
    phi = FEATURE_MAPS["elu"]
    weight = phi(query[:, :, :1]) @ share_heads(phi(key[:, :, seen]), 4).mT
    expected = weight @ share_heads(value[:, :, seen], 4) / weight.sum(-1, keepdim=True)
    torch.testing.assert_close(outs[0], expected, **CLOSE)


@pytest.mark.parametrize("preset", ["tiny", "tiny-mha", "tiny-window"])
def test_decoding_goes_on_from_the_prompts_state(preset: str, device: str) -> None:
    """Text that is decoded and text that is read give the same, as they do with a cache."""
    model = LVLM.random(preset, device=device)
    request = random_request(model.config, frames=2, text_tokens=9, max_new_tokens=5)
    result = model.run(request, [LinearAttention(chunk_size=7)])
    read = torch.cat([request.prompt_N, result.tokens_N[:-1].to(request.prompt_N.device)])
    longer = model.run(replace(request, prompt_N=read, max_new_tokens=1), [LinearAttention(chunk_size=50)])
    torch.testing.assert_close(longer.logits_NC[-1], result.logits_NC[-1], **CLOSE)


def test_a_second_round_goes_on_from_the_state_of_the_first(lvlm: LVLM) -> None:
    frames_F3HW = random_request(lvlm.config, frames=3).frames_F3HW
    answers = []
    for rounds in ((3,), (1, 2)):
        stream = lvlm.stream([LinearAttention(chunk_size=7)])
        for part_F3HW in frames_F3HW.split(rounds):
            stream.see(part_F3HW)
        answers.append(stream.ask(torch.arange(10, 20), 3).logits_NC)
    torch.testing.assert_close(*answers, **CLOSE)


def test_a_run_forms_no_score_and_holds_no_entries(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    plain, result = lvlm.run(request), lvlm.run(request, [LinearAttention()])
    text = lvlm.config.text
    assert result.trace.score_entries == [0] * 4
    assert result.trace.kv_entries == [0] * 4
    state = text.num_key_value_heads * (text.head_dim**2 + text.head_dim) * 4
    assert result.trace.kv_byte == [state] * 4
    assert result.trace.llm_tokens == plain.trace.llm_tokens
    other = lvlm.run(request, [LinearAttention(chunk_size=3)])
    torch.testing.assert_close(other.logits_NC, result.logits_NC, **CLOSE)
    assert not torch.allclose(plain.logits_NC, result.logits_NC, atol=1e-3)


def test_speculation_gives_the_same_answer(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2, max_new_tokens=12)
    alone = lvlm.run(request, [LinearAttention()])
    drafted = lvlm.run(request, [LinearAttention(), PromptLookup()])
    assert drafted.tokens_N.tolist() == alone.tokens_N.tolist()


@pytest.mark.parametrize("wrong", [{"feature_map": "exp"}, {"chunk_size": 0}])
def test_illegal_values_are_told(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LinearAttention(**wrong)  # type: ignore[arg-type]
