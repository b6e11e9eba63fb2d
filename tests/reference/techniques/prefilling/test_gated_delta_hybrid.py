"""Gated delta hybrid."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.modules.delta_store import DeltaStore
from lvlm_atlas.reference.modules.gated_delta import GatedDeltaNet
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.ops.delta import gated_delta, unit
from lvlm_atlas.reference.techniques.decoding.prompt_lookup import PromptLookup
from lvlm_atlas.reference.techniques.prefilling.gated_delta_hybrid import GatedDeltaHybrid

SMALL = GatedDeltaHybrid(key_heads=2, value_heads=4, key_width=8, value_width=12)


def net(key_heads: int = 2) -> GatedDeltaNet:
    """A net of 4 value heads."""
    made = drawn(
        lambda: GatedDeltaNet(32, key_heads=key_heads, value_heads=4, key_width=6, value_width=10, kernel=4, eps=1e-6)
    )
    with torch.no_grad():
        made.dt_bias.uniform_(-1, 1)
        made.norm.weight.uniform_(0.5, 2)
    return made


def token_by_token(
    query: Tensor, key: Tensor, value: Tensor, gate: Tensor, rate: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The rule as it is written, for one head of one sequence."""
    read = []
    for place in range(len(query)):
        state = gate[place].exp() * state
        state = state + rate[place] * torch.outer(key[place], value[place] - key[place] @ state)
        read.append(query[place] @ state)
    return torch.stack(read), state


@pytest.mark.parametrize("chunk_size", [1, 5, 64])
def test_chunks_give_what_token_by_token_gives(chunk_size: int, device: str) -> None:
    generator = torch.Generator().manual_seed(4)
    query, key, value = (torch.randn(2, 3, 13, width, generator=generator) for width in (4, 4, 6))
    key = unit(key)
    gate, rate = -torch.rand(2, 3, 13, generator=generator) * 3, torch.rand(2, 3, 13, generator=generator)
    state = torch.randn(2, 3, 4, 6, generator=generator)
    tensors = (query, key, value, gate, rate, state)
    read, after = gated_delta(*(x.to(device) for x in tensors), chunk_size)
    for row in range(2):
        for head in range(3):
            want = token_by_token(*(x[row, head] for x in tensors))
            torch.testing.assert_close(read[row, head].cpu(), want[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(after[row, head].cpu(), want[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("key_heads", [2, 4])
@pytest.mark.parametrize("tokens", [3, 70])
def test_a_net_is_that_of_the_published_class(key_heads: int, tokens: int) -> None:
    published = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    config = published.Qwen3NextConfig(
        hidden_size=32, linear_num_key_heads=key_heads, linear_num_value_heads=4, linear_key_head_dim=6,
        linear_value_head_dim=10, linear_conv_kernel_dim=4, rms_norm_eps=1e-6, num_hidden_layers=4,
    )  # fmt: skip
    own = net(key_heads)
    theirs: Any = published.Qwen3NextGatedDeltaNet(config, 0).eval()
    theirs.load_state_dict(own.state_dict())
    x_BND = torch.randn(2, tokens, 32)
    entry, _ = own.query_key(x_BND, None)
    with torch.inference_mode():
        out, _ = own.mixed(entry, own.empty(entry), 64)
        torch.testing.assert_close(own.output(out), theirs(x_BND), atol=1e-5, rtol=1e-4)


def test_three_layers_of_four_hold_a_state_of_one_size(device: str) -> None:
    lvlm = LVLM.random(device=device)
    for frames in (1, 3):
        trace = lvlm.run(random_request(lvlm.config, frames=frames), SMALL).trace
        state = 4 * 8 * 12 + (2 * 2 * 8 + 4 * 12) * 3
        assert trace.kv_state == [state // 2] * 3 + [0]  # the model has two key-value heads
        assert trace.kv_byte[:3] == [state * 4] * 3
        assert trace.kv_entries == [0, 0, 0, trace.llm_tokens[0]]
        assert trace.score_entries[:3] == [0, 0, 0] != trace.score_entries[3:]


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack", "tiny-tiles"])
def test_decoding_goes_on_as_prefill_would(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=5)
    result = lvlm.run(request, SMALL)
    longer = torch.cat([request.prompt_N, result.tokens_N[:-1]])
    last = lvlm.run(
        type(request)(
            frames_F3HW=request.frames_F3HW, prompt_N=longer, image_token_id=request.image_token_id, max_new_tokens=1
        ),
        SMALL,
    )
    torch.testing.assert_close(result.logits_NC[-1], last.logits_NC[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(lvlm.run(request).logits_NC[0], result.logits_NC[0])


def test_drafted_tokens_read_the_state_behind_their_own_line() -> None:
    own = net()
    store, entry = DeltaStore(own, 64, 2), own.query_key(torch.randn(1, 9, 32), None)[0]
    store.append(entry[:, :, :4], entry[..., :0])
    store.settle()
    # Unsettled: 4 → 5 → 6, and 7 → 8 beside them; the last three are new.
    parents = {4: 4, 5: 4, 6: 5, 7: 7, 8: 7}
    store.append(entry[:, :, 4:], entry[..., :0])

    def line(token: int) -> list[int]:
        before = parents[token]
        return [token] if before == token else [*line(before), token]

    mask = torch.tensor([[other in line(token) for other in range(4, 9)] for token in (6, 7, 8)])
    out = store.attend(entry[:, :, 6:], *store.read(), mask)
    for index, token in enumerate((6, 7, 8)):
        whole = entry[:, :, [0, 1, 2, 3, *line(token)]]
        want = own.mixed(whole, own.empty(whole), 64)[0][:, :, -1]
        torch.testing.assert_close(out[:, :, index], want, atol=1e-5, rtol=1e-4)
    store.retain(torch.tensor([3, 4]))
    store.settle()
    whole = entry[:, :, [0, 1, 2, 3, 7, 8]]
    assert store.state is not None
    torch.testing.assert_close(store.state.sum_BHkv, own.mixed(whole, own.empty(whole), 64)[1].sum_BHkv)
    assert torch.equal(store.state.before_BMc, whole[:, 0, -3:, : own.channels])


def test_drafting_changes_no_answer_and_a_session_goes_on_from_its_states(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=10)
    result = lvlm.run(request, SMALL)
    assert torch.equal(result.tokens_N, lvlm.run(request, [SMALL, PromptLookup()]).tokens_N)
    session, words = lvlm.stream([SMALL]), request.text_N
    session.see(request.frames_F3HW)
    assert not session.ask(words[:3], 3, keep=False).logits_NC.isnan().any()
    answer = session.ask(words, 4)
    frame = torch.tensor([lvlm.config.image_token_id])
    one = type(request)(
        frames_F3HW=request.frames_F3HW, prompt_N=torch.cat([frame, words]), image_token_id=127, max_new_tokens=4
    )
    torch.testing.assert_close(answer.logits_NC, lvlm.run(one, SMALL).logits_NC, atol=1e-4, rtol=1e-4)


def test_heads_that_do_not_divide_and_parameters_out_of_range_are_refused() -> None:
    lvlm = LVLM.random()
    with pytest.raises(Refusal, match="4 value heads cannot share 3 key heads evenly"):
        lvlm.run(random_request(lvlm.config), GatedDeltaHybrid(key_heads=3, value_heads=4))
    with pytest.raises(ValueError, match="kernel must be at least 2, got 1"):
        GatedDeltaHybrid(kernel=1)
    store = DeltaStore(net(), 64, 2)
    with pytest.raises(Refusal, match="leave out what evicts"):
        store.keep(torch.zeros(1, 2, 3, dtype=torch.long))
