"""Backbones in the place of a model's encoder: a network that makes a map of each frame, and a linear layer behind it.

The map has a width of its own, and the adapter behind it is the model's, which expects another. A linear layer joins
the two; an adapter trained for the backbone would take it into its own first layer.

F frames, H rows and W columns of a map, N = H W patches, C channels, D width of the model's encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from torch import Tensor, nn

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import Encoder
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.lvlm.tiles import resized
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.refusal import Refusal


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each place."""

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, C, H, W) → (F, C, H, W)."""
        return super().forward(x_FCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Backbone(nn.Module):
    """A network from frames (F, 3, R, R) to maps (F, C, H, W), and the layer to the width of the model's encoder."""

    def __init__(self, network: nn.Module, channels: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.to_width = nn.Linear(channels, width)

    def forward(self, frames_F3HW: Tensor) -> Tensor:
        """(F, 3, R, R) → (F, N, D), row after row."""
        out_FND: Tensor = self.to_width(self.network(frames_F3HW).flatten(2).mT)
        return out_FND


def encoded_by(
    at: Encoder, run: Run, key: Hashable, build: Callable[[], tuple[nn.Module, int]], resolution: int
) -> Patches:
    """What another network makes of the frames in place of the model's encoder, as the model's adapter gets it.

    Args:
        at: the frames; they are resized to a square of `resolution`.
        run: the run, whose model keeps the network.
        key: what the network depends on besides the model, such as the technique's setting.
        build: makes the network and says how many channels its maps have.
        resolution: R, pixels.
    """
    width = run.config.vision.hidden_size
    backbone = module_of(run, key, lambda: Backbone(*build(), width))
    # Interpolation is not there for every type of the weights.
    square_F3RR = resized(at.frames_F3HW.float(), (resolution, resolution)).to(at.frames_F3HW.dtype)
    return Patches(backbone(square_F3RR), prefix=0)


def expect_multiple(resolution: int, stride: int) -> None:
    """Check the side of the frames that a network takes.

    Raises:
        ValueError: it is below the stride.
        Refusal: it is no multiple of the stride, so that the map would not cover the frame evenly.
    """
    if resolution < stride:
        raise ValueError(f"resolution must be at least {stride}, got {resolution}")
    if resolution % stride:
        raise Refusal(f"resolution must be a multiple of {stride}, the side of a patch in pixels, got {resolution}")
