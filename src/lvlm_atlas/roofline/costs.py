"""What many stacks cost on one request: what stacks share is worked out once.

A stage depends on those techniques of a stack that change something up to it. So its time is kept by them, and a stack
is the sum of a few times that other stacks have mostly asked for before. The numbers are those of `estimate` but for
the order in which they are added up.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from lvlm_atlas.roofline import encoding, llm
from lvlm_atlas.roofline.cache import held, mean_held
from lvlm_atlas.roofline.decoding import passes
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.kind import Kind, counted, places
from lvlm_atlas.roofline.layout import layout, machine
from lvlm_atlas.roofline.memory import encoder_activation_byte, llm_activation_byte, on_a_device
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.pipeline import Walk, apply
from lvlm_atlas.roofline.state import State
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.workload import Workload

_INPUT = ("frames", "pixels", "encoder.tokens", "vision-tokens")
_EARLY = ("llm.vision-tokens", "attention.density", "kv.tokens", "kv.resident")
"""Quantities whose changes come after the encoder's and before the number of tokens generated changes."""

FIGURES = frozenset({"ttft_s", "tpot_s", "total_s", "device_byte"})
"""Figures of a cost that a search can bound."""
_SHARED = 2
"""Sub-stacks of so many techniques are part of many stacks."""
_SMALL, _LARGE = 2**16, 2**12
"""Entries that a memo keeps: numbers, and states of a request."""
Key = TypeVar("Key")
Value = TypeVar("Value")


class _Memo(OrderedDict[Key, Value]):
    """Results by what they depend on. Once there are `size`, each new one takes the place of the oldest."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def __setitem__(self, key: Key, value: Value) -> None:
        if len(self) >= self._size:
            self.popitem(last=False)
        super().__setitem__(key, value)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stack costs; see `Estimate`."""

    encoding_s: float
    """Time of encoding."""
    prefilling_s: float
    """Time of prefilling, all turns."""
    decoding_s: float
    """Time of decoding, all turns."""
    ttft_s: float
    """Time to the first token."""
    tpot_s: float
    """Time per output token after the first."""
    device_byte: float
    """What one device must hold."""

    @property
    def total_s(self) -> float:
        """Time of the whole request."""
        return self.encoding_s + self.prefilling_s + self.decoding_s


@dataclass(frozen=True, slots=True)
class _Entered:
    """A request that has come up to the LLM."""

    walk: Walk
    state: State
    """Its state, as if nothing followed."""


@dataclass(frozen=True, slots=True)
class _Late:
    """A request whose prompt is in."""

    state: State
    """What of its state matters from here on."""
    layers: Mapping[Kind, int]
    """Kinds of layers."""


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Decoding, without what techniques add."""

    steps: int
    """Tokens generated after the first of each answer."""
    passes: float
    """Passes of the model: plain steps, those of drafts in their share of one, and verifying passes."""
    time_s: float
    question_s: float
    """Time in which further questions are read."""


@dataclass(frozen=True, slots=True)
class _Added:
    """What a technique adds: seconds of the first two stages and of a step, bytes of a device."""

    encoding_s: float
    prefilling_s: float
    step_s: float
    device_byte: float


class Costs:
    """What stacks of some techniques cost on a request. A stack is a number: bit i stands for technique i.

    Args:
        model: the model.
        device: the device.
        workload: the request.
        deployment: how the model is run.
        techniques: the techniques, in pipeline order.

    Raises:
        AtlasError: as of `estimate`.
    """

    def __init__(
        self, model: Model, device: Device, workload: Workload, deployment: Deployment, techniques: Sequence[Applied]
    ) -> None:
        deployment = deployment.on(device.typical)
        self.workload, self.deployment, self.techniques = workload, deployment, techniques
        self.lay = layout(model, workload.batch, deployment)
        self.walls, _ = machine(device, self.lay, deployment)
        self.plain = apply(model, workload, (), layers=self.lay.encoder_layers, element_byte=self.lay.kv_byte)
        acts: dict[str, int] = defaultdict(int)
        # Tokens that change before the adapter decide its rows; changes before them decide what they leave.
        adapter = max((c.order for each in techniques for c in each.changes if c.before_adapter), default=-1)
        for index, each in enumerate(techniques):
            for change in each.changes:
                acts[change.quantity] |= 1 << index
                acts["adapter"] |= (change.quantity == "vision-tokens" and change.order <= adapter) << index
            acts["late"] |= bool(each.cache_bits or each.speculation) << index
            acts["speculation"] |= bool(each.speculation) << index
            acts["more"] |= bool(each.changes or each.cache_bits) << index
            acts["costly"] |= bool(each.overheads) << index
            acts["costly-steps"] |= any(extra.stage == "decoding" for extra in each.overheads) << index
        self._encoder = _union(acts, ("frames", "pixels", "encoder.tokens", "adapter"))
        self._input = _union(acts, _INPUT)
        self._early = _union(acts, _EARLY)
        self._tokens = self._input | acts["llm.vision-tokens"]
        self._prompt = self._tokens | acts["attention.density"]
        self._cache = self._tokens | acts["kv.tokens"]
        self._output = acts["output-tokens"]
        self._paced = self._output | acts["speculation"]
        self._drafts = acts["speculation"] & ~acts["more"]
        self._loop = self._input | self._output | acts["speculation"]
        self._steps = self._cache | acts["kv.resident"] | self._output | acts["late"]
        self._costly, self._costly_steps = acts["costly"], acts["costly-steps"]
        self._places = places(self.lay)
        self._whole = (1.0,) * len(self._places)
        self._encodings: _Memo[int, float] = _Memo(_SMALL)
        self._entered: _Memo[int, _Entered] = _Memo(_LARGE)
        self._layers: _Memo[int, tuple[float, ...]] = _Memo(_LARGE)
        self._prompts: _Memo[int, float] = _Memo(_SMALL)
        self._prompt_layers: _Memo[Kind, float] = _Memo(_SMALL)
        self._caches: _Memo[int, tuple[list[float], list[float]]] = _Memo(_LARGE)
        self._rests: dict[tuple[float, float], float] = {}
        self._activations: _Memo[int, float] = _Memo(_SMALL)
        self._encoder_bytes: _Memo[int, float] = _Memo(_SMALL)
        self._paces: _Memo[int, _Decoded] = _Memo(_SMALL)
        self._attentions: _Memo[int, float] = _Memo(_SMALL)
        self._lates: _Memo[int, _Late] = _Memo(_LARGE)
        self._decodings: _Memo[int, _Decoded] = _Memo(_LARGE)
        self._device_bytes: _Memo[int, float] = _Memo(_SMALL)
        self._additions: _Memo[tuple[int, int], _Added] = _Memo(_LARGE)

    def of(self, stack: int) -> Cost:
        """What a stack costs."""
        encoding_s = self._encoding(stack & self._encoder)
        first_s = self._first_pass(stack & self._prompt)
        decoded = self._decode(stack & self._steps)
        step_s, device_byte = 0.0, self._device_byte(stack & self._steps)
        for index in _bits(stack & self._costly):
            added = self._add(index, stack)
            encoding_s += added.encoding_s
            first_s += added.prefilling_s
            step_s += added.step_s
            device_byte += added.device_byte
        decoding_s = decoded.time_s + decoded.passes * step_s
        return Cost(
            encoding_s, first_s + decoded.question_s, decoding_s, encoding_s + first_s,
            decoding_s / decoded.steps if decoded.steps else 0.0, device_byte,
        )  # fmt: skip

    def floor(self, stack: int, figures: Collection[str] = FIGURES, *, rough: bool = False) -> Cost:
        """Lower bounds of some figures of a stack, for less work than `of`; other figures may come out as 0.

        What is left out is never negative: further questions, what techniques add, and the attention of decoding, but
        for stacks with a draft, which share it with those without.

        Args:
            stack: the stack.
            figures: names of the figures, of `FIGURES`.
            rough: leave out more: the prompt where more than two techniques decide its time, all attention of decoding,
                and in memory the cache and the prompt's activations.
        """
        encoding_s = first_s = decoding_s = device_byte = 0.0
        steps = 0
        if "ttft_s" in figures or "total_s" in figures:
            encoding_s = self._encoding(stack & self._encoder)
            prompt = stack & self._prompt
            if not rough or prompt.bit_count() <= _SHARED:
                first_s = self._first_pass(prompt)
        if "tpot_s" in figures or "total_s" in figures:
            steps, decoding_s = self._least_decoding(stack, rough=rough)
        if "device_byte" in figures:
            if rough:
                tokens = stack & self._tokens
                shared = tokens.bit_count() <= _SHARED
                activation = self._activation(tokens) if shared else self._encoder_byte(stack & self._encoder)
                device_byte = sum(on_a_device(self.lay, self.deployment, 0, activation, 0).values())
            else:
                device_byte = self._device_byte(stack & self._steps)
        return Cost(
            encoding_s, first_s, decoding_s, encoding_s + first_s, decoding_s / steps if steps else 0.0, device_byte,
        )  # fmt: skip

    def _least_decoding(self, stack: int, *, rough: bool) -> tuple[int, float]:
        """Tokens after the first of each answer, and a lower bound on the time of decoding them."""
        pace = self._pace(stack & self._loop if stack & self._paced else 0)
        if rough or not stack & self._drafts:
            return pace.steps, pace.time_s
        # A draft changes the passes, and each attends to the cache at least as a plain step does.
        return pace.steps, pace.time_s + pace.passes * self._attention(stack & self._steps & ~self._drafts)

    def _pace(self, stack: int) -> _Decoded:
        """Decoding without the attention of its passes."""
        if stack not in self._paces:
            entered = self._enter(stack & self._input)
            walk = self._walk(stack, entered)
            output = walk.output()
            nodes, draft_passes, accepted, draft_cost = walk.speculation()
            state = replace(
                entered.state, output=output, draft_nodes=nodes, draft_passes=draft_passes, accepted=accepted,
                draft_cost=draft_cost,
            )  # fmt: skip
            plain, rounds = passes(state, self.workload.turns)
            seconds = sum(
                times * self._rest(rows, rows) for rows, times in ((1.0, plain), (1 + nodes, rounds)) if times
            )
            self._paces[stack] = _Decoded(self.workload.turns * (output - 1), plain + rounds, seconds, 0.0)
        return self._paces[stack]

    def _attention(self, stack: int) -> float:
        """Mean time of a plain step's attention."""
        if stack not in self._attentions:
            late, turns = self._late(stack), self.workload.turns
            works = (
                llm.step_attention(self.lay, late.state, kind, count, 1, mean_held(self.lay, late.state, kind, turns))
                for kind, count in late.layers.items()
            )
            self._attentions[stack] = self._time_s(works) if late.state.output > 1 else 0.0
        return self._attentions[stack]

    def _enter(self, stack: int) -> _Entered:
        if stack not in self._entered:
            walk = self._walk(stack)
            made, encoder_patch, adapter_share, vision, marker = walk.handed_on()
            state = replace(
                self.plain, visual=made, encoder_patch=encoder_patch, adapter_share=adapter_share, vision=vision,
                marker=marker,
            )  # fmt: skip
            self._entered[stack] = _Entered(walk, state)
        return self._entered[stack]

    def _encoding(self, stack: int) -> float:
        """Time of encoding."""
        if stack not in self._encodings:
            self._encodings[stack] = self._time_s(encoding.encoding(self.lay, self._enter(stack).state))
        return self._encodings[stack]

    def _walk(self, stack: int, after: _Entered | None = None) -> Walk:
        """A walk of the techniques in `stack`, from the start or from where another has come."""
        chosen = [self.techniques[index] for index in _bits(stack)]
        walk = Walk(self.lay.model, self.workload, chosen, self.lay.encoder_layers, self.lay.kv_byte)
        if after:
            walk.symbols, walk.before = dict(after.walk.symbols), dict(after.walk.before)
        return walk

    def _token_layers(self, stack: int) -> tuple[float, ...]:
        if stack not in self._layers:
            entered = self._enter(stack & self._input)
            self._layers[stack] = tuple(self._walk(stack, entered).token_layers(entered.state.vision))
        return self._layers[stack]

    def _first_pass(self, stack: int) -> float:
        """Time of the pass over the prompt."""
        if stack not in self._prompts:
            entered, vision_at = self._enter(stack & self._input), self._token_layers(stack & self._tokens)
            density = self._walk(stack, entered).densities(vision_at, entered.state.marker)
            # What is cached does not matter here.
            layers = counted(vision_at, density, self._whole, self._whole, self._places)
            seconds = sum(count * self._prompt_layer(kind, entered.state) for kind, count in layers.items())
            self._prompts[stack] = seconds + self._time_s(llm.prompt_rest(self.lay, entered.state, layers))
        return self._prompts[stack]

    def _prompt_layer(self, kind: Kind, state: State) -> float:
        if kind not in self._prompt_layers:
            self._prompt_layers[kind] = self._time_s(llm.prompt_layer(self.lay, state, kind, 1))
        return self._prompt_layers[kind]

    def _cached(self, stack: int) -> tuple[list[float], list[float]]:
        if stack not in self._caches:
            entered, vision_at = self._enter(stack & self._input), self._token_layers(stack & self._tokens)
            self._caches[stack] = self._walk(stack, entered).cache(vision_at, entered.state.marker)
        return self._caches[stack]

    def _late(self, stack: int) -> _Late:
        """A request that decodes: what of its state matters then, and its kinds of layers."""
        if stack not in self._lates:
            entered, vision_at = self._enter(stack & self._input), self._token_layers(stack & self._tokens)
            cached_vision, cached_text = self._cached(stack & self._cache)
            walk = self._walk(stack, entered)
            resident, fetch = walk.residency()
            output = walk.output()
            nodes, draft_passes, accepted, draft_cost = walk.speculation()
            was = entered.state
            state = State(
                visual=was.visual, encoder_patch=was.encoder_patch, adapter_share=was.adapter_share, vision=was.vision,
                marker=was.marker, text=was.text, vision_at=vision_at, density=self._whole, cached_vision=self._whole,
                cached_text=self._whole, bits=walk.bits(), resident=resident, fetch=fetch, draft_nodes=nodes,
                draft_passes=draft_passes, accepted=accepted, draft_cost=draft_cost, output=output, extras=(),
            )  # fmt: skip
            # What is alive in a layer does not matter here.
            layers = counted(self._whole, self._whole, cached_vision, cached_text, self._places)
            self._lates[stack] = _Late(state, layers)
        return self._lates[stack]

    def _decode(self, stack: int) -> _Decoded:
        """Decoding and further questions."""
        if stack in self._decodings:
            return self._decodings[stack]
        late = self._late(stack)
        state, layers, turns = late.state, late.layers, self.workload.turns
        plain, rounds = passes(state, turns)
        seconds = question_s = 0.0
        if plain or rounds:
            means = [(kind, count, mean_held(self.lay, state, kind, turns)) for kind, count in layers.items()]
            for rows, times in ((1.0, plain), (1 + state.draft_nodes, rounds)):
                if times:
                    attention = (llm.step_attention(self.lay, state, kind, n, rows, found) for kind, n, found in means)
                    seconds += times * (self._time_s(attention) + self._rest(rows, rows))
        for turn in range(1, turns):
            past = turn * state.output + (turn - 1) * state.text - 1
            attention = (llm.question_attention(self.lay, state, kind, n, past) for kind, n in layers.items())
            question_s += self._time_s(attention) + self._rest(state.text + 1, 1)
        found = _Decoded(turns * (state.output - 1), plain + rounds, seconds, question_s)
        self._decodings[stack] = found
        return found

    def _device_byte(self, stack: int) -> float:
        """What one device must hold, but for what techniques keep."""
        if stack not in self._device_bytes:
            late, turns = self._late(stack), self.workload.turns
            state = late.state
            end = turns * state.output + (turns - 1) * state.text - 1
            cache = sum(n * held(self.lay, state, kind, end).byte for kind, n in late.layers.items())
            activation = self._activation(stack & self._tokens)
            parts = on_a_device(self.lay, self.deployment, self.lay.batch * cache * state.resident, activation, 0)
            self._device_bytes[stack] = sum(parts.values())
        return self._device_bytes[stack]

    def _activation(self, stack: int) -> float:
        """Room that activations take."""
        if stack not in self._activations:
            state = self._enter(stack & self._input).state
            layers = counted(self._token_layers(stack), self._whole, self._whole, self._whole, self._places)
            encoder_byte = encoder_activation_byte(self.lay, state)
            self._activations[stack] = max(encoder_byte, llm_activation_byte(self.lay, state, layers))
        return self._activations[stack]

    def _encoder_byte(self, stack: int) -> float:
        """Room that activations of the encoder take."""
        if stack not in self._encoder_bytes:
            self._encoder_bytes[stack] = encoder_activation_byte(self.lay, self._enter(stack).state)
        return self._encoder_bytes[stack]

    def _rest(self, rows: float, last: float) -> float:
        """Time of a pass over new tokens but for attention: the same for all stacks."""
        if (rows, last) not in self._rests:
            layers = counted(self._whole, self._whole, self._whole, self._whole, self._places)
            self._rests[rows, last] = self._time_s(llm.rest(self.lay, layers, rows, last))
        return self._rests[rows, last]

    def _add(self, index: int, stack: int) -> _Added:
        """What a technique adds in a stack."""
        decodes = self._costly_steps >> index & 1
        key = index, stack & (self._input | self._output | (self._cache if decodes else 0))
        if key in self._additions:
            return self._additions[key]
        entered = self._enter(stack & self._input)
        me = 1 << index
        walk = self._walk(stack & self._output | me, entered)
        if me & self._early:
            walk.enter(self.techniques[index])
        walk.output()
        walk.stack = [self.techniques[index]]
        cached = self._cached(stack & self._cache) if decodes else ((), ())
        extras = tuple(walk.extras(sum(map(sum, cached)) / len(self._places)))
        state = entered.state
        found = _Added(
            self._time_s(encoding.extras(self.lay, state, extras)),
            self._time_s(llm.extras(self.lay, state, "prefilling", extras)),
            self._time_s(llm.extras(self.lay, state, "decoding", extras)),
            self.lay.batch * sum(extra.memory_byte for extra in extras) / self.deployment.devices,
        )
        self._additions[key] = found
        return found

    def _time_s(self, works: Iterable[Work]) -> float:
        return sum(map(self.walls.time_s, works))


def _union(acts: Mapping[str, int], quantities: Iterable[str]) -> int:
    found = 0
    for quantity in quantities:
        found |= acts.get(quantity, 0)
    return found


def _bits(stack: int) -> Iterator[int]:
    """Places of the ones in a number, ascending."""
    while stack:
        low = stack & -stack
        yield low.bit_length() - 1
        stack ^= low
