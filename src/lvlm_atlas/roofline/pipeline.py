"""The way of a request through the pipeline: techniques change its state where they act, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.state import Extra, State
from lvlm_atlas.roofline.transform import Amount, Applied, CacheBits, Change, Names, Speculation, value
from lvlm_atlas.roofline.vision import visual
from lvlm_atlas.roofline.visual import Visual
from lvlm_atlas.roofline.workload import Workload


def apply(model: Model, workload: Workload, stack: Sequence[Applied], *, layers: int, element_byte: float) -> State:
    """The state that a stack leaves of a request.

    Args:
        model: the model.
        workload: the request.
        stack: techniques; those that act earlier in the pipeline come first, equals in the order given.
        layers: encoder layers that run.
        element_byte: bytes of a cached number that is not quantised.
    """
    return Walk(model, workload, sorted(stack, key=lambda each: each.order), layers, element_byte).state()


class Walk:
    """Goes through the pipeline once, its methods in order. Symbols stand for what the effects so far have left."""

    def __init__(
        self, model: Model, workload: Workload, stack: Sequence[Applied], layers: int, element_byte: float
    ) -> None:
        self.model, self.workload, self.stack, self.layers = model, workload, stack, layers
        llm = model.llm
        self.symbols: dict[str, float] = {
            "B": workload.batch, "N_t": workload.text_tokens, "N_o": workload.output_tokens,
            "L": llm.layers, "L_v": layers, "H": llm.heads, "G": llm.kv_heads, "d": llm.head_dim, "D": llm.hidden,
            "D_v": model.encoder.hidden, "P": element_byte,
        }  # fmt: skip
        self.before: dict[str, dict[str, float]] = {}
        """The symbols each technique found at its first effect, where its overheads are counted."""

    def state(self) -> State:
        """What the whole stack leaves of the request."""
        made, encoder_patch, adapter_share, vision, marker = self.handed_on()
        vision_at = self.token_layers(vision)
        density = self.densities(vision_at, marker)
        cached_vision, cached_text = self.cache(vision_at, marker)
        resident, fetch = self.residency()
        output = self.output()
        nodes, passes, accepted, cost = self.speculation()
        entries = sum(cached_vision) + sum(cached_text)
        return State(
            visual=made, encoder_patch=encoder_patch, adapter_share=adapter_share, vision=vision, marker=marker,
            text=self.workload.text_tokens, vision_at=tuple(vision_at), density=tuple(density),
            cached_vision=tuple(cached_vision), cached_text=tuple(cached_text), bits=self.bits(),
            resident=resident, fetch=fetch, draft_nodes=nodes, draft_passes=passes, accepted=accepted,
            draft_cost=cost, output=output, extras=tuple(self.extras(entries / self.model.llm.layers)),
        )  # fmt: skip

    def handed_on(self) -> tuple[Visual, tuple[tuple[float, ...], ...], float, float, float]:
        """The visual input, its patches in the encoder, the share of the adapter's rows, the vision tokens that enter
        the LLM, and positions without vision.
        """
        made = self._visual()
        encoder_patch, left = self._encoder(made)
        vision, adapter_share, marker = self._handed_on(made, left)
        return made, encoder_patch, adapter_share, vision, marker

    def token_layers(self, vision: float) -> list[float]:
        """Vision tokens alive in each LLM layer."""
        return self._layers("llm.vision-tokens", [vision] * self.model.llm.layers, "N_v", flows=True)

    def output(self) -> int:
        """Tokens generated for each question."""
        return max(1, round(self._scalar("output-tokens", self.workload.output_tokens, "N_o")))

    def _visual(self) -> Visual:
        made = visual(self.model, self.workload)
        self._note(made)
        if not any(change.quantity in ("frames", "pixels") for each in self.stack for change in each.changes):
            return made
        frames = self._scalar("frames", made.frames, "F")
        pixels = self._scalar("pixels", 1.0, None, whole=False)
        made = visual(self.model, self.workload, frames / made.frames if made.frames else 1.0, pixels)
        self._note(made)
        return made

    def _note(self, made: Visual) -> None:
        sequences = sum(each.sequences for each in made.patches)
        self.symbols["F"] = made.frames
        self.symbols["N_p"] = sum(each.sequences * each.patch for each in made.patches) / sequences if sequences else 0
        self._set_vision(made.cross_token or made.llm_token)

    def _set_vision(self, vision: float) -> None:
        self.symbols["N_v"], self.symbols["N"] = vision, vision + self.workload.text_tokens

    def _encoder(self, made: Visual) -> tuple[tuple[tuple[float, ...], ...], float]:
        """Patches at each layer for each shape, and the share of all patches that leaves the encoder."""
        if not self._acts("encoder.tokens"):
            return tuple((float(each.patch),) * (self.layers + 1) for each in made.patches), 1.0
        schedules = []
        for each in made.patches:
            self.symbols["N_p"] = each.patch
            left = self._layers("encoder.tokens", [float(each.patch)] * self.layers, "N_p", flows=True)
            schedules.append((float(each.patch), *left))
        entered = sum(each.sequences * each.patch for each in made.patches)
        leaves = sum(each.sequences * one[-1] for each, one in zip(made.patches, schedules, strict=True))
        self.symbols["N_p"] = leaves / max(1, sum(each.sequences for each in made.patches))
        return tuple(schedules), leaves / entered if entered else 1.0

    def _handed_on(self, made: Visual, left: float) -> tuple[float, float, float]:
        """Vision tokens that enter the LLM, the share of the adapter's rows, and positions without vision."""
        crosses = bool(made.cross_token)
        share = left
        vision = float(round((made.cross_token or made.llm_token) * left))
        self._set_vision(vision)
        for applied, change in self._changes("vision-tokens"):
            self.enter(applied)
            new = change.apply(vision, self._names(applied, N_v=vision, N=vision + self.workload.text_tokens))
            if change.before_adapter and vision:
                share *= new / vision
            vision = new
            self._set_vision(vision)
        return vision, share, float(made.llm_token) if crosses else 0.0

    def densities(self, vision_at: Sequence[float], marker: float) -> list[float]:
        """Share of the score matrix computed in each LLM layer."""
        density = [1.0] * self.model.llm.layers
        for applied, change in self._changes("attention.density"):
            self.enter(applied)
            density = self._scheduled(applied, change, density, self._at(vision_at, marker), whole=False)
        return density

    def cache(self, vision_at: Sequence[float], marker: float) -> tuple[list[float], list[float]]:
        """Vision and text entries in the cache of each layer, a head."""
        crosses = self.model.llm.cross_layers
        rest = self.workload.text_tokens + marker
        cached_vision = [v if not crosses or layer in crosses else 0.0 for layer, v in enumerate(vision_at)]
        cached_text = [0.0 if layer in crosses else float(rest) for layer in range(len(vision_at))]
        for applied, change in self._changes("kv.tokens"):
            self.enter(applied)
            entries = [v + t for v, t in zip(cached_vision, cached_text, strict=True)]
            names = [{"N": n, "N_v": v} for n, v in zip(entries, cached_vision, strict=True)]
            old = {"all": entries, "vision": cached_vision, "text": cached_text}[change.of]
            new = self._scheduled(applied, change, old, names)
            if change.of == "all":
                # Nothing says which modality gives way, so both do in proportion.
                keep = [n / o if o else 1.0 for n, o in zip(new, entries, strict=True)]
                cached_vision = [v * k for v, k in zip(cached_vision, keep, strict=True)]
                cached_text = [t * k for t, k in zip(cached_text, keep, strict=True)]
            elif change.of == "vision":
                cached_vision = new
            else:
                cached_text = new
        return cached_vision, cached_text

    def residency(self) -> tuple[float, float]:
        """Shares of the cache on the device, and fetched at each step."""
        resident, fetch = 1.0, 0.0
        for applied, change in self._changes("kv.resident"):
            self.enter(applied)
            names = self._names(applied)
            resident, fetch = change.apply(resident, names, whole=False), value(change.fetch, names)
        return resident, fetch

    def bits(self) -> tuple[CacheBits, Mapping[str, float]] | None:
        """How the cache is quantised, and what the names in that stand for."""
        found = [(applied, bits) for applied in self.stack for bits in applied.cache_bits]
        for applied, _ in found:
            self.enter(applied)
        if not found:
            return None
        names = self._names(found[-1][0])
        return found[-1][1].settled(names), names

    def speculation(self) -> tuple[float, float, float, float]:
        """Tokens verified, passes of the draft and tokens accepted in a round, and the cost of a pass."""
        found: list[tuple[Applied, Speculation]] = [(each, one) for each in self.stack for one in each.speculation]
        if not found:
            return 0.0, 0.0, 0.0, 0.0
        applied, draft = found[-1]
        self.enter(applied)
        names = self._names(applied)
        amounts: tuple[Amount, ...] = (draft.draft_nodes, draft.draft_passes, draft.accepted, draft.draft_cost)
        nodes, passes, accepted, cost = (value(amount, names) for amount in amounts)
        return nodes, passes, accepted, cost

    def extras(self, entries: float) -> list[Extra]:
        """What techniques add, at so many entries of a layer's cache."""
        found = []
        for applied in self.stack:
            self.enter(applied)
            for overhead in applied.overheads:
                names = {**self.before[applied.id], **applied.parameters}
                if overhead.stage == "decoding":
                    names["N"] = entries
                found.append(
                    Extra(
                        applied.label,
                        overhead.stage,
                        None if overhead.flop is None else value(overhead.flop, names),
                        value(overhead.byte, names),
                        value(overhead.attention_rows, names),
                        value(overhead.memory_byte, names),
                    )
                )
        return found

    def _acts(self, quantity: str) -> bool:
        return any(change.quantity == quantity for each in self.stack for change in each.changes)

    def _changes(self, quantity: str) -> list[tuple[Applied, Change]]:
        found = [(each, change) for each in self.stack for change in each.changes if change.quantity == quantity]
        return sorted(found, key=lambda pair: pair[1].order)

    def enter(self, applied: Applied) -> None:
        """Remember what the symbols stand for when a technique first acts."""
        self.before.setdefault(applied.id, dict(self.symbols))

    def _names(self, applied: Applied, **values: float) -> dict[str, float]:
        return {**self.symbols, **values, **applied.parameters}

    def _scalar(self, quantity: str, number: float, symbol: str | None, *, whole: bool = True) -> float:
        for applied, change in self._changes(quantity):
            self.enter(applied)
            number = change.apply(number, self._names(applied, **({symbol: number} if symbol else {})), whole=whole)
            if symbol:
                self.symbols[symbol] = number
        return number

    def _layers(self, quantity: str, layers: list[float], symbol: str, *, flows: bool) -> list[float]:
        for applied, change in self._changes(quantity):
            self.enter(applied)
            layers = self._scheduled(applied, change, layers, symbol, flows=flows)
        return layers

    def _at(self, vision_at: Sequence[float], marker: float) -> list[dict[str, float]]:
        rest = self.workload.text_tokens + marker
        return [{"N": v + rest, "N_v": v} for v in vision_at]

    def _scheduled(
        self,
        applied: Applied,
        change: Change,
        layers: Sequence[float],
        names: str | Sequence[Mapping[str, float]],
        *,
        whole: bool = True,
        flows: bool = False,
    ) -> list[float]:
        """A number in each layer after a change.

        Args:
            applied: the technique.
            change: what it changes.
            layers: the number in each layer, as the changes before left it.
            names: the symbol that the number itself is, or further names of each layer.
            whole: whether it is a count.
            flows: whether what one layer removes is gone in all that follow.
        """
        found = self._names(applied)
        first = value(change.from_layer, found)
        last = len(layers) if change.to_layer is None else value(change.to_layer, found)
        gone, new = 0.0, []
        for index, before in enumerate(layers):
            old = before - gone
            if first <= index < last:
                here: Names = {}
                if callable(change.amount):  # a number needs no names, and most are numbers
                    at: Names = {names: old} if isinstance(names, str) else names[index]
                    if names == "N_v":
                        at = {"N_v": old, "N": old + self.workload.text_tokens}
                    here = {**found, **at, **applied.parameters, "l": index}
                left = change.apply(old, here, whole=whole)
                if flows and change.how == "remove":
                    gone += old - left
                old = left
            new.append(old)
        return new
