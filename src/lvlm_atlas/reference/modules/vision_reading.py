"""Projections of a layer that reads vision tokens as keys and values alone, beside its own projections of the text.

Source: zhang2025himix; parameter names as in its code (tinyllava/model/llm/modeling_files/modeling_llama.py).

B batch, G key-value heads, V vision tokens, T text tokens, D width, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from lvlm_atlas.reference.lvlm.decoder import Layer, RmsNorm


class VisionReading(nn.Module):
    """A norm and two matrices that make keys and values of vision states; keys are not turned by any position.

    Args:
        width: D.
        groups: G.
        head_dim: d.
        eps: of the norm.
        bias: whether the matrices have biases.
    """

    def __init__(self, width: int, groups: int, head_dim: int, *, eps: float, bias: bool) -> None:
        super().__init__()
        self.input_layernorm_img = RmsNorm(width, eps)
        self.k_proj_img = nn.Linear(width, groups * head_dim, bias=bias)
        self.v_proj_img = nn.Linear(width, groups * head_dim, bias=bias)
        self.head_dim = head_dim

    def __deepcopy__(self, memo: object) -> VisionReading:
        """Copies of a session share the weights."""
        return self

    def forward(self, x_BVD: Tensor) -> tuple[Tensor, Tensor]:
        """(B, V, D) to keys and values (B, G, V, d)."""
        normed = self.input_layernorm_img(x_BVD)
        key, value = (
            project(normed).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.k_proj_img, self.v_proj_img)
        )
        return key, value


@dataclass(frozen=True)
class MixtureProjections:
    """See `lvlm_atlas.reference.lvlm.decoder.Reading`: the layer's own for the text, a `VisionReading` for vision."""

    own: Layer
    vision: VisionReading

    def __deepcopy__(self, memo: object) -> MixtureProjections:
        """Copies of a session share the weights."""
        return self

    def query_key(self, x_BTD: Tensor, position_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries (B, H, T, d) and keys (B, G, T, d) of the text."""
        return self.own.self_attn.query_key(x_BTD, position_BT)

    def value(self, x_BTD: Tensor, key_BGTd: Tensor) -> Tensor:
        """Values (B, G, T, d) of the text."""
        return self.own.value(x_BTD, key_BGTd)

    def output(self, attended_BHTd: Tensor) -> Tensor:
        """What attention gave the text, at the width of the states (B, T, D)."""
        return self.own.self_attn.output(attended_BHTd)

    def read_alone(self, x_BVD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, V, d) of the vision tokens."""
        return self.vision(x_BVD)  # type: ignore[no-any-return]
