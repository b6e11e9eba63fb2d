"""Multi-head latent attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.caches.latent import LatentStore
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.modules.latent import LatentProjections
from lvlm_atlas.reference.ops.attention import attend
from lvlm_atlas.reference.techniques.decoding.multi_head_latent_attention import MultiHeadLatentAttention
from lvlm_atlas.reference.techniques.decoding.prompt_lookup import PromptLookup

SMALL = MultiHeadLatentAttention(rank=24, rope=8, nope=16, value=12)


def projections(query_rank: int = 0) -> LatentProjections:
    """Projections of 4 heads."""
    return drawn(
        lambda: LatentProjections(32, 4, nope=6, rope=4, value=10, rank=12, query_rank=query_rank, theta=1e4, eps=1e-6)
    )


def layer_of(own: LatentProjections, x_BND: Tensor, first: int = 0) -> Tensor:
    """Causal attention of a layer alone."""
    position_BN = torch.arange(first, first + x_BND.shape[1]).expand(x_BND.shape[:2])
    query, key = own.query_key(x_BND, position_BN)
    return own.output(attend(query, key, own.value(x_BND, key), causal=True))


@pytest.mark.parametrize("query_rank", [0, 8])
def test_a_layer_is_that_of_the_published_class(query_rank: int) -> None:
    published = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
    config = published.DeepseekV3Config(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=query_rank or None, kv_lora_rank=12,
        qk_rope_head_dim=4, qk_nope_head_dim=6, v_head_dim=10, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    own = projections(query_rank)
    theirs: Any = published.DeepseekV3Attention(config, 0).eval()
    theirs.load_state_dict(own.state_dict())
    x_BND, position_BN = torch.randn(2, 9, 32), torch.arange(9).expand(2, -1)
    mask = torch.full((9, 9), float("-inf")).triu(1).expand(2, 1, -1, -1)
    rotation = published.DeepseekV3RotaryEmbedding(config)(x_BND, position_BN)
    with torch.inference_mode():
        torch.testing.assert_close(layer_of(own, x_BND), theirs(x_BND, rotation, mask)[0], atol=1e-5, rtol=1e-5)


def test_a_layer_is_that_of_keys_and_values_of_every_head() -> None:
    own, x_BND = projections(), torch.randn(1, 7, 32)
    with torch.inference_mode():
        down = own.kv_a_proj_with_mqa(x_BND)
        latent, turned = own.kv_a_layernorm(down[..., :12]), down[..., 12:]
        asked = own.q_proj(x_BND).reshape(1, 7, 4, 10)
        up = own.kv_b_proj(latent).reshape(1, 7, 4, 16)

        def rotated(x: Tensor, place: int) -> Tensor:
            pairs = x.reshape(2, 2)  # neighbours
            angle = place * torch.tensor([1.0, 1e-2])
            first, second = pairs[:, 0], pairs[:, 1]
            return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()])

        out = torch.zeros(1, 7, 4, 10)
        for head in range(4):
            for to in range(7):
                query = torch.cat([asked[0, to, head, :6], rotated(asked[0, to, head, 6:], to)])
                keys = torch.stack(
                    [torch.cat([up[0, at, head, :6], rotated(turned[0, at], at)]) for at in range(to + 1)]
                )
                weight = (keys @ query / 10**0.5).softmax(0)
                out[0, to, head] = weight @ up[0, : to + 1, head, 6:]
        torch.testing.assert_close(layer_of(own, x_BND), own.o_proj(out.flatten(2)), atol=1e-5, rtol=1e-5)


def test_a_store_of_latents_gives_the_first_channels_of_keys_as_values() -> None:
    store, key = LatentStore(3), torch.randn(1, 1, 5, 4)
    store.append(key[:, :, :3], key[:, :, :3, :3])
    store.settle()
    store.append(key[:, :, 3:], key[:, :, 3:, :3])
    read = store.read()
    assert torch.equal(read[0], key)
    assert torch.equal(read[1], key[..., :3])
    store.retain(torch.tensor([1]))
    store.settle()
    assert torch.equal(store.read()[0], key[:, :, [0, 1, 2, 4]])
    store.keep(torch.tensor([[[0, 3]]]))
    assert torch.equal(store.read()[1], key[:, :, [0, 4], :3])
    assert [tensor.shape for tensor in store.tensors] == [(1, 1, 2, 4)]


def test_a_token_takes_one_latent_and_one_key_a_layer(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, frames=1), SMALL).trace
    assert trace.kv_byte == [trace.llm_tokens[0] * (24 + 8) * 4] * 4
    plain = lvlm.run(random_request(lvlm.config, frames=1)).trace
    assert trace.score_entries == plain.score_entries  # every head still sees every token


def test_decoding_goes_on_as_prefill_would(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=5)
    result = lvlm.run(request, SMALL)
    longer = torch.cat([request.prompt_N, result.tokens_N[:-1]])
    whole = type(request)(frames_F3HW=request.frames_F3HW, prompt_N=longer, image_token_id=127, max_new_tokens=1)
    last = lvlm.run(whole, SMALL)
    torch.testing.assert_close(result.logits_NC[-1], last.logits_NC[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(lvlm.run(request).logits_NC[0], result.logits_NC[0])


def test_a_session_and_drafted_tokens_read_the_latents(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=8)
    result = lvlm.run(request, SMALL)
    drafted = lvlm.run(request, [SMALL, PromptLookup()])
    assert torch.equal(result.tokens_N, drafted.tokens_N)
    session = lvlm.stream([SMALL])
    session.see(request.frames_F3HW)
    words = request.text_N
    answer = session.ask(words, 4)
    frame = torch.tensor([lvlm.config.image_token_id])
    one = type(request)(
        frames_F3HW=request.frames_F3HW, prompt_N=torch.cat([frame, words]), image_token_id=127, max_new_tokens=4
    )
    torch.testing.assert_close(answer.logits_NC, lvlm.run(one, SMALL).logits_NC, atol=1e-4, rtol=1e-4)
    assert not session.ask(words, 2, keep=False).tokens_N.isnan().any()


def test_layers_have_weights_of_their_own_which_a_model_keeps() -> None:
    lvlm = LVLM.random()
    run = lvlm.begin(random_request(lvlm.config), [SMALL])
    acting = run.acts.owner("projections")
    first, second = (acting.projections[layer].kv_a_proj_with_mqa.weight for layer in (0, 1))
    assert not torch.equal(first, second)
    again = lvlm.begin(random_request(lvlm.config), [SMALL]).acts.owner("projections")
    assert again.projections is acting.projections


def test_channels_that_turn_come_in_pairs_and_positions_on_one_axis() -> None:
    lvlm = LVLM.random()
    with pytest.raises(Refusal, match="rope must be even"):
        lvlm.run(random_request(lvlm.config), MultiHeadLatentAttention(rank=8, rope=3, nope=4, value=4))
    window = LVLM.random("tiny-window")
    with pytest.raises(Refusal, match="its positions have several axes"):
        window.run(random_request(window.config), SMALL)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        MultiHeadLatentAttention(rank=0)
