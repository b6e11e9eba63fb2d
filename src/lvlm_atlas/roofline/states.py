"""What many stacks leave of one request, on whichever device: states, operators of each pass, and bytes.

Each is worked out once for all stacks that differ only in techniques that cannot change it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from lvlm_atlas.roofline.activations import Activations, activations, of_encoder
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.dimensions import dimensions
from lvlm_atlas.roofline.kind import prompt_layers
from lvlm_atlas.roofline.layout import layout
from lvlm_atlas.roofline.masks import Masks, bits
from lvlm_atlas.roofline.memory import on_a_device, resident_byte
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.overhead import extras
from lvlm_atlas.roofline.pipeline import Walk
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.roofline.stages import HeldLayers, Part, Stages, Step
from lvlm_atlas.roofline.state import Answered, Cached, Encoded, Prefilled, Shares
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.workload import Workload

RECORDS, NUMBERS = 2**12, 2**16
"""How many records of a kind are remembered, and how many numbers; a state of 28 layers takes some 2 kB."""
SHARED = 2
"""Sub-stacks of so many techniques are part of many stacks."""


class Listed(NamedTuple):
    """A part of a pass with its operators."""

    works: tuple[Work, ...]
    """Those of all its layers; of one layer where there is a key."""
    layers: float = 1.0
    key: Hashable = None
    """What it depends on; see `Part`."""


class Pass(NamedTuple):
    """A pass with its operators; see `Step`."""

    parts: tuple[Listed, ...]
    times: float
    floor_s: float


class Addition(NamedTuple):
    """What a technique adds: operators of the first two stages and of a step, and bytes of a device."""

    works: tuple[list[Work], ...]
    device_byte: float


class States:
    """What stacks leave of a request. A stack is a number: bit i stands for technique i.

    Args:
        model: the model.
        workload: the request.
        deployment: how the model is run.
        techniques: the techniques, in pipeline order.

    Raises:
        AtlasError: as of `estimate`.
    """

    def __init__(self, model: Model, workload: Workload, deployment: Deployment, techniques: Sequence[Applied]) -> None:
        self.workload, self.deployment, self.techniques = workload, deployment, techniques
        self.layout = layout(model, workload.batch, deployment)
        self.dimensions = dimensions(self.layout, workload)
        self.stages = Stages(self.layout, workload)
        self.masks = Masks(techniques)
        self._works: dict[Hashable, tuple[Work, ...]] = {}
        # Each is asked for with the part of a stack that can change it. Methods of the same names work them out.
        self.encoded = lru_cache(RECORDS)(self._encoded)
        self.prefilled = lru_cache(RECORDS)(self._prefilled)
        self.cached = lru_cache(RECORDS)(self._cached)
        self.answered = lru_cache(RECORDS)(self._answered)
        self.held = lru_cache(RECORDS)(self._held)
        self.encoding = lru_cache(RECORDS)(self._encoding)
        self.prefilling = lru_cache(RECORDS)(self._prefilling)
        self.questions = lru_cache(RECORDS)(self._questions)
        self.decoding = lru_cache(RECORDS)(self._decoding)
        self.least_decoding = lru_cache(RECORDS)(self._least_decoding)
        self.attention = lru_cache(RECORDS)(self._attention)
        self.addition = lru_cache(RECORDS)(self._addition)
        self.vision_tokens = lru_cache(NUMBERS)(self._vision_tokens)
        self.activations = lru_cache(NUMBERS)(self._activations)
        self.held_byte = lru_cache(NUMBERS)(self._held_byte)
        self.least_byte = lru_cache(NUMBERS)(self._least_byte)

    def _walk(self, stack: int) -> Walk:
        return Walk(self.dimensions, [self.techniques[index] for index in bits(stack)])

    def _encoded(self, stack: int) -> Encoded:
        return self._walk(stack).encoded()

    def _prefilled(self, stack: int) -> Prefilled:
        return self._walk(stack).prefilled(self.encoded(stack & self.masks.entering))

    def _vision_tokens(self, stack: int) -> float:
        """Vision tokens that enter the LLM layers in prefilling, of all layers together."""
        return sum(self.prefilled(stack).vision)

    def _cached(self, stack: int) -> Cached:
        prefilled = self.prefilled(stack & self.masks.tokens)  # what density is does not matter from here on
        return self._walk(stack).cached(self.encoded(stack & self.masks.entering), prefilled)

    def _answered(self, stack: int) -> Answered:
        return self._walk(stack).answered(self.encoded(stack & self.masks.entering))

    def _held(self, stack: int, output: int) -> list[HeldLayers]:
        """What the cache holds on average over the steps of answers of so many tokens."""
        return self.stages.held(self.cached(stack), output)

    def _encoding(self, stack: int) -> Pass:
        encoded = self.encoded(stack)
        return self._listed(Step(self.stages.encoding(encoded), 1, self.stages.encoding_floor_s(encoded)))

    def _prefilling(self, stack: int) -> Pass:
        """The first pass over the prompt."""
        prefilled = self.prefilled(stack)
        return self._listed(Step(self.stages.prefilling(prefilled), 1, self.stages.prefilling_floor_s(prefilled)))

    def _questions(self, stack: int) -> tuple[Pass, ...]:
        """The passes that read further questions."""
        return tuple(map(self._listed, self.stages.questions(*self._decoded(stack))))

    def _decoding(self, stack: int) -> tuple[Pass, ...]:
        """The passes of decoding, without what techniques add."""
        cached, answered = self._decoded(stack)
        held = self.held(stack & self.masks.cached, answered.output)
        return tuple(map(self._listed, self.stages.decoding(cached, answered, held)))

    def _least_decoding(self, stack: int) -> tuple[Pass, ...]:
        """The same without attention."""
        return tuple(map(self._listed, self.stages.decoding_but_attention(self.answered(stack))))

    def _attention(self, stack: int) -> tuple[Listed, ...]:
        """The attention of a plain step."""
        cached, answered = self._decoded(stack)
        held = self.held(stack & self.masks.cached, answered.output)
        return tuple(map(self._operators, self.stages.attention(cached, answered, held)))

    def _addition(self, index: int, stack: int) -> Addition:
        """What a technique adds in a stack."""
        encoded = self.encoded(stack & self.masks.encoded)
        prefilled = self.prefilled(stack & self.masks.tokens)
        entries = self.cached(stack & self.masks.entries).entries
        added = [*extras(self.techniques[index], encoded, entries, self.answered(stack & self.masks.answered))]
        byte = self.layout.batch * sum(extra.memory_byte for extra in added) / self.deployment.devices
        return Addition(tuple(self.stages.added(stage, encoded, prefilled, added) for stage in STAGES), byte)

    def _activations(self, stack: int) -> Activations:
        encoded = self.encoded(stack & self.masks.entering)
        layers = prompt_layers(self.prefilled(stack), self.stages.places)
        return activations(self.layout, encoded, layers, self.deployment.pass_tokens)

    def _held_byte(self, stack: int) -> Mapping[str, float]:
        """What one device must hold, but for what techniques keep."""
        cached, answered = self._decoded(stack)
        cache_byte = resident_byte(self.stages, cached, answered)
        activation = self.activations(stack & self.masks.tokens).of(self.workload.batch)
        return on_a_device(self.layout, self.deployment, cache_byte, activation, 0, cached.shares)

    def _least_byte(self, stack: int) -> float:
        """The same without the cache, and without the prompt's activations where many techniques decide them."""
        tokens = stack & self.masks.tokens
        if tokens.bit_count() <= SHARED:
            activation = self.activations(tokens).of(self.workload.batch)
        else:
            encoded = self.encoded(stack & self.masks.encoding)
            one, most = of_encoder(self.layout, encoded, self.deployment.pass_tokens)
            activation = min(self.workload.batch * one, most)
        shares = self.answered(stack & self.masks.answered).shares if stack & self.masks.shares else Shares()
        return sum(on_a_device(self.layout, self.deployment, 0, activation, 0, shares).values())

    def _decoded(self, stack: int) -> tuple[Cached, Answered]:
        return self.cached(stack & self.masks.cached), self.answered(stack & self.masks.answered)

    def _listed(self, step: Step) -> Pass:
        return Pass(tuple(map(self._operators, step.parts)), step.times, step.floor_s)

    def _operators(self, part: Part) -> Listed:
        """A part with its operators; those of parts with a key are remembered."""
        works, layers, key = part
        if key is None:
            return Listed(tuple(works(layers)))
        if key not in self._works:
            if len(self._works) >= NUMBERS:
                self._works.clear()
            self._works[key] = tuple(works(1))
        return Listed(self._works[key], layers, key)
