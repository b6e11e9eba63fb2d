"""The memory of one instance: what its stages leave for caches, and who has set some of it aside."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.activations import activations
from lvlm_atlas.roofline.kind import prompt_layers
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.memory import on_a_device
from lvlm_atlas.roofline.state import Shares
from lvlm_atlas.roofline.units import size
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.serving.prices import Prices
from lvlm_atlas.serving.shape import shape

BLOCK = 16
"""Tokens of a block of the cache."""
KEYS = 1 << 61
"""Prefixes are known by a number below this."""


def room_byte(prices: Prices, stages: Collection[str], token_budget: int, pool: str) -> float:
    """What all devices of an instance have left for caches and embeddings.

    Weights are those of the stages that it runs; activations are those of a step that reads so many tokens.

    Raises:
        AtlasError: nothing is left.
    """
    layout, deployment = prices.layout, prices.deployment
    held = on_a_device(layout, deployment, 0.0, 0.0, 0.0, Shares())
    weights = held["weights"]
    model = layout.model
    vision, language = layout.vision_byte, layout.llm_byte / layout.shards
    share = 1 if prices.vision.ranks > 1 else layout.encoder_shards
    weights += vision / share - vision / layout.encoder_shards
    if "encoding" not in stages:
        weights -= vision / share
    if not {"prefilling", "decoding"} & {*stages}:
        weights -= language
    usable = prices.device.memory_byte * deployment.memory_share
    left = usable - weights - held["reserve"] - _step_byte(layout, token_budget)
    if left <= 0:
        raise AtlasError(
            f"{model.name} leaves no room for a cache on {layout.shards} × {prices.device.name} ({pool}): weights take "
            f"{size(weights)} of {size(usable)}; give --tp more devices, or a smaller type"
        )
    shards = 1 if model.llm.latent else min(layout.shards, model.llm.kv_heads)
    return left * shards


def _step_byte(layout: Layout, tokens: int) -> float:
    """Activations of a step."""
    text = shape(replace(layout, materialised=False), Workload(text_tokens=tokens, output_tokens=1), ())
    layers = prompt_layers(text.state.prefilled, text.stages.places)
    return activations(text.stages.layout, text.state.encoded, layers, None).of(1)


class Memory:
    """What is set aside of it. Prefixes that nobody uses stay as long as there is room."""

    def __init__(self, room: float, block_byte: float, *, prefixes: bool) -> None:
        self.room, self.block_byte = room, block_byte
        self.used = 0.0
        """Set aside for requests, prefixes in use included."""
        self.growing = 0.0
        """What sequences that decode hold."""
        self.peak = 0.0
        self._prefixes = prefixes
        self._nodes: OrderedDict[int, float] = OrderedDict()
        """Prefixes by their key, the longest unused first, with the bytes that each adds to the one before."""
        self._users: dict[int, int] = {}
        self._kept = 0.0
        """Bytes of prefixes that nobody uses."""

    def blocks(self, byte: float) -> float:
        """The same in whole blocks."""
        return -(-byte // self.block_byte) * self.block_byte if self.block_byte else byte

    @property
    def free(self) -> float:
        """What can be set aside: prefixes that nobody uses give way."""
        return self.room - self.used - self.growing

    def grow(self, byte: float) -> None:
        """Sequences that decode hold so much by now."""
        self.growing = byte
        self.peak = max(self.peak, self.used + byte)
        self._evict()

    def take(self, byte: float) -> bool:
        """Set some aside, if there is room."""
        if byte > self.free:
            return False
        self.used += byte
        self.peak = max(self.peak, self.used + self.growing)
        self._evict()
        return True

    def give(self, byte: float) -> None:
        """Give it back."""
        self.used -= byte
        assert self.used > -1, "more was given back than was set aside"  # noqa: S101

    def _evict(self) -> None:
        while self._kept > self.free:
            for key in self._nodes:
                if not self._users.get(key):
                    self._kept -= self._nodes.pop(key)
                    break
            else:
                return

    def pin(self, chain: Sequence[tuple[int, int]]) -> tuple[int, list[int]]:
        """Use the longest known beginning of a prompt.

        Args:
            chain: keys of its stretches, each with the tokens up to there.

        Returns:
            Its tokens, and its keys for `unpin`.
        """
        tokens, keys = 0, []
        for key, upto in chain:
            if key not in self._nodes:
                break
            tokens = upto
            if not self._users.get(key):
                self._kept -= self._nodes[key]
                self.used += self._nodes[key]
            self._users[key] = self._users.get(key, 0) + 1
            self._nodes.move_to_end(key)
            keys.append(key)
        return tokens, keys

    def unpin(self, keys: Sequence[int]) -> None:
        """Use them no more."""
        for key in keys:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                self.used -= self._nodes[key]
                self._kept += self._nodes[key]
        self._evict()

    def keep(self, chain: Sequence[tuple[int, int]], token_byte: float) -> None:
        """Keep the stretches of a prompt that has been read, as long as there is room."""
        before = 0
        for key, upto in chain:
            if key not in self._nodes:
                byte = (upto - before) * token_byte
                if byte > self.free:
                    break
                self._nodes[key] = byte
                self._kept += byte
            before = upto
        self._evict()


class Embeddings:
    """Embeddings by what an image shows, the least recently used dropped first."""

    def __init__(self, room: float) -> None:
        self.room, self.held = room, 0.0
        self._byte: OrderedDict[str, float] = OrderedDict()
        self.hits = self.misses = 0

    def has(self, name: str) -> bool:
        """Whether they are there."""
        if name in self._byte:
            self._byte.move_to_end(name)
            self.hits += 1
            return True
        self.misses += 1
        return False

    def keep(self, name: str, byte: float) -> None:
        """Keep them; others give way."""
        if name in self._byte or byte > self.room:
            return
        self._byte[name] = byte
        self.held += byte
        while self.held > self.room:
            self.held -= self._byte.popitem(last=False)[1]


def chain(prefix: Sequence[tuple[str, int]], images: Sequence[tuple[str, int]]) -> list[tuple[int, int]]:
    """Keys of the stretches of a prompt: each stands for all that is in front of it too.

    Args:
        prefix: stretches of text in front of the images.
        images: what each shows, and its tokens.

    Returns:
        For each, its key and the tokens up to its end.
    """
    found, key, upto = [], 0, 0
    for name, tokens in (*prefix, *images):
        if not name:
            break
        key, upto = hash((key, name)) % KEYS, upto + tokens
        found.append((key, upto))
    return found
