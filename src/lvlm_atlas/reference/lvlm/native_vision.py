"""A vision tower at native resolution: what Qwen2.5-VL's and Qwen3-VL's share, parameter names as published.

T temporal patches (the encoder's batch: nothing attends across them), N patches of one, H heads, d head dimension,
W windows of a size, L patches of a window, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Attending, Between, Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.ahead import Upcoming, unchanged
from lvlm_atlas.reference.lvlm.config import NativeVisionConfig
from lvlm_atlas.reference.lvlm.windows import Windows, coordinates, to_patches, whole
from lvlm_atlas.reference.ops.attention import attend_inside, frequencies, turn


class PatchEmbed(nn.Module):
    """A 3-D convolution whose stride is its size: a linear map of each patch's pixels."""

    def __init__(self, config: NativeVisionConfig, *, bias: bool) -> None:
        super().__init__()
        size = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.hidden_size, size, stride=size, bias=bias)

    def forward(self, pixel_TNx: Tensor) -> Tensor:
        """(T, N, 3 · frames · p · p) → (T, N, D)."""
        return functional.linear(pixel_TNx, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Bidirectional attention inside windows, rotated by row and column."""

    def __init__(self, config: NativeVisionConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        x_TND: Tensor,
        angle_1Nd: Tensor,
        windows: Windows,
        on_read: Callable[[int], None],
        attending: Callable[..., Tensor] | None = None,
    ) -> tuple[Tensor, Probe]:
        """Output (T, N, D), and the layer's attention for those who read it; `attending` takes its place."""
        query, key, value = self._heads(self.qkv(x_TND))
        query, key = turn(query, angle_1Nd), turn(key, angle_1Nd)
        heads = (query, key, value)
        own = partial(attend_inside, *heads, windows.groups)
        out_THNd = own() if attending is None else attending(heads, own, len(x_TND) * self.heads * windows.pairs)
        probe = Probe(query, key, causal=False, on_read=on_read, window_N=windows.window_N)
        return self.proj(out_THNd.transpose(1, 2).flatten(2)), probe

    def probe(self, x_TND: Tensor, angle_1Nd: Tensor, windows: Windows, on_read: Callable[[int], None]) -> Probe:
        """The attention alone."""
        width = 2 * x_TND.shape[-1]  # without the rows of the values, which come last
        query, key = self._heads(functional.linear(x_TND, self.qkv.weight[:width], self.qkv.bias[:width]))
        query, key = turn(query, angle_1Nd), turn(key, angle_1Nd)
        return Probe(query, key, causal=False, on_read=on_read, window_N=windows.window_N)

    def _heads(self, x: Tensor) -> Tensor:
        """(T, N, n · H · d) → (n, T, H, N, d)."""
        wide = x.reshape(*x.shape[:2], -1, self.heads, self.proj.in_features // self.heads)
        return wide.permute(2, 0, 3, 1, 4)


class Block(nn.Module):
    """Pre-norm encoder layer, with room for techniques between attention and MLP."""

    def __init__(self, config: NativeVisionConfig, norm: type[nn.Module], mlp: nn.Module) -> None:
        super().__init__()
        self.norm1 = norm(config.hidden_size, config.norm_eps)
        self.norm2 = norm(config.hidden_size, config.norm_eps)
        self.attn = Attention(config)
        self.mlp = mlp

    def forward(
        self,
        patches: Patches,
        angle_1Nd: Tensor,
        windows: Windows,
        between: Callable[[Patches], Patches],
        on_read: Callable[[int], None],
        attending: Callable[..., Tensor] | None = None,
    ) -> Patches:
        """Run the layer; `between` sees the patches after attention, before the MLP, `attending` is in its place."""
        inside = None if attending is None else partial(attending, patches)
        out_TND, probe = self.attn(self.norm1(patches.hidden_FND), angle_1Nd, windows, on_read, inside)
        attention = probe if attending is None else None  # its map is not that of softmax any more
        patches = between(
            replace(
                patches,
                hidden_FND=patches.hidden_FND + out_TND,
                attention=attention,
                key_FHNd=probe.key_BGNd,
                entered_FND=patches.hidden_FND,
            )
        )
        return self.finish(patches)

    def finish(self, patches: Patches) -> Patches:
        """What follows attention: the MLP."""
        hidden_TND = patches.hidden_FND
        return replace(patches, hidden_FND=hidden_TND + self.mlp(self.norm2(hidden_TND)), entered_FND=None)

    def probe(self, patches: Patches, angle_1Nd: Tensor, windows: Windows, on_read: Callable[[int], None]) -> Probe:
        """The attention that the layer would have on these patches."""
        return self.attn.probe(self.norm1(patches.hidden_FND), angle_1Nd, windows, on_read)


class NativeTower(nn.Module):
    """Patch embedding and layers."""

    def __init__(self, config: NativeVisionConfig, blocks: Iterable[Block], *, embed_bias: bool) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config, bias=embed_bias)
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, frames_F3HW: Tensor, trace: Trace, between: Between, attending: Attending | None = None
    ) -> Patches:
        """Patches of each temporal patch, in squares of those that are merged; arguments as in `Dialect.patches`."""
        config, layers = self.config, len(self.blocks)
        rows, columns = (side // config.patch_size for side in frames_F3HW.shape[-2:])
        place_N2 = coordinates(rows, columns, config, frames_F3HW.device)
        half = config.hidden_size // config.num_attention_heads // 2
        angle_N2d = place_N2[..., None].float() * frequencies(half, config.rope_theta, frames_F3HW.device)
        hidden_TND = self.positioned(self.patch_embed(to_patches(frames_F3HW, config)), place_N2)
        place_TN2 = place_N2.expand(len(hidden_TND), -1, -1)
        patches = Patches(hidden_TND, prefix=0, grid=(rows, columns), place_FN2=place_TN2)
        angle_1Nd, on_read = angle_N2d.flatten(1)[None], trace.note_probe
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        pairs = [*zip(blocks, self.windows(place_N2), strict=True)]
        upcoming = Upcoming(
            [
                partial(block, angle_1Nd=angle_1Nd, windows=windows, between=unchanged, on_read=on_read)
                for block, windows in pairs
            ],
            [partial(block.probe, angle_1Nd=angle_1Nd, windows=windows, on_read=on_read) for block, windows in pairs],
        )
        for index, (block, windows) in enumerate(pairs):
            trace.encoder_tokens.append(patches.hidden_FND.shape[1])
            change = upcoming.inside(index, block.finish, partial(between, index, layers))
            inside = attending and partial(attending, index, layers)
            patches = self.after(index, block(patches, angle_1Nd, windows, change, on_read, inside))
        trace.encoder_tokens.append(patches.hidden_FND.shape[1])
        return replace(patches, upcoming=replace(upcoming, first=layers))

    def positioned(self, hidden_TND: Tensor, place_N2: Tensor) -> Tensor:  # noqa: ARG002 - for those with positions
        """The embedded patches with what the tower adds for their row and column."""
        return hidden_TND

    def windows(self, place_N2: Tensor) -> list[Windows]:
        """Which patches attend to each other in each layer."""
        return [whole(place_N2)] * len(self.blocks)

    def after(self, layer: int, patches: Patches) -> Patches:  # noqa: ARG002 - for those that take features there
        """The output of a layer with what is taken from it."""
        return patches
