"""Gated delta hybrid: most layers keep a state that forgets and overwrites, every few layers one attends to everything.

Paper: yang2025gateddelta. Code: huggingface/transformers, models/qwen3_next/modular_qwen3_next.py
(`Qwen3NextGatedDeltaNet`, `full_attention_interval`).

Symbols: `linear_num_key_heads` → `key_heads`, `linear_num_value_heads` → `value_heads`, `linear_key_head_dim` →
`key_width`, `linear_value_head_dim` → `value_width`, `linear_conv_kernel_dim` → `kernel`, `full_attention_interval` →
`interval`.

Departs:
1. The weights are random, or given; a model trained for softmax attention in all layers is not converted.
2. Layers that attend are the model's own; those of Qwen3-Next gate their output, and turn a quarter of the channels.
3. The state has the model's type between steps; the code holds it in float32. It is worked out in float32 here, too.
4. Drafted tokens wait outside the state until they are accepted, and each reads it behind its own line of a tree.

B batch, H value heads, N tokens, v channels of a value, W channels of a token's entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, cast

from torch import nn

from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.lvlm.contexts import Attention, CacheBits, Projections
from lvlm_atlas.reference.lvlm.decoder import Projecting
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.delta_store import DeltaStore
from lvlm_atlas.reference.modules.gated_delta import GatedDeltaNet
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.blocks import Replacement
from lvlm_atlas.reference.ops.delta import causal_convolution, gated_delta  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.refusal import Refusal


def attends(layer: int, interval: int) -> bool:
    """Whether a layer keeps softmax attention: the last of each `interval`."""
    return (layer + 1) % interval == 0


@dataclass(frozen=True)
class GatedDeltaHybrid(Technique):
    """Projections, attention and store of the layers that keep a state.

    Raises:
        ValueError: an argument lies outside its range.
    """

    key_heads: int = 16
    value_heads: int = 32
    key_width: int = 128
    value_width: int = 128
    kernel: int = 4
    interval: int = 4
    chunk_size: int = 64

    acts_at: ClassVar = ("projections", "attention", "cache-bits")
    needs: ClassVar = ("training-data",)
    withholds: ClassVar = ("attention-row", "frames-apart", "equal-frames")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "key_heads", "value_heads", "key_width", "value_width", "chunk_size")
        self.expect_at_least(2, "kernel", "interval")

    def begin(self, run: Run) -> Mixing:
        """What acts in a run or session.

        Raises:
            Refusal: value heads cannot share key heads evenly.
        """
        if self.value_heads % self.key_heads:
            raise Refusal(
                f"{self.value_heads} value heads cannot share {self.key_heads} key heads evenly; give a multiple"
            )
        text = run.config.text
        build = partial(
            GatedDeltaNet, text.hidden_size, key_heads=self.key_heads, value_heads=self.value_heads,
            key_width=self.key_width, value_width=self.value_width, kernel=self.kernel, eps=text.rms_norm_eps,
        )  # fmt: skip
        nets = module_of(run, self, lambda: nets_of(build, text.num_hidden_layers, self.interval))
        return Mixing(self, nets, text.num_key_value_heads)


def nets_of(build: Callable[[], GatedDeltaNet], layers: int, interval: int) -> nn.ModuleDict:
    """A net for each layer that keeps a state, by its index."""
    return nn.ModuleDict({str(layer): build() for layer in range(layers) if not attends(layer, interval)})


@dataclass
class Mixing:
    """The nets of one run or session, and their stores."""

    setting: GatedDeltaHybrid
    nets: nn.ModuleDict
    groups: int
    stores: dict[int, DeltaStore] = field(default_factory=dict)

    def net(self, layer: int) -> GatedDeltaNet | None:
        """That of a layer; None if it attends."""
        return cast("GatedDeltaNet", self.nets[str(layer)]) if str(layer) in self.nets else None

    def exchange_projections(self, at: Projections) -> Projecting | None:
        """The net, where there is one."""
        return self.net(at.layer)

    def choose_blocks(self, at: Attention) -> Replacement | None:
        """What the tokens of a prompt read, behind the state of what came before them."""
        net = self.net(at.layer)
        if net is None:
            return None
        before = self.stores[at.layer].state if at.layer in self.stores else None
        out_BHNv, _ = net.mixed(at.key_BGNd, before or net.empty(at.key_BGNd), self.setting.chunk_size)
        return Replacement(out_BHNv, 0)

    def new_store(self, at: CacheBits) -> Store:
        """A store of the state; of entries where a layer attends."""
        net = self.net(at.layer)
        if net is None:
            return PlainStore()
        self.stores[at.layer] = DeltaStore(net, self.setting.chunk_size, self.groups)
        return self.stores[at.layer]
