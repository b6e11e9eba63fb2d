"""From an entry at a setting to what the engine applies: every effect the entry declares, none by its id."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.places import effect_place
from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.roofline import transform
from lvlm_atlas.roofline.speculation import accepted_length
from lvlm_atlas.schema.effect import (
    CHANGES,
    Change,
    Effect,
    KvBits,
    KvResident,
    KvState,
    KvTokens,
    Overhead,
    Pixels,
    Speculation,
    Typical,
)
from lvlm_atlas.schema.expression import Formula, formula
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import PositionTerm

OUTCOMES = ("density", "frames", "tokens", "acceptance", "accepted", "draft_cost")
"""What data decide and a user may know: the density of prefill attention, frames or tokens left where an entry gives
bounds, and for drafts the acceptance of each token or the accepted length, and the cost of a pass."""
Bound = Literal["least", "most"]
"""Which end of what an entry leaves open."""
_OUTCOME_OF = {"frames": "frames", "encoder.density": "density", "attention.density": "density"} | dict.fromkeys(
    (
        "encoder.tokens", "vision-tokens", "text-tokens", "llm.vision-tokens", "llm.vision-queries", "llm.vision-mlp",
        "kv.tokens", "output-tokens",
    ),
    "tokens",
)  # fmt: skip
"""The outcome that sets a quantity; counts of tokens share one, and no outcome sets the others."""


def applied(
    atlas: Atlas,
    technique: Technique,
    setting: Mapping[str, Setting] | None = None,
    outcomes: Mapping[str, float] | None = None,
) -> transform.Applied:
    """A technique as the engine applies it.

    Args:
        atlas: its atlas, for places in the pipeline.
        technique: the entry.
        setting: values of its parameters; what is left out has its default.
        outcomes: by the names of `OUTCOMES`, what data decide and the user knows; else the entry's typical values, or
            where it has none the bound that saves least.

    Raises:
        AtlasError: no such parameter or outcome, or a value outside its range.
    """
    places = effect_places(atlas, technique)
    return _Lowering(technique, setting or {}, outcomes or {}).applied(places, adapter=_adapter_order(atlas))


def bounded(
    technique: Technique, places: Sequence[int], setting: Mapping[str, Setting], bound: Bound, adapter: int = 0
) -> transform.Applied:
    """A technique with all that its entry leaves open at one end, whatever is typical; for checks, not for estimates.

    Where an entry gives one bound alone, the other is 0 or the number as it was.

    Args:
        technique: the entry.
        places: where in the pipeline each of its effects happens, as of `effect_places`.
        setting: values of its parameters; what is left out has its default.
        bound: the end.
        adapter: place of the adapter, where another technique needs to know what reaches it.

    Raises:
        AtlasError: no such parameter, or a value outside its range.
    """
    return _Bounded(technique, setting, {}, bound).applied(places, adapter)


def effect_places(atlas: Atlas, technique: Technique) -> tuple[int, ...]:
    """Where in the pipeline each effect of a technique happens."""
    return tuple(effect_place(atlas, technique, effect) for effect in technique.effects)


class _Lowering:
    """An entry at a setting, with what data decide as outcomes, typical values and bounds have it."""

    def __init__(self, technique: Technique, setting: Mapping[str, Setting], outcomes: Mapping[str, float]) -> None:
        self.technique, self.setting, self.outcomes = technique, setting, outcomes
        for name, given in setting.items():
            if name not in technique.parameters:
                raise AtlasError(f"{technique.id} has no parameter {name!r}; {suggestion(name, technique.parameters)}")
            if problem := technique.parameters[name].problem_with(given):
                raise AtlasError(f"{technique.id}: {name}: {problem}")
        for name, number in outcomes.items():
            if name not in OUTCOMES:
                raise AtlasError(f"{technique.id}: no outcome {name!r}; {suggestion(name, OUTCOMES)}")
            if not (math.isfinite(number) and number >= 0):
                raise AtlasError(f"{technique.id}: {name} is {number!r}; give a number of 0 or more")
        self.numbers: dict[str, Any] = {
            name: value
            for name, parameter in technique.parameters.items()
            if not isinstance(value := setting.get(name, parameter.default), str)
        }
        """What the parameters stand for in formulas; a word stands for nothing."""
        self.assumptions: list[str] = []
        self.used: set[str] = set()

    def applied(self, places: Sequence[int], adapter: int = 0) -> transform.Applied:
        """The technique, with its effects at these places in the pipeline; `adapter` is that of the adapter."""
        changes, bits, drafts = [], [], []
        for effect, order in zip(self.technique.effects, places, strict=True):
            if isinstance(effect, KvBits):
                bits.append(self._bits(effect, order))
            elif isinstance(effect, Speculation):
                drafts.append(self._draft(effect, order))
            else:
                changes.append(self._change(effect, order, before_adapter=order < adapter))
        overheads = tuple(self._overhead(each) for each in self.technique.overheads if each.stage in _STAGES)
        if unused := sorted(set(self.outcomes) - self.used):
            raise AtlasError(f"{self.technique.id}: its entry leaves no {unused[0]} to the data; leave {unused[0]} out")
        return transform.Applied(
            id=self.technique.id,
            label=self._label(),
            parameters=self.numbers,
            changes=tuple(changes),
            cache_bits=tuple(bits),
            speculation=tuple(drafts),
            overheads=overheads,
            assumptions=tuple(self.assumptions),
        )

    def _label(self) -> str:
        given = {**self.setting, **self.outcomes}
        return self.technique.id + (":" + ",".join(f"{name}={value}" for name, value in given.items()) if given else "")

    def _amount(self, amount: float | str | None, default: float = 0) -> transform.Amount:
        """A number where the parameters alone decide, else a function of the state."""
        if amount is None:
            return default
        if not isinstance(amount, str):
            return amount
        found = formula(amount)
        return found(self.numbers) if found.names <= set(self.numbers) else found

    def _change(self, effect: Effect, order: int, *, before_adapter: bool) -> transform.Change:
        how, amount = self._how(effect)
        return transform.Change(
            quantity=effect.quantity, order=order, how=how, amount=amount,
            rounding=effect.rounding if isinstance(effect, Change) else "nearest",
            from_layer=self._amount(getattr(effect, "from_layer", None)),
            to_layer=self._optional(getattr(effect, "to_layer", None)),
            of=effect.of if isinstance(effect, KvTokens) else "all",
            frames=self._optional(effect.frames) if isinstance(effect, Pixels) else None,
            before_adapter=before_adapter,
            fetch=self._greatest(effect.fetch, effect.fetch_at_least) if isinstance(effect, KvResident) else 0,
            limit=self._limit(effect) if isinstance(effect, KvTokens) else None,
            all_rounds="cache-step" in self.technique.acts_at,
        )  # fmt: skip

    def _limit(self, effect: KvTokens) -> transform.Amount | None:
        """The most that a layer holds while decoding."""
        if effect.limit_at_least is not None:
            self.assumptions.append(f"{self._label()}: data decide which new tokens are held; taken is the most.")
        return self._optional(effect.limit)

    def _optional(self, amount: float | str | None) -> transform.Amount | None:
        return None if amount is None else self._amount(amount)

    def _how(self, effect: Effect) -> tuple[transform.How, transform.Amount]:
        """Kind of change and its amount; where there are only bounds, a value between them is taken."""
        if isinstance(effect, KvState):
            return "set", self._amount(effect.elements)
        if isinstance(effect, KvTokens) and effect.grows_only:
            return "cap", math.inf
        for how in CHANGES:
            amount = getattr(effect, how)
            if amount is not None:
                return how, self._amount(amount)  # type: ignore[return-value]
        return self._open(effect)

    def _open(self, effect: Any) -> tuple[transform.How, transform.Amount]:
        """The change where there are only bounds."""
        outcome = _OUTCOME_OF.get(effect.quantity)
        if outcome and outcome in self.outcomes:
            self.used.add(outcome)
            self.assumptions.append(f"{self._label()}: {outcome} {self.outcomes[outcome]:g} as given.")
            return "set", self._between(effect, self.outcomes[outcome])
        if effect.typical:
            return "set", self._typical(effect.typical, effect.quantity)
        if self._decided(effect):
            return "set", self._amount(effect.at_most)
        self.assumptions.append(
            f"{self._label()}: data decide {effect.quantity}; taken is the bound that saves least"
            + (f" ({outcome}=… sets it)." if outcome else ".")
        )
        if effect.at_most is not None:
            return "set", self._amount(effect.at_most)
        return "scale", 1

    def _decided(self, effect: Change) -> bool:
        """Whether the bounds meet at this setting, so that nothing is left to data: they do if they read the same."""
        low, high = (self._folded(amount) for amount in (effect.at_least, effect.at_most))
        return low is not None and low == high

    def _folded(self, amount: float | str | None) -> object:
        value = None if amount is None else self._amount(amount)
        return _at(value, self.numbers) if isinstance(value, Formula) else value

    def _between(self, effect: Change, number: float) -> transform.Amount:
        low, high = self._amount(effect.at_least), self._amount(effect.at_most, math.inf)
        if _OUTCOME_OF[effect.quantity] == "density" and number > 1:
            raise AtlasError(f"{self.technique.id}: density is {number:g}; it is a share, 1 at most")
        return lambda names: min(max(number, transform.value(low, names)), transform.value(high, names))

    def _typical(self, typical: Typical, what: str) -> transform.Amount:
        amount = self._amount(typical.value)
        shown = f"{amount:.3g}" if isinstance(amount, int | float) else typical.value
        self.assumptions.append(
            f"{self._label()}: {what} {shown}, seen with {typical.setting} "
            f"({typical.source.paper}, {typical.source.place})."
        )
        return amount

    def _bits(self, effect: KvBits, order: int) -> transform.CacheBits:
        fields = ("from_layer", "key", "value", "full_precision_keys", "full_precision_values")
        amounts: dict[str, Any] = {name: self._amount(getattr(effect, name)) for name in fields}
        if effect.group_size is not None and effect.group_overhead_bit is not None:
            amounts |= {name: self._amount(getattr(effect, name)) for name in ("group_size", "group_overhead_bit")}
        return transform.CacheBits(order=order, of=effect.of, to_layer=self._optional(effect.to_layer), **amounts)

    def _draft(self, effect: Speculation, order: int) -> transform.Speculation:
        least = (effect.draft_length_at_least, effect.draft_nodes_at_least, effect.draft_passes_at_least)
        if any(amount is not None for amount in least):
            self.assumptions.append(f"{self._label()}: a round drafts as much as it can.")
        return transform.Speculation(
            order=order,
            draft_nodes=self._greatest(effect.draft_nodes, effect.draft_nodes_at_least),
            draft_passes=self._greatest(effect.draft_passes, effect.draft_passes_at_least),
            accepted=self._accepted(effect),
            draft_cost=self._draft_cost(effect),
            draft_length=self._greatest(effect.draft_length, effect.draft_length_at_least),
            draft_vision_tokens=self._greatest(effect.draft_vision_tokens, effect.draft_vision_tokens_at_least),
        )

    def _greatest(self, most: float | str, least: float | str | None) -> transform.Amount:  # noqa: ARG002
        """What is fetched, or length, nodes, passes or vision tokens of a draft; the most, where data decide."""
        return self._amount(most)

    def _accepted(self, effect: Speculation) -> transform.Amount:
        if "acceptance" in self.outcomes and "accepted" in self.outcomes:
            raise AtlasError(f"{self.technique.id}: acceptance and accepted say the same; give one of them")
        most = self._amount(effect.accepted_at_most)
        for name in ("acceptance", "accepted"):
            if name not in self.outcomes:
                continue
            self.used.add(name)
            number = self.outcomes[name]
            if name == "acceptance" and number > 1:
                raise AtlasError(f"{self.technique.id}: acceptance is {number:g}; it is a share, 1 at most")
            if name == "accepted" and isinstance(most, int | float) and number > most:
                raise AtlasError(
                    f"{self.technique.id}: accepted is {number:g}, but {most:g} tokens are drafted at most"
                )
            if name == "accepted":
                return number
            return lambda names: accepted_length(number, transform.value(most, names))
        if effect.accepted:
            return self._typical(effect.accepted, "accepted length")
        self.assumptions.append(f"{self._label()}: accepted length at its least; accepted=… or acceptance=… sets it.")
        return self._amount(effect.accepted_at_least)

    def _draft_cost(self, effect: Speculation) -> transform.Amount:
        if "draft_cost" in self.outcomes:
            self.used.add("draft_cost")
            return self.outcomes["draft_cost"]
        if effect.draft_cost:
            return self._typical(effect.draft_cost, "cost of a draft pass")
        self.assumptions.append(f"{self._label()}: a draft pass costs a whole step; draft_cost=… sets it.")
        return 1.0

    def _overhead(self, overhead: Overhead) -> transform.Overhead:
        return transform.Overhead(
            stage=overhead.stage,  # type: ignore[arg-type]
            flop=self._optional(overhead.flop),
            byte=self._amount(overhead.byte),
            attention_rows=self._amount(overhead.attention_rows),
            from_layer=self._optional(overhead.from_layer),
            to_layer=self._optional(overhead.to_layer),
            heads=self._optional(overhead.heads),
            memory_byte=self._amount(overhead.memory_byte),
            sequential_steps=self._amount(overhead.sequential_steps),
            host_syncs=self._amount(overhead.host_syncs),
            serialises_batch=overhead.serialises_batch,
        )


class _Bounded(_Lowering):
    """The same with all that data decide at one end."""

    def __init__(
        self, technique: Technique, setting: Mapping[str, Setting], outcomes: Mapping[str, float], bound: Bound
    ) -> None:
        super().__init__(technique, setting, outcomes)
        self.bound = bound

    def _open(self, effect: Any) -> tuple[transform.How, transform.Amount]:
        if self.bound == "least":
            return "set", self._amount(effect.at_least)
        return ("scale", 1) if effect.at_most is None else ("set", self._amount(effect.at_most))

    def _greatest(self, most: float | str, least: float | str | None) -> transform.Amount:
        return self._amount(most if least is None or self.bound == "most" else least)

    def _limit(self, effect: KvTokens) -> transform.Amount | None:
        least = effect.limit_at_least if self.bound == "least" else None
        return super()._limit(effect) if least is None else self._amount(least)

    def _accepted(self, effect: Speculation) -> transform.Amount:
        return self._amount(effect.accepted_at_least if self.bound == "least" else effect.accepted_at_most)

    def _draft_cost(self, effect: Speculation) -> transform.Amount:  # noqa: ARG002  no count depends on it
        return 1.0

    def _overhead(self, overhead: Overhead) -> transform.Overhead:
        if overhead.upper_bound and self.bound == "least":
            return transform.Overhead(stage=overhead.stage)  # type: ignore[arg-type]
        return super()._overhead(overhead)


_STAGES = ("encoding", "prefilling", "decoding")


def _at(formula: Formula, parameters: Mapping[str, float]) -> tuple[float, ...]:
    """What a formula comes to at a few sizes of request, to compare it with another."""
    return tuple(formula({**_probe(size), **parameters}) for size in (7, 100, 5003))


def _probe(size: int) -> dict[str, float]:
    return {
        "N_t": size, "N_v": 3 * size, "N_in": 3 * size, "N": 4 * size, "F": size, "A": 196 * size, "N_s": size,
        "N_p": 2 * size, "N_o": size, "l": 2, "B": 1, "L": 32, "L_v": 24, "H": 32, "H_v": 16, "G": 8, "d": 128,
        "D": 4096, "D_v": 1024, "P": 2,
    }  # fmt: skip


def _adapter_order(atlas: Atlas) -> int:
    term = atlas.term("position", "adapter")
    return term.order or 0 if isinstance(term, PositionTerm) else 0
