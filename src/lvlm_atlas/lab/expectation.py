"""What a stack's declared effects predict for a run of the reference LVLM: bounds for all that its trace counts.

The engine's own walk interprets the effects, at the least and at the most that the entries leave open. What a run was
seen to do may be taken as given: each quantity is then predicted from the observed values of those before it in the
pipeline, so that a wrong declaration shows where it is made and nowhere else. Needs no torch.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lvlm_atlas.lab.attention_rows import longest_rows
from lvlm_atlas.lab.envelope import envelope
from lvlm_atlas.roofline.cache import growing, stored_bits
from lvlm_atlas.roofline.dimensions import Dimensions
from lvlm_atlas.roofline.kind import CacheLayer, Place, each_cache_layer
from lvlm_atlas.roofline.llm import last_rows
from lvlm_atlas.roofline.overhead import extras
from lvlm_atlas.roofline.pipeline import Walk
from lvlm_atlas.roofline.state import Answered, Cached, Encoded, Extra, Limits, Prefilled
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.schema.effect import Effect
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.specs.technique import Bound, bounded

_SLACK = 1e-9
"""Relative; shares are quotients of counts."""


@dataclass(frozen=True)
class Interval:
    """A number between two bounds; exact if they meet."""

    low: float
    high: float

    def __contains__(self, number: float) -> bool:
        slack = _SLACK * max(1.0, abs(number))
        return self.low - slack <= number <= self.high + slack

    def up_to(self, high: float) -> Interval:
        """The bounds, the upper one no lower than this."""
        return Interval(self.low, max(self.high, high))


@dataclass(frozen=True)
class Member:
    """A technique of a stack."""

    technique: Technique
    places: tuple[int, ...]
    """Where in the pipeline each of its effects happens."""
    setting: Mapping[str, Setting]
    """Its parameters; those left out have their defaults."""


Observed = Mapping[str, tuple[float, ...]]
Bounds = Mapping[str, tuple[Interval, ...]]
"""Bounds by measure: a quantity of the taxonomy, perhaps with `: detail`. One number, one a layer, or one for each
round of decoding, which all have the same bounds."""
_ENDS: tuple[Bound, ...] = ("least", "most")
UNCHANGED = Interval(1, 1)
"""A share of which all is left."""
_UNCOUNTED = (
    "encoder.flop", "adapter.flop", "text-tokens", "llm.vision-queries", "llm.vision-mlp", "llm.depth", "kv.layers",
    "kv.state", "kv.tokens: most while decoding", "overhead: sequential steps", "overhead: host syncs",
    "overhead: host syncs a step",
)  # fmt: skip
"""Measures that a trace may leave out; they are predicted where an effect declares them or a run was seen to have
them. Of overheads, host syncs are counted in runs as on a GPU alone, and sequential steps are declared only. FLOPs of
the model's own encoder and adapter are not known here, so those of what takes their place hold only where an effect
states their number."""


_OVERHEADS = (
    "attention scores", "attention scores of steps", "sequential steps", "host syncs", "host syncs a step",
)  # fmt: skip
"""Measures of overheads, in the order of the report."""


def expected(
    dimensions: Dimensions,
    stack: Sequence[Member],
    observed: Observed | None = None,
    first: tuple[Dimensions, Observed] | None = None,
) -> Bounds:
    """Bounds of every measure, in pipeline order.

    All that the entries leave open is taken at its least, then at its most. That is exact where the bounds of the
    entries meet; elsewhere it takes for granted that what follows rises or falls throughout.

    Args:
        dimensions: the model and the request.
        stack: the techniques, in order.
        observed: what is taken as given; None predicts from the declarations alone.
        first: the first round of the session, where this is a later one: what limited the cache then still does.

    Raises:
        ValueError: an amount cannot be evaluated.
    """
    ends: list[_End] = []
    uneven = any(getattr(effect, "per_head", False) for each in stack for effect in each.technique.effects)
    growth_open = any(getattr(effect, "limit_at_least", None) for each in stack for effect in each.technique.effects)
    adapter = _adapter_place(stack)
    for bound in _ENDS:
        lowered = [bounded(each.technique, each.places, each.setting, bound, adapter) for each in stack]
        for modality in ("vision", "text"):
            sizes = dimensions
            if first:
                sizes = replace(dimensions, limits=_End(first[0], lowered, bound, modality, first[1]).limits())
            ends.append(_End(sizes, lowered, bound, modality, observed or {}))
        ends[-1].uneven = ends[-2].uneven = uneven
        ends[-1].growth_open = ends[-2].growth_open = growth_open
    measures = [end.measures() for end in ends]
    left_open = {effect.quantity for each in stack for effect in each.technique.effects if _is_open(effect)}
    bounds = {}
    for measure in measures[0]:
        if measure in _UNCOUNTED and measure not in (observed or {}) and not _declares(stack, measure):
            continue
        least, most = ([*zip(*(each[measure] for each in half), strict=True)] for half in (measures[:2], measures[2:]))
        # Seen from what was observed, bounds that cross are a wrong declaration and must hold nothing.
        if not observed or measure.split(":")[0] not in left_open:
            least = most = [low + high for low, high in zip(least, most, strict=True)]
        bounds[measure] = tuple(Interval(min(low), max(high)) for low, high in zip(least, most, strict=True))
    if _caps_each(stack):
        bounds["kv.tokens"] = tuple(map(Interval.up_to, bounds["kv.tokens"], _most_of_each(measures)))
    (accepted,) = bounds["speculation: accepted"]
    after_first = [end.settled["output-tokens"][0] - 1 for end in ends]
    passes = Interval(-(-min(after_first) // (1 + accepted.high)), -(-max(after_first) // (1 + accepted.low)))
    return {**bounds, "speculation: target passes": (passes,)}


def _adapter_place(stack: Sequence[Member]) -> int:
    """Where in the pipeline the FLOPs of the adapter are replaced; 0: nowhere, and nobody asks what reaches it."""
    placed = (pair for each in stack for pair in zip(each.technique.effects, each.places, strict=True))
    return next((place for effect, place in placed if effect.quantity == "adapter.flop"), 0)


def _is_open(effect: Effect) -> bool:
    """Whether an effect has bounds."""
    names = ("at_least", "at_most", "accepted_at_least", "fetch_at_least", "limit_at_least")
    return any(getattr(effect, name, None) is not None for name in names)


def _caps_each(stack: Sequence[Member]) -> bool:
    """Whether vision and text entries are both cut by themselves: most are then held where a cut before them spares
    some of each, and neither end is that.
    """
    effects = [effect for each in stack for effect in each.technique.effects if effect.quantity == "kv.tokens"]
    return {"vision", "text"} <= {effect.of for effect in effects}


def _most_of_each(measures: Sequence[Mapping[str, Sequence[float]]]) -> list[float]:
    """For each layer, the most vision entries of any end and the most text entries of any, together."""
    vision = [*zip(*(each["kv.tokens: vision"] for each in measures), strict=True)]
    all_ = zip(*(each["kv.tokens"] for each in measures), strict=True)
    return [
        max(seen) + max(total - one for total, one in zip(totals, seen, strict=True))
        for totals, seen in zip(all_, vision, strict=True)
    ]


def _declares(stack: Sequence[Member], measure: str) -> bool:
    """Whether an effect of the stack says something of a measure that not every trace counts."""
    quantity, _, detail = measure.partition(": ")
    effects = [effect for each in stack for effect in each.technique.effects if effect.quantity == quantity]
    if detail == "most while decoding":
        limits = ("limit", "limit_at_least")
        return any(getattr(effect, name, None) is not None for effect in effects for name in limits)
    return bool(effects)


_WITH_VISION = {
    "llm.text-tokens": ("llm.vision-tokens: with text", "llm.vision-tokens"),
    "kv.tokens: text": ("kv.tokens", "kv.tokens: vision"),
}
"""What a trace counts only together with vision: the measure, and the quantity that is counted with it."""


class _End(Walk):
    """The walk at one end, which takes what was observed as given and notes what it predicts.

    Args:
        dimensions: the model and the request.
        stack: the techniques at this end.
        bound: the end.
        modality: what stays longest where a cache is cut and nothing says which entries go.
        observed: what is taken as given.
    """

    def __init__(
        self, dimensions: Dimensions, stack: Sequence[Applied], bound: Bound, modality: str, observed: Observed
    ) -> None:
        super().__init__(dimensions, stack)
        self.bound, self.modality, self.observed = bound, modality, observed
        self.uneven = False
        """Whether heads of a layer may hold different numbers of entries, of which the mean is known."""
        self.growth_open = False
        """Whether data decide how many new tokens a layer holds."""
        self.read: list[tuple[float, float]] = []
        """Vision and text tokens that each layer has read, of which it may hold fewer."""
        self.predicted: dict[str, tuple[float, ...]] = {}
        self.settled: dict[str, tuple[float, ...]] = {}

    def measures(self) -> dict[str, tuple[float, ...]]:
        """What this end predicts of every measure."""
        encoded = self.encoded()
        prefilled = self.prefilled(encoded)
        held = self.dimensions.held or ((0.0, 0.0),) * self.dimensions.layers
        self.read = [
            (vision + earlier[0], text + earlier[1])
            for vision, text, earlier in zip(prefilled.vision, prefilled.text, held, strict=True)
        ]
        # These come here in the report, though they are known later.
        overheads = dict.fromkeys(f"overhead: {name}" for name in _OVERHEADS)
        self.predicted |= dict.fromkeys((*overheads, "kv.tokens", "kv.bits: bytes"), ())
        cached = self.cached(encoded, prefilled)
        answered = self.answered(encoded)
        draft = answered.draft
        layers = [*each_cache_layer(cached, [Place(window=None, cross=False, dense=True)] * self.dimensions.layers)]
        added = [extra for each in self.stack for extra in extras(each, encoded, cached.entries, answered)]
        before = [extra for extra in added if extra.stage != "decoding"]
        grown = self._grown(answered)
        return {
            **self.predicted,
            "overhead: attention scores": (self._scores(encoded, prefilled, added),),
            "overhead: attention scores of steps": (self._step_scores(layers, answered, added),),
            "overhead: sequential steps": (sum(extra.steps for extra in before),),
            "overhead: host syncs": (sum(extra.host_syncs for extra in before),),
            "overhead: host syncs a step": (sum(extra.host_syncs for extra in added if extra.stage == "decoding"),),
            # Which layers hold keys and values of their own is left open, where not all do.
            "kv.bits: bytes": tuple(
                0.0 if cached.shares.kv_layers < 1 and self.bound == "least" else self._byte(cached, index, layer, 0)
                for index, layer in enumerate(layers)
            ),
            "kv.tokens: most while decoding": tuple(
                max(growing(layer, 0)[0], growing(layer, grown)[0]) for layer in layers
            ),
            "kv.resident: fetched": (cached.fetch,),
            "speculation: draft length": (draft.length,),
            "speculation: draft nodes": (draft.nodes,),
            "speculation: draft passes": (draft.passes,),
            "speculation: draft vision tokens": (draft.vision_tokens,),
            "speculation: accepted": (draft.accepted,),
            "kv.bits: bytes at the end": (self._last_byte(cached, layers, grown),),
        }

    def limits(self) -> tuple[Limits, ...]:
        """The most that each layer may hold; empty where nothing limits it."""
        encoded = self.encoded()
        limits = self.cached(encoded, self.prefilled(encoded)).limits
        return limits if any(limit != Limits() for limit in limits) else ()

    def settle(self, quantity: str, values: Sequence[float]) -> Sequence[float]:
        """What was observed of a quantity, else what is predicted."""
        measure, vision = _WITH_VISION.get(quantity, (quantity, None))
        beside = predicted_beside = (0.0,) * len(values)
        if vision:
            beside = self.settled[vision]
            # Cutting a cache divides it between modalities, so both are predicted from the same.
            predicted_beside = self.predicted[vision] if quantity == "kv.tokens: text" else beside
        elif quantity == "encoder.tokens":  # a trace counts class tokens too
            beside = predicted_beside = (self._class_tokens(),) * len(values)
        self.predicted[measure] = tuple(map(operator.add, values, predicted_beside))
        seen = self.observed.get(measure, ())
        replaced = "encoder.flop" in self.observed or self._changes("encoder.flop")
        if quantity == "encoder.tokens" and replaced:  # in another encoder: what leaves it
            self.predicted[measure] = (values[-1],)
            self.settled[quantity] = (*values[:-1], seen[0] if len(seen) == 1 else values[-1])
            return self.settled[quantity]
        self.settled[quantity] = tuple(map(operator.sub, seen, beside)) if len(seen) == len(values) else tuple(values)
        return self.settled[quantity]

    def divide(self, entries: float, vision: float, text: float) -> tuple[float, float]:
        """As much as can be of the one modality stays."""
        kept = min(vision, entries) if self.modality == "vision" else max(0.0, entries - text)
        return kept, entries - kept

    def _class_tokens(self) -> int:
        shape = self.dimensions.visual(1.0, None).patches[0]
        return shape.token - shape.patch

    def _scores(self, encoded: Encoded, prefilled: Prefilled, added: Sequence[Extra]) -> float:
        """Attention scores formed again for techniques that read them, all heads."""
        end, sizes = (min if self.bound == "least" else max), self.dimensions
        patches = end(patch for schedule in encoded.encoder_patch for patch in schedule[:-1])
        held = sizes.held or ((0.0, 0.0),) * sizes.layers
        layers = zip(prefilled.vision, prefilled.text, held, strict=True)
        tokens = [vision + text + sum(earlier) for vision, text, earlier in layers]
        scores = 0.0
        for extra in added:
            if extra.stage == "encoding":
                lengths = [patches]
                if extra.layers is not None:
                    schedules = [*zip(*encoded.encoder_patch, strict=True)]
                    lengths = [end(schedules[layer]) for layer in extra.among(sizes.encoder_layers)]
                rows = extra.rows * (sum(lengths) + len(lengths) * self._class_tokens())
                scores += rows * (sizes.encoder_heads if extra.heads is None else extra.heads)
            elif extra.stage == "prefilling":
                if extra.layers is None:
                    rows = longest_rows(extra.rows, tokens)
                else:
                    rows = sum(last_rows(int(extra.rows), tokens[layer]) for layer in extra.among(sizes.layers))
                scores += rows * (sizes.heads if extra.heads is None else extra.heads)
        return scores

    def _step_scores(self, layers: Sequence[CacheLayer], answered: Answered, added: Sequence[Extra]) -> float:
        """Attention scores formed again in decoding, all heads: rows of every token that settles, round by round."""
        extras_ = [extra for extra in added if extra.stage == "decoding" and extra.rows]
        if not extras_:
            return 0.0
        rounds = self.observed.get("speculation: accepted", (answered.draft.accepted,) * int(answered.output - 1))
        read, grown = [0.0] * len(layers), 0.0
        for accepted in rounds:
            new = accepted + 1
            for index, layer in enumerate(layers):
                read[index] += new * growing(layer, grown)[0] + new * (new + 1) / 2
            grown += new
        scores = 0.0
        for extra in extras_:
            among = range(len(layers)) if extra.layers is None else extra.among(len(layers))
            rows = extra.rows * sum(read[layer] for layer in among)
            scores += rows * (self.dimensions.heads if extra.heads is None else extra.heads)
        return scores

    def _byte(self, cached: Cached, index: int, layer: CacheLayer, grown: float) -> float:
        """Bytes of one layer's cache once so many tokens have followed the prompt, or of its state."""
        sizes = self.dimensions
        if layer.state:
            return layer.state * sizes.kv_heads * sizes.element_byte
        entries, vision = growing(layer, grown)
        end, least, most = (min if self.bound == "least" else max), vision, vision
        if layer.limits.all < math.inf and layer.stored[0] != layer.stored[1]:
            # What a policy drops may be of either modality, and of another in each head.
            least, most = max(0.0, entries - layer.text - grown), min(layer.vision, entries)
        whole = range(math.ceil(least), math.floor(most) + 1)
        cut = entries < sum(self.read[index]) + grown
        each = {least, most, *whole}
        if cut and layer.stored[0] != layer.stored[1]:
            bits = end(self._mixed_bits(cached, index, layer, grown, entries, each))
        else:
            bits = end(self._layer_bits(cached, layer, entries, of_vision) for of_vision in each)
        return bits / 8 * sizes.kv_heads * sizes.head_dim

    def _mixed_bits(
        self, cached: Cached, index: int, layer: CacheLayer, grown: float, entries: float, vision: Collection[float]
    ) -> Iterator[float]:
        """Bits of one channel where modalities are stored in different ways, for each number of vision entries.

        Heads that were cut may each hold others, of which the means are known.
        """
        (vision_read, text_read), element_byte = self.read[index], self.dimensions.element_byte
        of_vision, of_text = (
            [stored_bits(cached, layer, held, held * share, element_byte)[0] for held in range(math.ceil(most) + 1)]
            for share, most in ((1, max(vision_read, *vision)), (0, max(text_read + grown, entries - min(vision))))
        )
        end, upper = (max, True) if self.bound == "most" else (min, False)
        for held in vision:
            apart = envelope(of_vision, held, upper=upper) + envelope(of_text, entries - held, upper=upper)
            # What a store keeps for entries to come it keeps in heads that hold none, too.
            yield end(apart, stored_bits(cached, layer, entries, held, element_byte)[0])

    def _layer_bits(self, cached: Cached, layer: CacheLayer, entries: float, vision: float) -> float:
        """Bits of one channel of a layer with so many entries, of which so many are visual."""
        sizes = self.dimensions
        if self.uneven and entries and any(index >= 0 for index in layer.stored):
            share = vision / entries
            of_head = [  # no head holds more than all together
                stored_bits(cached, layer, held, share * held, sizes.element_byte)[0]
                for held in range(math.ceil(entries) * int(sizes.kv_heads) + 1)
            ]
            return envelope(of_head, entries, upper=self.bound == "most")
        return stored_bits(cached, layer, entries, vision, sizes.element_byte)[0]

    def _grown(self, answered: Answered) -> float:
        """Tokens that have followed the prompt into the cache at the end: all of the answer but the last."""
        return answered.output - 1

    def _last_byte(self, cached: Cached, layers: Sequence[CacheLayer], grown: float) -> float:
        """Bytes of the whole cache at the end."""
        layer_byte = self._open_byte if self.growth_open else self._byte
        return cached.shares.kv_layers * sum(
            layer_byte(cached, index, layer, grown) for index, layer in enumerate(layers)
        )

    def _open_byte(self, cached: Cached, index: int, layer: CacheLayer, grown: float) -> float:
        """The least or the most bytes of a layer that holds some of so many tokens; in groups, more may take fewer."""
        each = range(int(grown) + 1)
        if self.bound == "most":
            return max(self._byte(cached, index, layer, some) for some in each)
        if layer.limits == Limits():
            return self._byte(cached, index, layer, grown)
        free = layer._replace(limits=Limits())
        return min(self._byte(cached, index, one, some) for one in (layer, free) for some in each)
