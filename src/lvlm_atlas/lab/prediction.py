"""What a stack's declared effects predict for a request: bounds for everything that the trace of a run counts.

Needs no torch. A prediction may take what was observed as given: each quantity is then predicted from the observed
values of those before it in the pipeline, so that a wrong declaration shows where it is made and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from lvlm_atlas.lab.interval import Interval, Names, changed, longest_rows, scheduled
from lvlm_atlas.lab.setup import Member, Setup
from lvlm_atlas.schema.effect import (
    AttentionDensity,
    Change,
    EncoderTokens,
    Frames,
    KvBits,
    KvResident,
    KvTokens,
    LlmVisionTokens,
    OutputTokens,
    Pixels,
    Speculation,
    VisionTokens,
)

Kind = TypeVar("Kind")
Bounds = Mapping[str, tuple[Interval, ...]]
"""Bounds by measure: a quantity of the taxonomy, perhaps with `: detail`. One number, one a layer, or one for each
round of decoding, which all have the same bounds."""
NONE, ALL = Interval(0, 0), Interval(1, 1)


def predict(setup: Setup, members: Sequence[Member], observed: Mapping[str, tuple[float, ...]] | None = None) -> Bounds:
    """Bounds of every measure, in pipeline order.

    Args:
        setup: the model and the request.
        members: the stack, in order.
        observed: what is taken as given; None predicts from the declarations alone.

    Raises:
        ValueError: an amount cannot be evaluated.
    """
    return _Walk(setup, members, observed or {}).found


class _Walk:
    """The state of a request on its way through the pipeline."""

    def __init__(self, setup: Setup, members: Sequence[Member], observed: Mapping[str, tuple[float, ...]]) -> None:
        self.setup, self.members, self.observed = setup, members, observed
        self.found: dict[str, tuple[Interval, ...]] = {}
        self.frames, self.patches = Interval.of(setup.frames), Interval.of(setup.patches)
        self.vision: Interval | None = None
        """Vision tokens that enter the LLM; None before."""
        self.output = Interval.of(setup.output_tokens)
        self._encoder()
        self._llm()
        self._cache()
        self._decoding()

    def _encoder(self) -> None:
        (self.frames,) = self._settle("frames", [self._after(Frames, self.frames, "F")])
        self._settle("pixels", [self._after(Pixels, ALL, whole=False)])
        layers = [self.patches] * self.setup.encoder_layers
        for member, effect in self._effects(EncoderTokens):
            layers = scheduled(effect, layers, self._layer_names(member, "N_p"), flows=True)
        prefix = self.setup.prefix
        tokens = self._settle("encoder.tokens", [n + prefix for n in (self.patches, *layers)])
        self.patches = tokens[-1] + -prefix
        layer = Interval(min(n.low for n in tokens[:-1]), max(n.high for n in tokens[:-1])) * self.setup.encoder_heads
        self.scores_read = sum((rows * layer for rows in self._rows("encoding")), NONE)
        handed_on = self._handed_on(self.frames, self.patches)
        self.vision = self._settle("vision-tokens", [self._after(VisionTokens, handed_on, "N_v")])[0]

    def _llm(self) -> None:
        vision = [self._names().amount("N_v")] * self.setup.layers
        for member, effect in self._effects(LlmVisionTokens):
            vision = scheduled(effect, vision, self._layer_names(member, "N_v"), flows=True)
        self.vision_at = self._settle("llm.vision-tokens", vision)
        tokens = [n + self.setup.text_tokens for n in self.vision_at]
        self.tokens_at = self._settle("llm.vision-tokens: with text", tokens)
        density = [ALL] * self.setup.layers
        for member, sparse in self._effects(AttentionDensity):
            density = scheduled(sparse, density, self._at_layer(member, self.tokens_at, self.vision_at), whole=False)
        self._settle("attention.density", density)
        for rows in self._rows("prefilling"):
            low = longest_rows(rows.low, [n.low for n in self.tokens_at])
            high = longest_rows(rows.high, [n.high for n in self.tokens_at])
            self.scores_read += Interval(low, high) * self.setup.heads
        self._settle("overhead: attention scores", [self.scores_read])

    def _cache(self) -> None:
        entries, vision = list(self.tokens_at), list(self.vision_at)
        for member, effect in self._effects(KvTokens):
            text = [Interval(max(0.0, n.low - v.high), n.high - v.low) for n, v in zip(entries, vision, strict=True)]
            old = {"all": entries, "vision": vision, "text": text}[effect.of]
            new = scheduled(effect, old, self._at_layer(member, entries, vision))
            if effect.of == "all":
                rest = zip(old, new, vision, text, strict=True)
                vision = [
                    v if o == n else Interval(max(0.0, n.low - t.high), min(v.high, n.high)) for o, n, v, t in rest
                ]
                entries = new
            else:
                entries = [
                    Interval(n.low + now.low - then.low, n.high + now.high - then.high)
                    for n, then, now in zip(entries, old, new, strict=True)
                ]
                vision = new if effect.of == "vision" else vision
        self.entries_at = self._settle("kv.tokens", entries)
        self._settle("kv.tokens: vision", vision)
        self._settle("kv.bits: bytes", [self._byte(n) for n in self.entries_at])
        self._settle("kv.resident", [self._after(KvResident, ALL, whole=False)])

    def _decoding(self) -> None:
        (self.output,) = self._settle("output-tokens", [self._after(OutputTokens, self.output, "N_o")])
        length = nodes = passes = accepted = vision = NONE
        for member, effect in self._effects(Speculation):
            amount = self._names(member).amount
            length, nodes = amount(effect.draft_length), amount(effect.draft_nodes)
            passes, vision = amount(effect.draft_passes), amount(effect.draft_vision_tokens)
            accepted = Interval(amount(effect.accepted_at_least).low, amount(effect.accepted_at_most).high)
        self._settle("speculation: draft length", [length])
        self._settle("speculation: draft nodes", [nodes])
        self._settle("speculation: draft passes", [passes])
        self._settle("speculation: draft vision tokens", [vision])
        rounds = self._settle("speculation: accepted", [accepted])
        after_first = self.output + -1
        passes = Interval(-(-after_first.low // (1 + accepted.high)), -(-after_first.high // (1 + accepted.low)))
        (passes,) = self._settle("speculation: target passes", [passes])
        settled = after_first + Interval(0, accepted.high)
        if self.observed:
            settled = sum(rounds, NONE) + passes
        ends = (self._byte(n + settled) for n in self.entries_at)
        self._settle("kv.bits: bytes at the end", [sum(ends, NONE)])

    def _settle(self, measure: str, bounds: Sequence[Interval]) -> tuple[Interval, ...]:
        """Note what is predicted; returns what the rest starts from, the observed numbers if they are given."""
        self.found[measure] = tuple(bounds)
        seen = self.observed.get(measure)
        if seen is None or (len(bounds) > 1 and len(seen) != len(bounds)):
            return tuple(bounds)
        return tuple(Interval.of(number) for number in seen)

    def _effects(self, kind: type[Kind]) -> Iterator[tuple[Member, Kind]]:
        """The effects of a kind in pipeline order; at one place, in the order of the stack."""
        found = [(place, m, effect) for m in self.members for place, effect in m.effects if isinstance(effect, kind)]
        return ((m, effect) for _, m, effect in sorted(found, key=lambda each: each[0]))

    def _after(self, kind: type[Change], value: Interval, symbol: str | None = None, *, whole: bool = True) -> Interval:
        """A number after all effects of a kind; in their amounts `symbol` stands for it."""
        for member, effect in self._effects(kind):
            names = self._names(member, **({symbol: value} if symbol else {}))
            value = changed(effect, value, names, whole=whole)
        return value

    def _handed_on(self, frames: Interval, patches: Interval) -> Interval:
        """Vision tokens that encoder and adapter make of so many patches a frame."""
        deep = Interval(*(math.ceil(n / self.setup.frames_a_patch) for n in (frames.low, frames.high)))
        return deep * patches * (1 / self.setup.patches_a_token)

    def _names(self, member: Member | None = None, **values: Interval) -> Names:
        """What names stand for at this point; `values` go before the state."""
        state = {"F": self.frames, "N_p": self.patches, "N_o": self.output, **values}
        state.setdefault("N_v", self._handed_on(state["F"], state["N_p"]) if self.vision is None else self.vision)
        state.setdefault("N", state["N_v"] + self.setup.text_tokens)
        return Names({**self.setup.symbols, **state, **(member.parameters if member else {})})

    def _layer_names(self, member: Member, symbol: str) -> Callable[[int, Interval], Names]:
        """The names in a layer, where the number that the effect changes is `symbol`."""
        return lambda _, number: self._names(member, **{symbol: number})

    def _at_layer(
        self, member: Member, tokens: Sequence[Interval], vision: Sequence[Interval]
    ) -> Callable[[int, Interval], Names]:
        """The names in a layer of so many tokens, so many of them visual."""
        return lambda layer, _: self._names(member, N=tokens[layer], N_v=vision[layer])

    def _rows(self, stage: str) -> Iterator[Interval]:
        """Rows of attention that each overhead of a stage declares."""
        for member in self.members:
            for overhead in member.overheads:
                if overhead.stage == stage and overhead.attention_rows is not None:
                    rows = self._names(member).amount(overhead.attention_rows)
                    yield Interval(0, rows.high) if overhead.upper_bound else rows

    def _byte(self, entries: Interval) -> Interval:
        """Bytes of one layer's cache with so many entries a head."""
        return Interval.of(*map(self._layer_byte, (entries.low, entries.high)))

    def _layer_byte(self, entries: float) -> float:
        full = 8.0 * self.setup.element_byte
        key, value, exact_keys, exact_values = full, full, 0.0, 0.0
        for member, effect in self._effects(KvBits):
            amount = self._names(member, N=Interval.of(entries)).amount
            overhead = amount(effect.group_overhead_bit).high / amount(effect.group_size).high
            key, value = amount(effect.key).high + overhead, amount(effect.value).high + overhead
            exact_keys = min(entries, amount(effect.full_precision_keys).high)
            exact_values = min(entries, amount(effect.full_precision_values).high)
        bits = (entries - exact_keys) * key + (entries - exact_values) * value + (exact_keys + exact_values) * full
        return bits / 8 * self.setup.kv_heads * self.setup.head_dim
