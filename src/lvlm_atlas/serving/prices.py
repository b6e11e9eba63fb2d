"""What batches of a server cost: the times of the engine for parts of prompts, decoding steps and images together.

Nothing here is a cost model of its own. A batch is made of the engine's operators with the rows of all its requests,
and each distinct one is asked for once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from lvlm_atlas.roofline import llm
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.host import HostPace
from lvlm_atlas.roofline.kind import Place, places
from lvlm_atlas.roofline.layout import layout, machine
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.operator import Machine, Work
from lvlm_atlas.roofline.reading import read_as
from lvlm_atlas.roofline.state import Shares
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.serving.decoding import Decoding
from lvlm_atlas.serving.shape import Rows, Shape, runs, shape
from lvlm_atlas.serving.spent import NOTHING, Slice, Spent, spent, waited
from lvlm_atlas.serving.vision import KINDS, Piece, Vision

_NO_ROWS = Rows(0.0, 0.0, 0.0)


class Chunk(NamedTuple):
    """A stretch of a prompt that a step reads."""

    shape: Shape
    start: int
    """Positions of the prompt that are in the cache already."""
    new: int
    """Positions to read."""

    @property
    def ends(self) -> bool:
        """Whether it is the last, which yields a token."""
        return self.start + self.new >= self.shape.prompt


class Prices:
    """Times of batches on one instance of a server.

    Args:
        model: the model.
        device: its devices, all alike.
        deployment: how one instance runs the model.
        stack: techniques for a kind of request, in pipeline order.
        encoder_data_parallel: whether each device of the instance holds the whole encoder and takes images of its own.
        encoder_devices: devices of the instance among which a part of the encoder's work is divided at most.

    Raises:
        AtlasError: as of `estimate`.
    """

    def __init__(
        self, model: Model, device: Device, deployment: Deployment,
        stack: Callable[[Workload], Sequence[Applied]] = lambda _: (), *, encoder_data_parallel: bool = False,
        encoder_devices: int | None = None,
    ) -> None:  # fmt: skip
        self.model, self.device, self.deployment = model, device, deployment.on(device.typical)
        self.layout = layout(model, 1, self.deployment)
        self.walls, self.dtype = machine(device, self.layout, self.deployment)
        self.pace = HostPace(self.layout)
        most = 1 if encoder_data_parallel else encoder_devices or self.layout.encoder_shards
        shards = min(most, self.layout.encoder_shards)
        self.vision = Vision(
            replace(self.layout, encoder_shards=shards), self.pace, self.walls,
            ranks=deployment.tensor_parallel if encoder_data_parallel else 1,
        )  # fmt: skip
        self._stack = stack
        self._places = Counter(places(self.layout.model.llm))
        self._order = places(self.layout.model.llm)
        self._shares = Shares()
        self._shapes: dict[Workload, Shape] = {}
        self._layers: dict[tuple[Place, float, float, float], Spent] = {}
        self._outputs: dict[float, Spent] = {}
        self._text = shape(self.layout, Workload(text_tokens=1024, output_tokens=1), ())

    def spread(self, devices: int | None) -> Prices:
        """The same on instances of another number of devices; None: of as many."""
        if devices in (None, self.deployment.tensor_parallel):
            return self
        deployment = replace(self.deployment, tensor_parallel=devices)
        return Prices(self.model, self.device, deployment, self._stack)

    def on(self, walls: Machine) -> Prices:
        """The same with other walls, such as those of a slice of the device."""
        other = Prices.__new__(Prices)
        other.__dict__.update(self.__dict__)
        other.walls, other._layers, other._outputs = walls, {}, {}
        other.vision = self.vision.on(walls)
        return other

    def sliced(self, part: Slice) -> Prices:
        """The same on a share of the multiprocessors."""
        whole = self.walls.walls
        walls = {
            kind: (flop * part.compute, byte * part.bandwidth, start) for kind, (flop, byte, start) in whole.items()
        }
        return self.on(replace(self.walls, walls=walls))

    def shape(self, workload: Workload) -> Shape:
        """The kind of request that a workload is here."""
        known = self._shapes.get(workload)
        if known is None:
            if len(self._shapes) >= KINDS:
                self._shapes.clear()
            model, read = read_as(self.model, workload)
            lay = replace(self.layout, model=replace(model, llm=self.model.llm))
            stack = sorted(self._stack(workload), key=lambda each: each.order)
            known = self._shapes[workload] = shape(lay, read, stack)
            if known.state.prefilled.shares != Shares():
                self._shares = known.state.prefilled.shares
        return known

    @property
    def text(self) -> Shape:
        """Plain text, whose cache is the measure of a block."""
        return self._text

    def encode(self, pieces: Sequence[Piece]) -> Spent:
        """Encoder and adapter on some requests' images. Images of one kind of request are one batch."""
        return self.vision.encode(pieces)

    def prepare_s(self, kind: Shape) -> float:
        """Time in which the host takes a request in and prepares its images, before any device sees it."""
        return self.pace.host.request_s + self.images_s(kind)

    def images_s(self, kind: Shape) -> float:
        """Time in which it prepares the images."""
        serial = 0.0 if self.pace.host.hides or not kind.frames else self.pace.encoder_s
        return sum(each.host_s for each in self.pace.images(kind.state.encoded)) - serial

    def megapixels(self, kind: Shape) -> float:
        """Pixels of a request that reach its encoder, in millions."""
        patches = kind.state.encoded.visual.patches
        return sum(each.sequences * each.patch for each in patches) * self.model.encoder.patch_size**2 / 1e6

    def _paced(self, spent: Spent, start_s: float) -> Spent:
        """A pass of the LLM with the host's part, whose kernels are started in so long."""
        return waited(self.pace.host, spent, self.pace.host.step_s, start_s)

    def step(self, chunks: Sequence[Chunk], decoding: Decoding | None = None, steps: float = 1.0) -> Spent:
        """One pass of the LLM over parts of prompts and a token of each sequence that decodes.

        Args:
            chunks: parts of prompts.
            decoding: sequences that decode; None: none.
            steps: decoding steps, all of the same batch; more than one only without chunks.

        Returns:
            What all steps take together.
        """
        if decoding is None or not decoding.count:
            return self._paced(self._pass(chunks, 0.0, _NO_ROWS, 1.0), self.pace.prompt_s)
        draft, depth = decoding.draft, decoding.depth
        rows, count = 1 + draft.nodes, decoding.count
        spent = self._pass(chunks, count * rows, Rows(*[count * rows] * 3), depth)
        spent += self._attention(decoding, rows, steps, alone=not chunks)
        spent += self._extra("decoding", decoding.kinds)
        spent = self._paced(spent, self.pace.prompt_s if chunks else self.pace.llm_s * depth)
        if draft.nodes:  # the draft's passes count in their share of a plain step
            plain = self._pass((), count, Rows(*[float(count)] * 3), depth)
            plain += self._attention(decoding, 1, steps, alone=True)
            plain += self._extra("decoding", decoding.kinds)
            plain = self._paced(plain, self.pace.llm_s * depth)
            part = draft.passes * draft.cost
            spent += Spent(*(part * each for each in plain))
        return Spent(*(steps * each for each in spent)) if steps != 1 else spent

    def _pass(self, chunks: Sequence[Chunk], sampled: float, decoded: Rows, depth: float) -> Spent:
        """All of a pass but the attention of sequences that decode."""
        spent = NOTHING
        if self.layout.logits_of_all:
            ends = sampled + sum(chunk.shape.rows[-1].keys * chunk.new / chunk.shape.prompt for chunk in chunks)
        else:
            ends = sampled + sum(chunk.ends for chunk in chunks)
        layers = summed_rows = 0.0
        for rows, place, count in self._rows(chunks):
            for own, share in ((_plus(rows, decoded), depth), (rows, 1 - depth)) if depth != 1 else (
                (_plus(rows, decoded), 1.0),
            ):  # fmt: skip
                if own.keys and share:
                    each = self._layer(place, own)
                    times = count * share
                    spent = Spent(
                        spent.time_s + times * each.time_s, spent.compute_s + times * each.compute_s,
                        spent.memory_s + times * each.memory_s,
                    )  # fmt: skip
                    summed_rows += times * (own.queries + own.mlp) / 2
                    layers += times
        if ends:
            spent += self._output(ends)
        if self.layout.shards > 1 or self.layout.hops:
            spent += self._spent(llm.links(self.layout, summed_rows, summed_rows / layers if layers else 0.0, layers))
        for index, chunk in enumerate(chunks):
            spent += self._chunk(chunk, first=index == 0)
        ended = Counter(chunk.shape for chunk in chunks if chunk.ends)
        return spent + self._extra("prefilling", ended)

    def _rows(self, chunks: Sequence[Chunk]) -> Iterable[tuple[Rows, Place, int]]:
        """Rows of the prompts in the layers, and how many layers are alike."""
        if all(chunk.shape.uniform for chunk in chunks):
            keys = 0.0
            for chunk in chunks:
                keys += chunk.shape.rows[0].keys * chunk.new / chunk.shape.prompt
            return [(Rows(keys, keys, keys), place, count) for place, count in self._places.items()]
        totals = [[0.0, 0.0, 0.0] for _ in self._order]
        for chunk in chunks:
            share = chunk.new / chunk.shape.prompt
            for total, row in zip(totals, chunk.shape.rows, strict=True):
                total[0] += row.keys * share
                total[1] += row.queries * share
                total[2] += row.mlp * share
        return runs([Rows(*total) for total in totals], self._order)

    def _layer(self, place: Place, rows: Rows) -> Spent:
        """One layer but its attention."""
        key = (place, *rows)
        known = self._layers.get(key)
        if known is None:
            shares = self._shares
            works = [
                *llm.projections(
                    self.layout, place, rows.keys, 1, queries=rows.queries, kv_layers=shares.kv_layers
                ),
                *llm.mlp(self.layout, place, rows.keys, 1, through=rows.mlp),
            ]  # fmt: skip
            known = self._layers[key] = self._spent(self._thinned(works))
        return known

    def _output(self, last: float) -> Spent:
        known = self._outputs.get(last)
        if known is None:
            known = self._outputs[last] = self._spent(self._thinned(llm.output(self.layout, last)))
        return known

    def _chunk(self, chunk: Chunk, *, first: bool) -> Spent:
        """Attention of a part of a prompt, and what techniques add; kernels start once for all parts of a step."""
        kind, prompt = chunk.shape, chunk.shape.prompt
        start, end = chunk.start / prompt, min(1.0, (chunk.start + chunk.new) / prompt)
        works: list[Work] = []
        for part in kind.parts:
            share = part.share(start, end)
            for work in part.attention:
                works.append(
                    work if share == 1 else replace(
                        work, flop=work.flop * share, activation_byte=work.activation_byte * (end - start),
                        weight_byte=work.weight_byte * (end - start),
                        kv_byte=work.kv_byte * (end - start) + part.kv_byte * start,
                        kernels=work.kernels if first else 0.0,
                    )
                )  # fmt: skip
        return self._spent(works)

    def _attention(self, decoding: Decoding, rows: float, steps: float, *, alone: bool) -> Spent:
        """Attention of the sequences that decode, at the mean length of their caches over the steps."""
        reads = decoding.reads((steps * decoding.step_token - 1) / 2)
        return self._spent([
            Work(
                "llm.attention", "attention", flop=reads.flop * rows, activation_byte=reads.activation_byte * rows,
                kv_byte=reads.kv_byte, host_byte=reads.host_byte,
                kernels=decoding.attention_kernels if alone else 0.0, shards=decoding.attention_shards,
            )
        ])  # fmt: skip

    def _extra(self, stage: str, kinds: Mapping[Shape, int]) -> Spent:
        """What techniques add to a step. Their kernels start once for all requests, but for those of techniques that
        take one request after the other.
        """
        works: list[Work] = []
        for kind, number in kinds.items():
            extras, state = kind.extras[stage], kind.state
            if extras:
                shared = not works
                own = replace(self.layout, batch=number)
                made = llm.extras(own, state.encoded, state.prefilled, stage, extras)
                works += [
                    work if shared or extra.serial else replace(work, kernels=0.0)
                    for extra, work in zip(extras, made, strict=True)
                ]
                works += HostPace(own).steps_of(extras)
        return self._spent(works) if works else NOTHING

    def _thinned(self, works: Iterable[Work]) -> Iterable[Work]:
        weights = self._shares.weights
        if weights == 1:
            return works
        return [
            replace(work, flop=work.flop * weights, weight_byte=work.weight_byte * weights)
            if work.kind == "linear" else work
            for work in works
        ]  # fmt: skip

    def _spent(self, works: Iterable[Work]) -> Spent:
        return spent(self.walls, works)


def _plus(one: Rows, two: Rows) -> Rows:
    return Rows(one.keys + two.keys, one.queries + two.queries, one.mlp + two.mlp)
