"""The stages of a request: the work of each as a function of that stage's own record.

`estimate` lists the operators of all parts, `costs` sums their times and remembers them; neither knows what a stage
is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from lvlm_atlas.roofline import encoding, llm
from lvlm_atlas.roofline.cache import Held, mean_held
from lvlm_atlas.roofline.host import HostPace
from lvlm_atlas.roofline.kind import CacheLayer, Place, cache_layers, places, prompt_layers
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.state import Answered, Cached, Encoded, Extra, Prefilled, Shares
from lvlm_atlas.roofline.workload import Workload


class Part(NamedTuple):
    """Layers of a pass that are alike, or what a pass does once."""

    works: Callable[[float], Iterable[Work]]
    """The operators of so many such layers; their work grows with the number on a line."""
    layers: float = 1
    """How many there are, on average over passes."""
    key: Hashable = None
    """What it depends on; parts of one `Stages` with the same key are equal. None: it is like no other."""


class HeldLayers(NamedTuple):
    """Layers that are alike while decoding, and what the cache of each holds."""

    layer: CacheLayer
    number: int
    held: Held


class Step(NamedTuple):
    """A pass that reads a further question, or one of decoding."""

    parts: list[Part]
    times: float
    """How often it runs in all turns; a draft's passes count in their share of a plain one."""
    floor_s: float
    """The least that one takes: until the host has started all kernels. 0: whatever its parts take."""


QUESTIONS = 64
"""Most passes that read further questions one by one. Of more, neighbours are taken together, at their mean length of
the cache: their work is exact where it is linear in that, and their time where one bound holds for all."""


class Stages:
    """The work of the stages, for all requests of the batch.

    Args:
        layout: the model on its devices.
        workload: the request.
    """

    def __init__(self, layout: Layout, workload: Workload) -> None:
        self.layout, self.text, self.turns = layout, workload.text_tokens, workload.turns
        self.places = places(layout.model.llm)
        self.pace = HostPace(layout)

    def encoding(self, encoded: Encoded, added: Sequence[Work] = ()) -> list[Part]:
        """Images on the host, encoder and adapter. What techniques add is `added` here and below; see `added`."""
        host = self.pace.images(encoded)
        return [_once(host), Part(lambda _: encoding.encoding(self.layout, encoded)), _once(added)]

    def encoding_floor_s(self, encoded: Encoded, added: Sequence[Work] = ()) -> float:
        """The least that `encoding` takes."""
        return self.pace.floor_s([*self.pace.images(encoded), *added], self.pace.encoder_s)

    def prefilling(self, prefilled: Prefilled, added: Sequence[Work] = ()) -> list[Part]:
        """The pass that reads the prompt and yields the first token."""
        layers, shares = prompt_layers(prefilled, self.places), prefilled.shares
        parts = [
            Part(
                partial(llm.prompt_layer, self.layout, shares.kv_layers, layer),
                count,
                ("prompt", layer, shares.kv_layers),
            )
            for layer, count in layers.items()
        ]
        links = Part(lambda _: llm.prompt_links(self.layout, layers))
        host = _once(self.pace.prompt(self._tokens(prefilled)))
        output = self._output(self._last_positions(prefilled))
        return [host, *(_thinned(part, shares.weights) for part in (*parts, output)), _once(added), links]

    def prefilling_floor_s(self, prefilled: Prefilled, added: Sequence[Work] = ()) -> float:
        """The least that `prefilling` takes."""
        token = self._tokens(prefilled)
        return self.pace.floor_s([*self.pace.prompt(token), *added], self.pace.chunks(token) * self.pace.prompt_s)

    def _last_positions(self, prefilled: Prefilled) -> float:
        """Positions of a prompt for which the next token is computed: those that leave the last layer, or one."""
        if not self.layout.logits_of_all:
            return 1.0
        return prefilled.text[-1] + (0.0 if self.layout.model.llm.cross_layers else prefilled.vision[-1])

    def _tokens(self, prefilled: Prefilled) -> float:
        """Positions of all prompts that enter the first layer."""
        vision = 0.0 if self.layout.model.llm.cross_layers else prefilled.vision[0]
        return self.layout.batch * (prefilled.text[0] + vision)

    def questions(self, cached: Cached, answered: Answered) -> Iterator[Step]:
        """The passes that read the further questions.

        Each reads the last token of the answer before too, which has not been through the model yet.
        """
        further, new = self.turns - 1, self.text + 1
        layers = cache_layers(cached, self.places) if further else {}
        runs = min(further, QUESTIONS)
        for run in range(runs):
            first, behind = 1 + further * run // runs, 1 + further * (run + 1) // runs
            past = self.grown(answered, (first + behind - 1) / 2)
            parts: list[Part] = []
            for layer, count in layers.items():
                attention = partial(llm.question_attention, self.layout, cached, layer, new, past)
                parts += self._layers(layer.place, count, new, answered.shares, attention)
            host = self.pace.step()
            parts += (_thinned(self._output(1), answered.shares.weights), self._links(new), _once(host))
            yield Step(parts, behind - first, self.pace.floor_s(host, self.pace.llm_s))

    def held(self, cached: Cached, output: int) -> list[HeldLayers]:
        """The kinds of layers and the cache of each, on average over the steps of answers of `output` tokens."""
        if output == 1:
            return []  # prefilling yields the only token
        return [
            HeldLayers(
                layer, count,
                mean_held(self.layout, cached, layer, text=self.text, output=output, turns=self.turns),
            )
            for layer, count in cache_layers(cached, self.places).items()
        ]  # fmt: skip

    def decoding(
        self, cached: Cached, answered: Answered, layers: Sequence[HeldLayers], added: Sequence[Work] = ()
    ) -> list[Step]:
        """The steps of all answers, at the mean length of the cache, which is that of `held`: work is linear in it.

        Plain steps come first, those of a draft if there is one; then the passes that verify what it proposes.
        """
        plain, rounds = passes(answered, self.turns)
        if not plain and not rounds:
            return []
        floor_s = self._step_floor_s(answered)
        floor_s += host_s(added) if floor_s else 0.0
        steps = [Step(self._step(cached, answered, layers, 1, added), plain, floor_s)]
        if rounds:
            verifying = self._step(cached, answered, layers, 1 + answered.draft.nodes, added)
            steps.append(Step(verifying, rounds, floor_s))
        return steps

    def _step_floor_s(self, answered: Answered) -> float:
        return self.pace.floor_s(self.pace.step(answered.depth), answered.depth * self.pace.llm_s)

    def attention(self, cached: Cached, answered: Answered, layers: Sequence[HeldLayers]) -> list[Part]:
        """The attention of a plain step, at the mean length of the cache."""
        return [
            Part(partial(llm.step_attention, self.layout, cached, layer, 1, held), count * answered.depth)
            for layer, count, held in layers
        ]

    def decoding_but_attention(self, answered: Answered) -> list[Step]:
        """The same without attention, and without what techniques add: what no state of the cache avoids."""
        plain, rounds = passes(answered, self.turns)
        floor_s = self._step_floor_s(answered)
        return [
            Step([*self._but_attention(answered, rows)], times, floor_s)
            for rows, times in ((1, plain), (1 + answered.draft.nodes, rounds))
            if times
        ]

    def added(self, stage: str, encoded: Encoded, prefilled: Prefilled, extras: Iterable[Extra]) -> list[Work]:
        """What techniques add to a stage; in decoding, to each step."""
        own = [extra for extra in extras if extra.stage == stage]
        works = (
            encoding.extras(self.layout, encoded, own)
            if stage == "encoding"
            else llm.extras(self.layout, encoded, prefilled, stage, own)
        )
        return [*works, *self.pace.steps_of(own)]

    def grown(self, answered: Answered, turns: float) -> float:
        """Tokens that have followed the first prompt into the cache after so many answers, whose last token has not."""
        return turns * answered.output + (turns - 1) * self.text - 1

    def _step(
        self, cached: Cached, answered: Answered, layers: Sequence[HeldLayers], rows: float, added: Sequence[Work]
    ) -> list[Part]:
        parts: list[Part] = []
        for layer, count, held in layers:
            attention = partial(llm.step_attention, self.layout, cached, layer, rows, held)
            parts += self._layers(layer.place, count * answered.depth, rows, answered.shares, attention)
        output = _thinned(self._output(rows), answered.shares.weights)
        return [*parts, output, _once(added), self._links(rows, answered.depth), _once(self.pace.step(answered.depth))]

    def _but_attention(self, answered: Answered, rows: float) -> Iterator[Part]:
        for place in dict.fromkeys(self.places):
            yield from self._layers(place, self.places.count(place) * answered.depth, rows, answered.shares)
        yield _thinned(self._output(rows), answered.shares.weights)
        yield self._links(rows, answered.depth)
        yield _once(self.pace.step(answered.depth))

    def _layers(
        self, place: Place, count: float, rows: float, shares: Shares,
        attention: Callable[[float], Iterable[Work]] | None = None,
    ) -> Iterator[Part]:  # fmt: skip
        """Layers that are alike, on `rows` new tokens of each request."""
        projections = partial(llm.projections, self.layout, place, rows, kv_layers=shares.kv_layers)
        yield _thinned(Part(projections, count, ("projections", place, rows, shares.kv_layers)), shares.weights)
        if attention:
            yield Part(attention, count)
        mlp = partial(llm.mlp, self.layout, place, rows)
        yield _thinned(Part(mlp, count, ("mlp", place, rows)), shares.weights)

    def _output(self, last: float) -> Part:
        return Part(lambda _: llm.output(self.layout, last), 1, ("output", last))

    def _links(self, rows: float, depth: float = 1.0) -> Part:
        through = rows * len(self.places) * depth
        layers = len(self.places) * depth
        return Part(lambda _: llm.links(self.layout, through, rows, layers), 1, ("links", rows, depth))


def passes(answered: Answered, turns: int) -> tuple[float, float]:
    """How many plain steps all decoding takes, those of drafts in their share of one, and how many verifying rounds."""
    steps, draft = turns * (answered.output - 1), answered.draft
    if not draft.nodes:
        return steps, 0.0
    rounds = steps / (1 + draft.accepted)
    return rounds * draft.passes * draft.cost, rounds


def host_s(added: Iterable[Work]) -> float:
    """Seconds that the host spends on what techniques add, which no other work of it hides."""
    return sum(work.host_s for work in added)


def _thinned(part: Part, weights: float) -> Part:
    """The same with a share of the weights left: of what they cost and move, whatever rows move."""
    if weights == 1:
        return part

    def works(layers: float) -> Iterator[Work]:
        for work in part.works(layers):
            linear = work.kind == "linear"
            yield _scaled(work, weights) if linear else work

    return Part(works, part.layers, part.key and (part.key, weights))


def _scaled(work: Work, weights: float) -> Work:
    """A product with a share of its weights left."""
    flop, few_flop, byte = (each * weights for each in (work.flop, work.few_flop, work.weight_byte))
    return replace(work, flop=flop, few_flop=few_flop, weight_byte=byte)


def _once(works: Sequence[Work]) -> Part:
    return Part(lambda _: works)
