"""The one interpreter of effects: a request goes through the pipeline, and techniques change it where they act."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from lvlm_atlas.roofline.entering import Entering
from lvlm_atlas.roofline.overhead import extras
from lvlm_atlas.roofline.schedule import by_layer, tokens_by_layer
from lvlm_atlas.roofline.state import (
    Answered,
    Cached,
    Draft,
    Encoded,
    Limits,
    Prefilled,
    Shares,
    State,
)
from lvlm_atlas.roofline.transform import Applied, CacheBits, Change, Names, value


class Walk(Entering):
    """A stack of techniques on a request. Each method is one stretch of the pipeline, a function of its arguments."""

    def divide(self, entries: float, vision: float, text: float) -> tuple[float, float]:
        """Vision and text entries left when a cache of so many is cut to `entries` and nothing says which go.

        Both give way in proportion.
        """
        before = vision + text
        share = entries / before if before else 1.0
        return vision * share, text * share

    def state(self) -> State:
        """What the stack leaves of the request."""
        encoded = self.encoded()
        prefilled = self.prefilled(encoded)
        cached = self.cached(encoded, prefilled)
        answered = self.answered(encoded)
        added = (extra for each in self.stack for extra in extras(each, encoded, cached.entries, answered))
        return State(encoded=encoded, prefilled=prefilled, cached=cached, answered=answered, extras=tuple(added))

    def prefilled(self, encoded: Encoded) -> Prefilled:
        """The pass over the prompt."""
        layers, symbols, text_tokens = self.dimensions.layers, encoded.symbols, encoded.text
        vision: Sequence[float] = (encoded.vision,) * layers
        for technique, change in self._changes("llm.vision-tokens"):
            vision = by_layer(
                technique, change, vision, symbols, lambda _, old: {"N_v": old, "N": old + text_tokens}, flows=True
            )
        vision = self.settle("llm.vision-tokens", vision)
        text = self.settle("llm.text-tokens", (encoded.text + encoded.marker,) * layers)
        names = tokens_by_layer(vision, text)
        return Prefilled(
            vision=tuple(vision), text=tuple(text),
            queries=self._some_of("llm.vision-queries", vision, symbols, names),
            mlp=self._some_of("llm.vision-mlp", vision, symbols, names),
            density=self._schedule("attention.density", (1.0,) * layers, symbols, names),
            state=self._schedule("kv.state", (0.0,) * layers, symbols, names),
            shares=self._shares(symbols),
        )  # fmt: skip

    def cached(self, encoded: Encoded, prefilled: Prefilled) -> Cached:
        """The KV cache once the prompt is in. In cross-attention layers it holds vision, elsewhere then text alone.

        A layer with a constant state holds no entries.
        """
        symbols = encoded.symbols
        cross = self.dimensions.cross_layers
        vision: Sequence[float] = prefilled.vision
        text: Sequence[float] = prefilled.text
        if cross:
            vision = [tokens if layer in cross else 0.0 for layer, tokens in enumerate(vision)]
            text = [0.0 if layer in cross else tokens for layer, tokens in enumerate(text)]
        limited: list[tuple[Applied, Change, Callable[[int, float], Names] | None]] = []
        held = self.dimensions.held
        for technique, change in self._changes("kv.tokens"):
            if held and change.all_rounds:
                vision, text, held = _with(vision, held, 0), _with(text, held, 1), ()
            entries = [v + t for v, t in zip(vision, text, strict=True)]
            counted = {"all": entries, "vision": vision, "text": text}[change.of]
            names = tokens_by_layer(vision, text)
            left = by_layer(technique, change, counted, symbols, names)
            if change.limit is not None:
                grows_only = (change.how, change.amount) == ("cap", math.inf)
                limited.append((technique, change, None if grows_only else names))
            if change.of == "vision":
                vision = left
            elif change.of == "text":
                text = left
            else:
                both = [
                    self.divide(new, v, t) if new != old else (v, t)
                    for new, old, v, t in zip(left, entries, vision, text, strict=True)
                ]
                vision, text = zip(*both, strict=True)
        if held:
            vision, text = _with(vision, held, 0), _with(text, held, 1)
        bounds = self.dimensions.limits or self._limits(limited, symbols, tokens_by_layer(vision, text))
        if self.dimensions.limits:
            bounded = [self._within(limit, v, t) for limit, v, t in zip(bounds, vision, text, strict=True)]
            vision, text = zip(*bounded, strict=True)
        names = tokens_by_layer(vision, text)
        state = self._schedule("kv.state", (0.0,) * self.dimensions.layers, symbols, names)
        if any(state):
            vision = [0.0 if elements else count for count, elements in zip(vision, state, strict=True)]
            text = [0.0 if elements else count for count, elements in zip(text, state, strict=True)]
        vision = self.settle("kv.tokens: vision", vision)
        text = self.settle("kv.tokens: text", text)
        names = tokens_by_layer(vision, text)
        read = self._schedule("kv.read", (1.0,) * self.dimensions.layers, symbols, names)
        bits, stored = self._bits(symbols)
        resident, fetch = self._residency(symbols)
        return Cached(
            vision=tuple(vision), text=tuple(text), limits=bounds, state=state, read=read, bits=bits,
            stored=stored, shares=self._shares(symbols), resident=resident, fetch=fetch,
        )  # fmt: skip

    def answered(self, encoded: Encoded) -> Answered:
        """How many tokens are generated, and how."""
        symbols, first = dict(encoded.symbols), dict[str, Names]()
        output = self._scalar("output-tokens", self.dimensions.output_tokens, "N_o", symbols, first)
        (output,) = self.settle("output-tokens", (max(1, round(output)),))
        layers = self.dimensions.layers
        (depth,) = self.settle("llm.depth", (self._number("llm.depth", layers, encoded.symbols, whole=False),))
        draft = Draft()
        for technique in self.stack:
            for proposed in technique.speculation:
                names = {**symbols, **technique.parameters}
                draft = Draft(
                    length=value(proposed.draft_length, names), nodes=value(proposed.draft_nodes, names),
                    passes=value(proposed.draft_passes, names), accepted=value(proposed.accepted, names),
                    cost=value(proposed.draft_cost, names),
                    vision_tokens=value(proposed.draft_vision_tokens, names),
                )  # fmt: skip
        return Answered(
            output=int(output), draft=draft, depth=depth / layers, shares=self._shares(encoded.symbols),
            symbols=symbols, first=first,
        )  # fmt: skip

    def _residency(self, symbols: Names) -> tuple[float, float]:
        """Shares of the cache on the device, and fetched at each step."""
        resident, fetch = 1.0, 0.0
        for technique, change in self._changes("kv.resident"):
            names = {**symbols, **technique.parameters}
            resident, fetch = change.apply(resident, names, whole=False), value(change.fetch, names)
        (resident,) = self.settle("kv.resident", (resident,))
        return resident, fetch

    def _bits(self, symbols: Names) -> tuple[tuple[CacheBits, ...], tuple[tuple[int, int], ...]]:
        """How the cache is quantised, and which of these ways each layer's vision and text entries have.

        The last technique of the stack that quantises decides; its later effects refine its earlier ones.
        """
        stored = [[-1] * self.dimensions.layers, [-1] * self.dimensions.layers]
        technique = next((each for each in reversed(self.stack) if each.cache_bits), None)
        if technique is None:
            return (), tuple(zip(*stored, strict=True))
        names = {**symbols, **technique.parameters}
        ways = tuple(bits.settled(names) for bits in technique.cache_bits)
        for index, bits in enumerate(ways):
            start, end = (
                value(bits.from_layer, names),
                value(math.inf if bits.to_layer is None else bits.to_layer, names),
            )
            for modality, of_layer in zip(("vision", "text"), stored, strict=True):
                if bits.of in ("all", modality):
                    of_layer[:] = [index if start <= layer < end else old for layer, old in enumerate(of_layer)]
        return ways, tuple(zip(*stored, strict=True))

    def _within(self, limit: Limits, vision: float, text: float) -> tuple[float, float]:
        """Vision and text entries of a layer that may hold no more than that."""
        vision, text = min(vision, limit.vision), min(text, limit.text)
        return self.divide(limit.all, vision, text) if vision + text > limit.all else (vision, text)

    def _limits(
        self,
        limited: Sequence[tuple[Applied, Change, Callable[[int, float], Names] | None]],
        symbols: Names,
        left: Callable[[int, float], Names],
    ) -> tuple[Limits, ...]:
        """The most entries of each layer while decoding, from those of all, vision and text entries.

        Args:
            limited: techniques and changes with a limit, and what symbols stood for in each layer where they apply;
                None: what they do in the end, for what leaves the prompt's entries alone.
            symbols: what the symbols stand for in all layers.
            left: what they stand for in each layer in the end.
        """
        none = [math.inf] * self.dimensions.layers
        if not limited:
            return (Limits(),) * self.dimensions.layers
        limits: dict[str, list[float]] = {}
        for technique, change, names in limited:
            most = replace(change, how="cap", amount=change.limit or 0)
            limits[change.of] = by_layer(technique, most, limits.get(change.of, none), symbols, names or left)
        return tuple(map(Limits, *(limits.get(of, none) for of in Limits._fields)))

    def _shares(self, symbols: Names) -> Shares:
        """What is left of the LLM itself."""
        (weights,) = self.settle("llm.weights", (self._number("llm.weights", 1.0, symbols, whole=False),))
        layers = self.dimensions.layers
        (kv_layers,) = self.settle("kv.layers", (self._number("kv.layers", layers, symbols),))
        return Shares(weights, kv_layers / layers)

    def _some_of(
        self, quantity: str, alive: Sequence[float], symbols: Names, local: Callable[[int, float], Names]
    ) -> tuple[float, ...]:
        """The vision tokens alive in each layer that do something in it: all, but for the changes of the quantity."""
        left = alive
        for technique, change in self._changes(quantity):
            left = by_layer(technique, change, left, symbols, local)
        return tuple(self.settle(quantity, [min(n, most) for n, most in zip(left, alive, strict=True)]))


def _with(entries: Sequence[float], held: Sequence[tuple[float, float]], modality: int) -> list[float]:
    """Entries of each layer with those of a modality that it holds of earlier rounds."""
    return [new + old[modality] for new, old in zip(entries, held, strict=True)]
