"""Which techniques of a stack decide what: a stack is a number, in which bit i stands for technique i."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lvlm_atlas.roofline.transform import Applied

_ENTERING = ("frames", "pixels", "encoder.tokens", "vision-tokens", "text-tokens")
_ENCODING = ("frames", "pixels", "encoder.flop", "encoder.density", "encoder.tokens", "adapter.flop")


class Masks:
    """For each stretch of the pipeline, the techniques that change something up to it: bit i stands for technique i."""

    def __init__(self, techniques: Sequence[Applied]) -> None:
        acts: dict[str, int] = defaultdict(int)
        for index, technique in enumerate(techniques):
            for change in technique.changes:
                acts[change.quantity] |= 1 << index
            acts["speculation"] |= bool(technique.speculation) << index
            acts["kv.bits"] |= bool(technique.cache_bits) << index
            acts["overhead"] |= bool(technique.overheads) << index
            acts["state"] |= bool(technique.changes or technique.cache_bits) << index
        # Tokens that change before the adapter decide its rows; changes before them decide what they leave.
        adapter = max((c.order for each in techniques for c in each.changes if c.before_adapter), default=-1)
        for index, technique in enumerate(techniques):
            orders = [change.order for change in technique.changes if change.quantity == "vision-tokens"]
            acts["adapter"] |= any(order <= adapter for order in orders) << index
        self.encoding = _union(acts, (*_ENCODING, "adapter"))
        self.entering = _union(acts, _ENTERING)
        """Techniques that change what enters the LLM, or what symbols stand for there."""
        self.encoded = self.encoding | self.entering
        self.tokens = self.entering | acts["llm.vision-tokens"]
        self.shares = acts["llm.weights"] | acts["kv.layers"]
        self.prefilled = self.tokens | self.shares | _union(
            acts, ("llm.vision-queries", "llm.vision-mlp", "attention.density", "kv.state")
        )  # fmt: skip
        self.entries = self.tokens | acts["kv.tokens"] | acts["kv.state"]
        self.cached = self.entries | self.shares | _union(acts, ("kv.resident", "kv.read", "kv.bits"))
        self.paced = self.shares | _union(acts, ("output-tokens", "speculation", "llm.depth"))
        """Techniques that change the passes of decoding."""
        self.answered = self.entering | self.paced
        self.decoded = self.cached | self.answered
        self.drafts = acts["speculation"] & ~acts["state"]
        """Techniques that draft and do nothing else."""
        self.overhead = acts["overhead"]
        outside_cache = self.encoded | acts["output-tokens"]
        self.before_overhead = [
            outside_cache
            | (self.entries if any(extra.stage == "decoding" for extra in each.overheads) else 0)
            | (self.tokens if any(extra.from_layer is not None for extra in each.overheads) else 0)
            for each in techniques
        ]
        """For each technique, those that what it adds depends on."""


def _union(acts: Mapping[str, int], quantities: Iterable[str]) -> int:
    union = 0
    for quantity in quantities:
        union |= acts.get(quantity, 0)
    return union


def bits(stack: int) -> Iterator[int]:
    """Places of the ones in a number, ascending."""
    while stack:
        low = stack & -stack
        yield low.bit_length() - 1
        stack ^= low
