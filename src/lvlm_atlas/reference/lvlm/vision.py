"""The vision tower: CLIP's ViT, parameter names as in published checkpoints.

F frames (the encoder's batch), N tokens, H heads, d head dimension, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Attending, Between, Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.activation import ACTIVATIONS
from lvlm_atlas.reference.lvlm.ahead import Upcoming, unchanged
from lvlm_atlas.reference.lvlm.config import LVLMConfig, VisionConfig
from lvlm_atlas.reference.ops.attention import attend


class Embeddings(nn.Module):
    """Patches of the image, a class token in front, learned positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.side = config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(config.patches + 1, width)

    def forward(self, frames_F3HW: Tensor) -> Tensor:
        """(F, 3, H, W) → (F, 1 + patches, D)."""
        patch_FND = self.patch_embedding(frames_F3HW).flatten(2).mT
        class_F1D = self.class_embedding.expand(len(patch_FND), 1, -1)
        return torch.cat([class_F1D, patch_FND], dim=1) + self.position_embedding.weight

    def places(self, device: torch.device) -> Tensor:
        """Row and column (1 + patches, 2) of each token, −1 for the class token."""
        side = torch.arange(self.side, device=device)
        return functional.pad(torch.cartesian_prod(side, side), (0, 0, 1, 0), value=-1)


class Attention(nn.Module):
    """Bidirectional attention; a token that stands for s patches counts s times."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        x_FND: Tensor,
        size_FN: Tensor | None,
        on_read: Callable[[int], None],
        attending: Callable[..., Tensor] | None = None,
    ) -> tuple[Tensor, Probe]:
        """Output (F, N, D), and the layer's attention for those who read it; `attending` takes its place."""
        probe, v_FHNd = self.probe(x_FND, size_FN, on_read), self._heads(self.v_proj(x_FND))
        mask = None if probe.bias_BN is None else probe.bias_BN[:, None, None, :]
        query, key = probe.query_BHNd, probe.key_BGNd
        own = partial(attend, query, key, v_FHNd, mask)
        scores = query[..., 0].numel() * query.shape[2]
        out_FHNd = own() if attending is None else attending((query, key, v_FHNd), own, scores)
        return self.out_proj(out_FHNd.transpose(1, 2).flatten(2)), probe

    def probe(self, x_FND: Tensor, size_FN: Tensor | None, on_read: Callable[[int], None]) -> Probe:
        """The attention alone."""
        query, key = (self._heads(proj(x_FND)) for proj in (self.q_proj, self.k_proj))
        bias_FN = None if size_FN is None else size_FN.log().to(x_FND.dtype)
        return Probe(query, key, causal=False, on_read=on_read, bias_BN=bias_FN)

    def _heads(self, x: Tensor) -> Tensor:
        """(F, N, D) → (F, H, N, d)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Layer(nn.Module):
    """Pre-norm encoder layer, with room for techniques between attention and MLP."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(
        self,
        patches: Patches,
        between: Callable[[Patches], Patches],
        on_read: Callable[[int], None],
        attending: Callable[..., Tensor] | None = None,
    ) -> Patches:
        """Run the layer; `between` sees the patches after attention, before the MLP, `attending` is in its place."""
        size_FN = patches.size_FN if patches.proportional else None
        inside = None if attending is None else partial(attending, patches)
        out_FND, probe = self.self_attn(self.layer_norm1(patches.hidden_FND), size_FN, on_read, inside)
        attention = probe if attending is None else None  # its map is not that of softmax any more
        entered_FND = patches.hidden_FND
        patches = between(
            replace(
                patches,
                hidden_FND=entered_FND + out_FND,
                attention=attention,
                key_FHNd=probe.key_BGNd,
                entered_FND=entered_FND,
            )
        )
        return self.finish(patches)

    def finish(self, patches: Patches) -> Patches:
        """What follows attention: the MLP."""
        hidden_FND = patches.hidden_FND
        return replace(patches, hidden_FND=hidden_FND + self.mlp(self.layer_norm2(hidden_FND)), entered_FND=None)

    def probe(self, patches: Patches, on_read: Callable[[int], None]) -> Probe:
        """The attention that the layer would have on these patches."""
        size_FN = patches.size_FN if patches.proportional else None
        return self.self_attn.probe(self.layer_norm1(patches.hidden_FND), size_FN, on_read)


class Encoder(nn.Module):
    """The layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class VisionTransformer(nn.Module):
    """CLIP's ViT. The last layers and the final norm exist for the checkpoint's sake; LLaVA leaves them out."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)  # the checkpoints' spelling
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)


class VisionTower(nn.Module):
    """The encoder as LLaVA uses it."""

    def __init__(self, config: LVLMConfig) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(config.vision)
        self.layers_run = config.encoder_layers

    def forward(
        self, frames_F3HW: Tensor, trace: Trace, between: Between, attending: Attending | None = None
    ) -> Patches:
        """Hidden states of `vision_feature_layer`, class token still in front; arguments as in `Dialect.patches`."""
        model = self.vision_model
        patches = Patches(
            model.pre_layrnorm(model.embeddings(frames_F3HW)), prefix=1,
            place_FN2=model.embeddings.places(frames_F3HW.device).expand(len(frames_F3HW), -1, -1),
        )  # fmt: skip
        layers = [layer for layer in model.encoder.layers if isinstance(layer, Layer)]
        on_read = trace.note_probe
        upcoming = Upcoming(
            [partial(layer, between=unchanged, on_read=on_read) for layer in layers],
            [partial(layer.probe, on_read=on_read) for layer in layers],
        )
        for index, layer in enumerate(layers[: self.layers_run]):
            trace.encoder_tokens.append(patches.hidden_FND.shape[1])
            change = upcoming.inside(index, layer.finish, partial(between, index, self.layers_run))
            inside = attending and partial(attending, index, self.layers_run)
            patches = layer(patches, change, on_read, inside)
        trace.encoder_tokens.append(patches.hidden_FND.shape[1])
        return replace(patches, upcoming=replace(upcoming, first=self.layers_run))
