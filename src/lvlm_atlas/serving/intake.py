"""How requests get in: a front process prepares them, and they go to encoders or to where prompts are read."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import count
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.units import size
from lvlm_atlas.serving.cluster import Cluster
from lvlm_atlas.serving.request import Request
from lvlm_atlas.serving.traffic import Arrival, visuals
from lvlm_atlas.serving.wires import Front


class Intake:
    """The way into a cluster.

    Args:
        cluster: the pools.
        front: the processes in front of them.
    """

    def __init__(self, cluster: Cluster, front: Front) -> None:
        self.cluster, self.front, self.policy = cluster, front, cluster.policy
        self._keys = count()

    def arrive(self, arrival: Arrival) -> None:
        """A request comes in.

        Raises:
            AtlasError: no instance has room for its cache.
        """
        shape = self.cluster.prices.shape(arrival.workload)
        request = Request(next(self._keys), self.cluster.env.now, arrival, shape, visuals_of(shape.frames, arrival))
        reading = self.policy.of("decoding", request.modality)
        room = self.cluster.pools[reading][0].memory.room
        need = request.whole_byte + 2 * self.cluster.pools[reading][0].memory.block_byte
        if need > room:
            raise AtlasError(
                f"a request of {shape.prompt:,} tokens and {shape.output:,} of answer takes {size(need)} of cache, and "
                f"an instance of pool {self.policy.pools[reading].name} has {size(room)}; give --tp more devices or a "
                "shorter request"
            )
        self.cluster.tally.arrived(self.cluster.env.now)
        if self.front.waits(shape):
            self.cluster.env.process(self._take_in(request))
        else:
            self._dispatch(request)

    def _apart(self, request: Request) -> bool:
        """Whether its images go to several encoders, each of which prepares what it gets."""
        modality = request.modality
        encoder, reader = (self.policy.of(stage, modality) for stage in ("encoding", "prefilling"))
        return self.policy.spread_images and encoder != reader

    def _take_in(self, request: Request) -> Generator[Any, Any, None]:
        """A front process takes a request in, and prepares its images unless encoders do."""
        frames = 0 if request.frames and self._apart(request) else sum(request.frames)
        yield from self.front.prepare(request.shape, frames)
        self._dispatch(request)

    def _dispatch(self, request: Request) -> None:
        modality = request.modality
        reader = self.policy.of("prefilling", modality)
        encoder = self.policy.of("encoding", modality) if request.frames else reader
        missing = self._missing(request, encoder)
        apart = encoder != reader
        if not apart:
            for index in range(len(request.frames)):
                if index not in missing:
                    request.ready[index] = True
            request.pending = len(missing)
        if apart and (missing or self.policy.overlap) and request.frames:
            request.pending = len(missing)
            if self.policy.overlap:
                request.instance = self.cluster.choose(reader, "prompt")
                self.cluster.enqueue(request, request.instance)
            self._to_encoders(request, encoder, missing)
            for index in range(len(request.frames)):
                if index not in missing and self.policy.overlap:
                    self.cluster.env.process(self.cluster.embed(request, [index]))
        elif apart:
            request.ready, request.pending = [True] * len(request.frames), 0
            self.cluster.offer(reader, request, None, request.shape.embedding_byte if request.frames else 0.0)
        else:
            self.cluster.enqueue(request, self.cluster.choose(reader, "prompt"))

    def _missing(self, request: Request, encoder: int) -> list[int]:
        """Images whose embeddings are nowhere."""
        kept, named = self.cluster.embeddings.get(encoder), request.arrival.images
        if kept is None or not named:
            return [*range(len(request.frames))]
        return [index for index in range(len(request.frames)) if not kept.has(named[index])]

    def _to_encoders(self, request: Request, pool: int, indices: Iterable[int]) -> None:
        target = None
        prepared = self._apart(request) and self.front.waits(request.shape)
        for index in indices:
            if prepared:
                self.cluster.env.process(self._prepare(request, index, pool))
                continue
            if target is None or self.policy.spread_images:
                target = self.cluster.choose(pool, "image")
            target.to_encode.append((request, index))
        for each in self.cluster.pools[pool]:
            each.nudge()

    def _prepare(self, request: Request, index: int, pool: int) -> Generator[Any, Any, None]:
        """An image is prepared by itself, and then waits for an encoder."""
        yield from self.front.prepare(request.shape, request.frames[index], whole=False)
        target = self.cluster.choose(pool, "image")
        target.to_encode.append((request, index))
        for each in self.cluster.pools[pool]:
            each.nudge()


def visuals_of(total: int, arrival: Arrival) -> tuple[int, ...]:
    """Frames of each image or video; all of them together where a technique chooses among them."""
    videos = arrival.workload.videos
    number = visuals(arrival.workload)
    if not total:
        return ()
    if total == number:
        return (1,) * number
    if len(videos) and total % len(videos) == 0 and not arrival.workload.images:
        return (total // len(videos),) * len(videos)
    return (total,)
