"""An image-text matcher: the two towers of CLIP, which embed frames, patches and text in one space.

The image tower is the reference LVLM's own ViT run to its end; the text tower has the same layers, made causal.
Parameter names are those of published CLIP checkpoints; `random` draws the weights from a seed instead.

F frames, N text tokens or patches, H heads, d head dimension, D width, P width of the shared space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.config import VisionConfig
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.lvlm.vision import Encoder, Layer, VisionTransformer
from lvlm_atlas.reference.modules.kept import drawn, module_of
from lvlm_atlas.reference.ops.attention import attend, causal_mask


@dataclass(frozen=True, kw_only=True)
class MatcherConfig:
    """Shapes of a matcher."""

    vision: VisionConfig
    text: VisionConfig | None = None
    """Layers of the text tower, whose sizes in pixels mean nothing; None: those of `vision`."""
    vocab_size: int
    """Word tokens; the end token comes after them. A larger id wraps, so that any tokenizer's ids have a row."""
    max_position_embeddings: int
    """Longest text, end token included; what is longer loses its tail, as under CLIP's processor."""
    projection_dim: int
    """Width of the space that frames and text share."""

    @property
    def text_tower(self) -> VisionConfig:
        """Layers of the text tower."""
        return self.text or self.vision


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
        width = config.text_tower.hidden_size
        self.token_embedding = nn.Embedding(config.vocab_size + 1, width)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, width)

    def forward(self, token_N: Tensor) -> Tensor:
        """(N,) → (1, N, D)."""
        out: Tensor = (self.token_embedding(token_N) + self.position_embedding.weight[: len(token_N)])[None]
        return out


class TextTransformer(nn.Module):
    """CLIP's text tower: causal, read out at the end token, which alone has seen the whole text."""

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        tower = config.text_tower
        self.encoder = Encoder(tower)
        self.final_layer_norm = nn.LayerNorm(tower.hidden_size, tower.layer_norm_eps)

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
        self.text_projection = nn.Linear(config.text_tower.hidden_size, config.projection_dim, bias=False)

    @classmethod
    def random(
        cls, config: MatcherConfig = SMALL, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> ImageTextMatcher:
        """A matcher with random weights, the same for a seed on every device; see `drawn`."""
        return drawn(lambda: cls(config), seed=seed, device=device)

    @torch.inference_mode()
    def score(self, frames_F3HW: Tensor, text_N: Tensor) -> Tensor:
        """Cosine (F,) of each frame with the text, both in the shared space."""
        return functional.cosine_similarity(self.embed_frames(frames_F3HW), self.embed_text(text_N), dim=-1)

    def embed_frames(self, frames_F3HW: Tensor) -> Tensor:
        """Frames in the shared space (F, P): the class token at the end of the tower, projected. Any size."""
        return self.project(self._features(frames_F3HW)[:, 0])

    def embed_patches(self, frames_F3HW: Tensor) -> Tensor:
        """The patches of each frame in the shared space (F, N, P), row after row, without the class token."""
        return self.project(self._features(frames_F3HW)[:, 1:])

    def project(self, hidden: Tensor) -> Tensor:
        """Features of the tower's width in the shared space: (…, D) → (…, P). The tower's own, or of one like it."""
        out: Tensor = self.visual_projection(self.vision_model.post_layernorm(hidden))
        return out

    def _features(self, frames_F3HW: Tensor) -> Tensor:
        """What leaves the last layer (F, 1 + N, D), class token first."""
        model, weight = self.vision_model, self.visual_projection.weight
        side = self.config.vision.image_size
        frames_F3HW = frames_F3HW.to(weight.device, weight.dtype)
        if frames_F3HW.shape[-2:] != (side, side):
            frames_F3HW = functional.interpolate(frames_F3HW, (side, side), mode="bicubic", antialias=True)
        patches = Patches(model.pre_layrnorm(model.embeddings(frames_F3HW)), prefix=1)
        for layer in model.encoder.layers:
            patches = layer(patches, lambda patches: patches, lambda _entries: None)
        return patches.hidden_FND

    def embed_text(self, text_N: Tensor) -> Tensor:
        """A text in the shared space (P,); what is longer than `max_position_embeddings` loses its tail."""
        words = text_N[: self.config.max_position_embeddings - 1] % self.config.vocab_size
        token_N = functional.pad(words, (0, 1), value=self.config.vocab_size)
        out_P: Tensor = self.text_projection(self.text_model(token_N.to(self.text_projection.weight.device)))
        return out_P


def matcher_of(run: Run, config: MatcherConfig = SMALL) -> ImageTextMatcher:
    """The matcher of these shapes that the model of a run keeps, float32: random, unless `give` put another one there.

    Kept under its configuration, so that all techniques of a stack share it.
    """
    return module_of(run, config, lambda: ImageTextMatcher(config), dtype=torch.float32)


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
