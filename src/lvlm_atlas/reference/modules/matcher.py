"""An image-text matcher: the two towers of CLIP, scored by cosine.

The image tower is the reference LVLM's own ViT run to its end; the text tower has the same layers, made causal.
Parameter names are those of published CLIP checkpoints; `random` draws the weights from a seed instead.

F frames, N text tokens, H heads, d head dimension, D width, P width of the shared space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.config import VisionConfig
from lvlm_atlas.reference.lvlm.vision import Encoder, Layer, VisionTransformer
from lvlm_atlas.reference.ops.attention import attend, causal_mask


@dataclass(frozen=True, kw_only=True)
class MatcherConfig:
    """Shapes of a matcher; both towers have the layers of `vision`."""

    vision: VisionConfig
    vocab_size: int
    """Word tokens; the end token comes after them. A larger id wraps, so that any tokenizer's ids have a row."""
    max_position_embeddings: int
    """Longest text, end token included; what is longer loses its tail, as under CLIP's processor."""
    projection_dim: int
    """Width of the space that frames and text share."""


SMALL = MatcherConfig(
    vision=VisionConfig(
        image_size=56,
        patch_size=14,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    ),
    vocab_size=1024,
    max_position_embeddings=77,
    projection_dim=32,
)
"""Small enough to run with every test."""


class TextEmbeddings(nn.Module):
    """Tokens with learned positions."""

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size + 1, config.vision.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.vision.hidden_size)

    def forward(self, token_N: Tensor) -> Tensor:
        """(N,) → (1, N, D)."""
        out: Tensor = (self.token_embedding(token_N) + self.position_embedding.weight[: len(token_N)])[None]
        return out


class TextTransformer(nn.Module):
    """CLIP's text tower: causal, read out at the end token, which alone has seen the whole text."""

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config.vision)
        self.final_layer_norm = nn.LayerNorm(config.vision.hidden_size, config.vision.layer_norm_eps)

    def forward(self, token_N: Tensor) -> Tensor:
        """Token ids with the end token last → (D,)."""
        x_1ND = self.embeddings(token_N)
        for layer in self.encoder.layers:
            x_1ND = _causal(layer, x_1ND)  # type: ignore[arg-type]
        out: Tensor = self.final_layer_norm(x_1ND[0, -1])
        return out


class ImageTextMatcher(nn.Module):
    """Scores frames against a text."""

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionTransformer(config.vision)
        self.text_model = TextTransformer(config)
        self.visual_projection = nn.Linear(config.vision.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.vision.hidden_size, config.projection_dim, bias=False)

    @classmethod
    def random(
        cls, config: MatcherConfig = SMALL, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> ImageTextMatcher:
        """A matcher with random weights, the same for a seed on every device.

        They are drawn as those of `LVLM.random`: matrices from N(0, 1/fan_in), norms 1, biases 0.
        """
        matcher = cls(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in matcher.named_parameters():
                if name.endswith("bias"):
                    weight.zero_()
                elif "norm" in name or "layrnorm" in name:
                    weight.fill_(1)
                else:
                    fan_in = 1 if "embed" in name and weight.dim() < 3 else weight[0].numel()
                    weight.copy_(torch.randn(weight.shape, generator=generator) * fan_in**-0.5)
        return matcher.to(device).eval()

    @torch.inference_mode()
    def score(self, frames_F3HW: Tensor, text_N: Tensor) -> Tensor:
        """Cosine (F,) of each frame with the text, both in the shared space."""
        return functional.cosine_similarity(self._frames(frames_F3HW), self._text(text_N), dim=-1)

    def _frames(self, frames_F3HW: Tensor) -> Tensor:
        model, weight = self.vision_model, self.visual_projection.weight
        side = self.config.vision.image_size
        frames_F3HW = frames_F3HW.to(weight.device, weight.dtype)
        if frames_F3HW.shape[-2:] != (side, side):
            frames_F3HW = functional.interpolate(frames_F3HW, (side, side), mode="bicubic", antialias=True)
        patches = Patches(model.pre_layrnorm(model.embeddings(frames_F3HW)), prefix=1)
        for layer in model.encoder.layers:
            patches = layer(patches, lambda patches: patches, lambda _entries: None)
        out_FP: Tensor = self.visual_projection(model.post_layernorm(patches.hidden_FND[:, 0]))
        return out_FP

    def _text(self, text_N: Tensor) -> Tensor:
        words = text_N[: self.config.max_position_embeddings - 1] % self.config.vocab_size
        token_N = functional.pad(words, (0, 1), value=self.config.vocab_size)
        out_P: Tensor = self.text_projection(self.text_model(token_N.to(self.text_projection.weight.device)))
        return out_P


def _causal(layer: Layer, x_BND: Tensor) -> Tensor:
    """The encoder's layer, each token attending to those before it only."""
    attention = layer.self_attn
    normed_BND = layer.layer_norm1(x_BND)
    query, key, value = (
        proj(normed_BND).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    out_BHNd = attend(query, key, value, causal_mask(x_BND.shape[1], x_BND.device))
    x_BND = x_BND + attention.out_proj(out_BHNd.transpose(1, 2).flatten(2))
    out: Tensor = x_BND + layer.mlp(layer.layer_norm2(x_BND))
    return out
