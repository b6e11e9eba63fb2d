"""The stages of a request: the work of each as a function of that stage's own record.

`estimate` lists the operators of all parts, `costs` sums their times and remembers them; neither knows what a stage
is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from lvlm_atlas.roofline import encoding, llm
from lvlm_atlas.roofline.cache import Held, mean_held
from lvlm_atlas.roofline.kind import CacheLayer, Place, cache_layers, places, prompt_layers
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.state import Answered, Cached, Encoded, Extra, Prefilled
from lvlm_atlas.roofline.workload import Workload


class Part(NamedTuple):
    """Layers of a pass that are alike, or what a pass does once."""

    works: Callable[[float], Iterable[Work]]
    """The operators of so many such layers; their work grows with the number on a line."""
    layers: int = 1
    """How many there are."""
    key: Hashable = None
    """What it depends on; parts of one `Stages` with the same key are equal. None: it is like no other."""


class Step(NamedTuple):
    """A pass of decoding."""

    parts: list[Part]
    times: float
    """How often it runs in all answers; a draft's passes count in their share of a plain one."""


class Stages:
    """The work of the stages, for all requests of the batch.

    Args:
        layout: the model on its devices.
        workload: the request.
    """

    def __init__(self, layout: Layout, workload: Workload) -> None:
        self.layout, self.text, self.turns = layout, workload.text_tokens, workload.turns
        self.places = places(layout)

    def encoding(self, encoded: Encoded, added: Sequence[Work] = ()) -> list[Part]:
        """Encoder and adapter. What techniques add is `added` here and below; see `added`."""
        return [Part(lambda _: encoding.encoding(self.layout, encoded)), _once(added)]

    def prefilling(self, prefilled: Prefilled, added: Sequence[Work] = ()) -> list[Part]:
        """The pass that reads the prompt and yields the first token."""
        layers = prompt_layers(prefilled, self.places)
        return [
            *(
                Part(partial(llm.prompt_layer, self.layout, layer), count, ("prompt", layer))
                for layer, count in layers.items()
            ),
            self._output(1), _once(added), Part(lambda _: llm.prompt_links(self.layout, layers)),
        ]  # fmt: skip

    def questions(self, cached: Cached, answered: Answered) -> Iterator[Part]:
        """The passes that read the further questions.

        Each reads the last token of the answer before too, which has not been through the model yet.
        """
        layers, new = cache_layers(cached, self.places), self.text + 1
        for turn in range(1, self.turns):
            past = self.grown(answered, turn)
            for layer, count in layers.items():
                attention = partial(llm.question_attention, self.layout, cached, layer, new, past)
                yield from self._layers(layer.place, count, new, attention)
            yield from (self._output(1), self._links(new))

    def decoding(self, cached: Cached, answered: Answered, added: Sequence[Work] = ()) -> list[Step]:
        """The steps of all answers, at the mean length of the cache: work is linear in it.

        Plain steps come first, those of a draft if there is one; then the passes that verify what it proposes.
        """
        plain, rounds = passes(answered, self.turns)
        if not plain and not rounds:
            return []
        layers = self._mean_layers(cached, answered)
        steps = [Step(self._step(cached, layers, 1, added), plain)]
        if rounds:
            steps.append(Step(self._step(cached, layers, 1 + answered.draft.nodes, added), rounds))
        return steps

    def attention(self, cached: Cached, answered: Answered) -> list[Part]:
        """The attention of a plain step, at the mean length of the cache."""
        return [
            Part(partial(llm.step_attention, self.layout, cached, layer.place, 1, held), count)
            for layer, count, held in self._mean_layers(cached, answered)
        ]

    def decoding_but_attention(self, answered: Answered) -> list[Step]:
        """The same without attention, and without what techniques add: what no state of the cache avoids."""
        plain, rounds = passes(answered, self.turns)
        return [
            Step([*self._but_attention(rows)], times)
            for rows, times in ((1, plain), (1 + answered.draft.nodes, rounds))
            if times
        ]

    def added(self, stage: str, encoded: Encoded, extras: Iterable[Extra]) -> list[Work]:
        """What techniques add to a stage; in decoding, to each step."""
        if stage == "encoding":
            return [*encoding.extras(self.layout, encoded, extras)]
        return [*llm.extras(self.layout, encoded, stage, extras)]

    def grown(self, answered: Answered, turns: int) -> int:
        """Tokens that have followed the first prompt into the cache after so many answers, whose last token has not."""
        return turns * answered.output + (turns - 1) * self.text - 1

    def _mean_layers(self, cached: Cached, answered: Answered) -> list[tuple[CacheLayer, int, Held]]:
        """The kinds of layers, how many there are of each, and the cache of each on average over all steps."""
        return [
            (layer, count, mean_held(self.layout, cached, layer, text=self.text, output=answered.output,
                                     turns=self.turns))
            for layer, count in cache_layers(cached, self.places).items()
        ]  # fmt: skip

    def _step(
        self, cached: Cached, layers: Sequence[tuple[CacheLayer, int, Held]], rows: float, added: Sequence[Work]
    ) -> list[Part]:
        parts: list[Part] = []
        for layer, count, held in layers:
            attention = partial(llm.step_attention, self.layout, cached, layer.place, rows, held)
            parts += self._layers(layer.place, count, rows, attention)
        return [*parts, self._output(rows), _once(added), self._links(rows)]

    def _but_attention(self, rows: float) -> Iterator[Part]:
        for place in dict.fromkeys(self.places):
            yield from self._layers(place, self.places.count(place), rows)
        yield from (self._output(rows), self._links(rows))

    def _layers(
        self, place: Place, count: int, rows: float, attention: Callable[[float], Iterable[Work]] | None = None
    ) -> Iterator[Part]:
        """Layers that are alike, on `rows` new tokens of each request."""
        yield Part(partial(llm.projections, self.layout, place, rows), count, ("projections", place, rows))
        if attention:
            yield Part(attention, count)
        yield Part(partial(llm.mlp, self.layout, place, rows), count, ("mlp", place, rows))

    def _output(self, last: float) -> Part:
        return Part(lambda _: llm.output(self.layout, last), 1, ("output", last))

    def _links(self, rows: float) -> Part:
        return Part(lambda _: llm.links(self.layout, rows * len(self.places), rows), 1, ("links", rows))


def passes(answered: Answered, turns: int) -> tuple[float, float]:
    """How many plain steps all decoding takes, those of drafts in their share of one, and how many verifying rounds."""
    steps, draft = turns * (answered.output - 1), answered.draft
    if not draft.nodes:
        return steps, 0.0
    rounds = steps / (1 + draft.accepted)
    return rounds * draft.passes * draft.cost, rounds


def _once(works: Sequence[Work]) -> Part:
    return Part(lambda _: works)
