"""From the pixels of a request to what enters the LLM, as techniques change it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

from lvlm_atlas.roofline.dimensions import Dimensions
from lvlm_atlas.roofline.schedule import by_layer, flowing
from lvlm_atlas.roofline.state import (
    Encoded,
    Replaced,
    replaced,
)
from lvlm_atlas.roofline.transform import Applied, Change, How, Names, changed, value
from lvlm_atlas.roofline.visual import Steps, Visual

Symbols = dict[str, float]
_SOME = 1e-9
"""Frames; fewer are none, left over by rounding."""


class Entering:
    """A stack of techniques on a request, up to the LLM; `pipeline.Walk` goes on from there.

    In an amount, a symbol stands for what the effects before it have left. `settle` is the seam for those who know
    better: it sees each quantity once all effects on it are through, and says what the rest starts from.

    Args:
        dimensions: the model and the request.
        stack: techniques. Effects apply by their place in the pipeline; those at one place in the stack's order.
    """

    def __init__(self, dimensions: Dimensions, stack: Sequence[Applied]) -> None:
        self.dimensions, self.stack = dimensions, stack
        self._by_quantity: dict[str, list[tuple[Applied, Change]]] = {}
        for technique in stack:
            for change in technique.changes:
                self._by_quantity.setdefault(change.quantity, []).append((technique, change))
        for changes in self._by_quantity.values():
            changes.sort(key=lambda pair: pair[1].order)

    def settle(self, quantity: str, values: Sequence[float]) -> Sequence[float]:  # noqa: ARG002  for subclasses
        """What the rest of the pipeline takes a quantity to be: here, what the effects made of it.

        Args:
            quantity: a quantity of the taxonomy; `llm.text-tokens`, `kv.tokens: vision` and `kv.tokens: text` beside.
            values: one number, or one for each layer; patches of one sequence for `encoder.tokens`, last those that
                leave the encoder.
        """
        return values

    def encoded(self) -> Encoded:
        """From pixels to what enters the LLM."""
        symbols: Symbols = self.dimensions.symbols
        first: dict[str, Names] = {}
        visual = self._visual(symbols, first)
        encoder_flop = self._replaced("encoder.flop", symbols, first)
        encoder_patch = tuple(self._encoder(shape.patch, symbols, first) for shape in visual.patches)
        density = self._encoder_density(visual, encoder_patch, symbols, first)
        entering = sum(shape.sequences * shape.patch for shape in visual.patches)
        leaving = sum(shape.sequences * patch[-1] for shape, patch in zip(visual.patches, encoder_patch, strict=True))
        symbols["N_p"] = leaving / max(1, sum(shape.sequences for shape in visual.patches))
        left = leaving / entering if entering else 1.0
        vision, adapter_share = self._before_adapter(visual, left, symbols, first)
        symbols["N_p"] *= adapter_share / left if left else 1.0
        adapter_flop = self._replaced("adapter.flop", symbols, first)
        vision = self._vision_tokens(vision, symbols, first)
        (text,) = self.settle("text-tokens", (self._scalar("text-tokens", symbols["N_t"], "N_t", symbols, first),))
        symbols["N_t"], symbols["N"] = text, vision + text
        return Encoded(
            visual=visual, file_s=self.dimensions.file_s,
            encoder_patch=encoder_patch, encoder_density=density, encoder_flop=encoder_flop,
            adapter_share=adapter_share, adapter_flop=adapter_flop, vision=vision,
            marker=float(visual.llm_token) if visual.cross_token else 0.0, text=round(text),
            symbols=symbols, first=first,
        )  # fmt: skip

    def _visual(self, symbols: Symbols, first: dict[str, Names]) -> Visual:
        whole = self.dimensions.visual(1.0, None)
        self._note(whole, symbols)
        frames = self._scalar("frames", whole.frames, "F", symbols, first)
        (frames,) = self.settle("frames", (max(1, frames) if whole.frames else frames,))
        share = frames / whole.frames if whole.frames else 1.0
        kept = whole if frames == whole.frames else self.dimensions.visual(share, None)
        self._note(kept, symbols)
        if not kept.pixels:
            return kept
        parts = self._parts(kept, share, symbols, first)
        left, entering = _together([part for part, _ in parts], kept)
        (settled,) = self.settle("pixels", (entering,))
        if settled != entering:
            left = self.dimensions.visual(share, tuple((settled * pixels,) for pixels in kept.pixels))
        self._note(left, symbols)
        return left

    def _parts(
        self, kept: Visual, share: float, symbols: Symbols, first: dict[str, Names]
    ) -> list[tuple[Visual, tuple[Steps, ...]]]:
        """The frames in parts that are resized alike, and to what, technique by technique, for frames of each size.

        A part has its share of the frames of each size.
        """
        parts: list[tuple[Visual, tuple[Steps, ...]]] = [(kept, ((),) * len(kept.pixels))]
        for _, changes in groupby(self._changes("pixels"), key=lambda pair: pair[0].id):
            some, before, parts = [*changes], parts, []
            first.setdefault(some[0][0].id, dict(symbols))
            for visual, steps in before:
                for count, pixels in _divided(visual, kept.frames, some, symbols):
                    if pixels == visual.pixels:
                        parts.append((visual.part(count), steps))
                        continue
                    further = tuple(
                        each if new == old else (*each, new)
                        for each, old, new in zip(steps, visual.pixels, pixels, strict=True)
                    )
                    parts.append((self.dimensions.visual(share, further).part(count), further))
        return parts

    def _note(self, visual: Visual, symbols: Symbols) -> None:
        """What the symbols stand for at a visual input."""
        sequences = sum(shape.sequences for shape in visual.patches)
        patches = sum(shape.sequences * shape.patch for shape in visual.patches)
        symbols["F"], symbols["N_s"] = visual.frames, sequences
        symbols["N_p"] = patches / sequences if sequences else 0
        symbols["A"] = sum(visual.pixels) / max(1, len(visual.pixels))
        self._note_vision(visual.cross_token or visual.llm_token, symbols)

    def _note_vision(self, vision: float, symbols: Symbols) -> None:
        symbols["N_v"] = symbols["N_in"] = vision
        symbols["N"] = vision + symbols["N_t"]

    def _encoder(self, patch: int, symbols: Symbols, first: dict[str, Names]) -> tuple[float, ...]:
        """Patches of a sequence that enter each encoder layer, and last those that leave."""
        symbols["N_p"] = patch
        changes, layers = self._changes("encoder.tokens"), self.dimensions.encoder_layers
        left: Sequence[float] = (float(patch),) * layers
        for technique, _ in changes:
            first.setdefault(technique.id, dict(symbols))
        if len(changes) > 1 and all(change.how == "remove" for _, change in changes):
            left = flowing(changes, "N_p", float(patch), layers, symbols)
        else:
            for technique, change in changes:
                left = by_layer(technique, change, left, symbols, lambda _, old: {"N_p": old}, flows=True)
        return tuple(self.settle("encoder.tokens", (float(patch), *left)))

    def _encoder_density(
        self, visual: Visual, schedules: Sequence[Sequence[float]], symbols: Symbols, first: dict[str, Names]
    ) -> tuple[float, ...]:
        """Share of the scores that each encoder layer computes; `N_p` are the patches that enter it, on average."""
        for technique, _ in self._changes("encoder.density"):
            first.setdefault(technique.id, dict(symbols))
        sequences = max(1, sum(shape.sequences for shape in visual.patches))

        def patches(layer: int, _: float) -> Names:
            shapes = zip(visual.patches, schedules, strict=True)
            return {"N_p": sum(shape.sequences * schedule[layer] for shape, schedule in shapes) / sequences}

        return self._schedule("encoder.density", (1.0,) * self.dimensions.encoder_layers, symbols, patches)

    def _replaced(self, quantity: str, symbols: Symbols, first: dict[str, Names]) -> Replaced:
        """The changes of the FLOPs of a part of the model, which are not known here."""
        steps: list[tuple[How, float]] = []
        for technique, change in self._changes(quantity):
            first.setdefault(technique.id, dict(symbols))
            steps.append((change.how, value(change.amount, {**symbols, **technique.parameters})))
        self.settle(quantity, (replaced(math.inf, steps),))
        return tuple(steps)

    def _before_adapter(
        self, visual: Visual, left: float, symbols: Symbols, first: dict[str, Names]
    ) -> tuple[float, float]:
        """Vision tokens if nothing changed in or behind the adapter, and the share of its rows that is left for it.

        Args:
            visual: what enters the encoder.
            left: share of the patches that leave it.
            symbols: what they stand for here.
            first: symbols at the first effect of each technique.
        """
        share = left
        # With other patches than the grid has, no row of it is whole: nothing is cut off behind the adapter or added.
        arriving = visual.cross_token or (visual.llm_token if left == 1 else visual.adapter_token)
        vision = float(round(arriving * left))
        self._note_vision(vision, symbols)
        for technique, change in self._changes("vision-tokens"):
            if not change.before_adapter:
                break
            first.setdefault(technique.id, dict(symbols))
            new = change.apply(vision, {**symbols, **technique.parameters})
            if vision and new != vision:
                share = new / visual.adapter_token if change.how == "set" else share * new / vision
            vision = new
            self._note_vision(vision, symbols)
        return vision, share

    def _vision_tokens(self, vision: float, symbols: Symbols, first: dict[str, Names]) -> float:
        """Vision tokens that enter the LLM, from those that there are before the adapter changes their number."""
        for technique, change in self._changes("vision-tokens"):
            if change.before_adapter:
                continue
            first.setdefault(technique.id, dict(symbols))
            vision = change.apply(vision, {**symbols, **technique.parameters})
            self._note_vision(vision, symbols)
        (vision,) = self.settle("vision-tokens", (vision,))
        self._note_vision(vision, symbols)
        return vision

    def _schedule(
        self, quantity: str, layers: Sequence[float], symbols: Names, local: Callable[[int, float], Names]
    ) -> tuple[float, ...]:
        """A number that is no count in each layer, after all changes of a quantity."""
        for technique, change in self._changes(quantity):
            layers = by_layer(technique, change, layers, symbols, local, whole=False)
        return tuple(self.settle(quantity, layers))

    def _number(self, quantity: str, number: float, symbols: Names, *, whole: bool = True) -> float:
        """A number after all changes of a quantity that no symbol stands for."""
        for technique, change in self._changes(quantity):
            number = change.apply(number, {**symbols, **technique.parameters}, whole=whole)
        return number

    def _scalar(
        self, quantity: str, number: float, symbol: str | None, symbols: Symbols, first: dict[str, Names], *,
        whole: bool = True,
    ) -> float:  # fmt: skip
        """A number after all changes of a quantity; `symbol` stands for it."""
        for technique, change in self._changes(quantity):
            first.setdefault(technique.id, dict(symbols))
            number = change.apply(number, {**symbols, **technique.parameters}, whole=whole)
            if symbol:
                symbols[symbol] = number
        return number

    def _changes(self, quantity: str) -> list[tuple[Applied, Change]]:
        """The changes of a quantity in pipeline order."""
        return self._by_quantity.get(quantity, [])


def _divided(
    visual: Visual, frames: float, changes: Sequence[tuple[Applied, Change]], symbols: Symbols
) -> list[tuple[float, tuple[float, ...]]]:
    """How many of a part's frames a technique resizes alike, and to what, before their sides become whole tokens.

    Args:
        visual: the part.
        frames: frames of all parts; so many as a change holds for are spread over them.
        changes: the technique's, of pixels.
        symbols: what they stand for.
    """
    found: list[tuple[float, tuple[float, ...]]] = []
    left, others = float(visual.frames), visual.pixels
    for technique, change in changes:
        names = {**symbols, **technique.parameters}
        new = tuple(changed(a, change.how, value(change.amount, {**names, "A": a})) for a in others)
        if change.frames is None:
            others = new
            continue
        taken = min(left, value(change.frames, names) * visual.frames / frames)
        found.append((taken, new))
        left -= taken
    found.append((left, others))
    return [part for part in found if part[0] > _SOME] or found[-1:]


def _together(parts: Sequence[Visual], kept: Visual) -> tuple[Visual, float]:
    """Frames that were resized in parts, with the pixels that they have on average, and the share of all pixels left.

    The share is a quotient of whole numbers, so that the same pixels observed are the same number.
    """
    (together, *others), frames = parts, [max(1, part.frames) for part in parts]
    sizes = [*zip(*(part.pixels for part in parts), strict=True)]
    pixels = [sum(n * each for n, each in zip(frames, size, strict=True)) for size in sizes]
    for part in others:
        together += part
    if others:
        together = replace(together, pixels=tuple(each / sum(frames) for each in pixels))
    return together, sum(pixels) / (sum(frames) * sum(kept.pixels))
