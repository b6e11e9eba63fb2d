"""One instance of a server: devices that hold weights, take steps, and have room for so many caches."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from lvlm_atlas.serving.answers import EPSILON, Answers
from lvlm_atlas.serving.batching import Batch, images, prompts
from lvlm_atlas.serving.memory import Memory, chain
from lvlm_atlas.serving.policy import Policy, Pool
from lvlm_atlas.serving.prices import Chunk, Prices
from lvlm_atlas.serving.request import Request
from lvlm_atlas.serving.spent import NOTHING, Spent
from lvlm_atlas.serving.vision import Piece

if TYPE_CHECKING:
    import simpy

SLICES = 8
"""Slices of a device's multiprocessors that a cost model hands out."""


class Desk(Protocol):
    """What an instance hands its work to."""

    def encoded(self, request: Request, index: int, instance: Instance) -> None:
        """An image has been encoded."""

    def read(self, request: Request, instance: Instance) -> None:
        """A prompt has been read."""

    def answered(self, request: Request, instance: Instance) -> None:
        """An answer is complete."""

    def freed(self, instance: Instance) -> None:
        """There may be room for another."""

    def span(self, instance: Instance, start_s: float, batch: Batch, decoding: int) -> None:
        """A step, or several alike, have been taken."""


class Instance:
    """An instance of a pool.

    Args:
        env: the simulation's clock.
        desk: what it hands its work to.
        name: what it is called in pictures.
        pool: the pool that it belongs to.
        policy: the rules.
        prices: times of its batches, with the whole device, those with a share of it, and its share.
        memory: the room for caches.
    """

    def __init__(
        self, env: simpy.Environment, desk: Desk, name: str, pool: Pool, policy: Policy,
        prices: tuple[Prices, Callable[[float], Prices], float], memory: Memory,
    ) -> None:  # fmt: skip
        self.env, self.desk, self.name, self.policy = env, desk, name, policy
        self.prices, self._sliced, self.share = prices
        self.memory = memory
        self.partner: Instance | None = None
        """What runs on the other slice of its devices."""
        self.to_encode: deque[tuple[Request, int]] = deque()
        """Images of requests whose prompts are read elsewhere."""
        self.waiting: deque[Request] = deque()
        """Requests whose prompts wait for room."""
        self.filling: list[Request] = []
        """Requests whose prompts are being read."""
        self.answers = Answers()
        """Sequences that decode here."""
        self.coming = 0
        """Requests on their way here, for which room is set aside."""
        self.busy_s = {"encoding": 0.0, "prefilling": 0.0, "decoding": 0.0}
        """Time in steps, by what they were for."""
        self.steps = 0.0
        self.leaving = False
        """Whether it takes on nothing, since it goes to another pool."""
        self.busy = False
        self._wake: Any = None
        self._ahead = False
        """Whether several decoding steps are under way."""
        self.join(pool)
        env.process(self._serve())

    def join(self, pool: Pool) -> None:
        """Become a part of a pool."""
        self.pool, self.leaving, self.joined_s = pool, False, self.env.now
        self.encodes, self.reads = "encoding" in pool.stages, "prefilling" in pool.stages

    @property
    def load(self) -> float:
        """Tokens that it still has to read or encode, and one for each sequence that it decodes."""
        unread = sum(each.unread for each in (*self.waiting, *self.filling))
        seen = sum(request.upto(request.frames[index]) for request, index in self.to_encode)
        return unread + seen + len(self.answers) + self.coming

    @property
    def sequences(self) -> int:
        """Sequences under way here."""
        return len(self.filling) + len(self.answers) + self.coming

    @property
    def idle(self) -> bool:
        """Whether there is nothing here."""
        return not (self.busy or self.to_encode or self.waiting or self.sequences)

    def nudge(self) -> None:
        """Something has come."""
        if self._wake is not None and not self._wake.triggered:
            self._wake.succeed()

    def cut_short(self) -> None:
        """Of several decoding steps, take no more than the one under way."""
        if self._ahead:
            self.nudge()

    def admit(self, request: Request) -> bool:
        """Set room aside for a request's prompt, or for all of its cache where the prompt is read elsewhere."""
        if self.sequences >= self.policy.sequences or self.leaving:
            return False
        shape, memory = request.shape, self.memory
        token_byte = shape.prompt_byte / shape.prompt
        known, pinned = 0, list[int]()
        if self.reads and self.policy.prefix_cache and not request.generated:
            known, pinned = memory.pin(self._chain(request))
            known = min(known, shape.prompt - 1)  # the last position yields the first token
        byte = shape.prompt_byte - known * token_byte if self.reads else request.whole_byte
        byte = memory.blocks(byte) + (memory.block_byte if self.reads else 0.0)  # the next token may need another
        if not memory.take(byte):
            memory.unpin(pinned)
            return False
        request.pinned = pinned
        request.held_byte, request.computed = byte, max(request.computed, known)
        if known:
            self._skip_images(request, known)
        return True

    def _skip_images(self, request: Request, known: int) -> None:
        """Images whose cache is there need no embeddings."""
        before = 0
        for index, frames in enumerate(request.frames):
            before += frames
            if request.lead + request.upto(before) <= known and not request.ready[index]:
                request.ready[index] = True
                request.pending -= 1

    def _chain(self, request: Request) -> list[tuple[int, int]]:
        each = request.shape.vision // len(request.frames) if request.frames else 0
        named = request.arrival.images or ("",) * len(request.frames)
        # Text that is shared stands in front of the images; it is part of the request's text tokens.
        return chain(request.arrival.prefix, [(name, each) for name in named])

    def release(self, request: Request) -> None:
        """A request's cache is no longer needed here."""
        self.memory.give(request.held_byte)
        request.held_byte = 0.0
        self.memory.unpin(request.pinned)
        request.pinned = []
        self.desk.freed(self)

    def seat(self, request: Request) -> None:
        """Decode a request whose prompt and first token are here."""
        self.answers.add(request)
        if self.reads:  # what it holds grows from now on
            self.memory.give(request.held_byte)
            request.held_byte = 0.0
            self._grow()
        self.nudge()

    def _grow(self, ahead: float = 0.0) -> None:
        """What sequences that decode hold, each with a block that is not full; with what so many steps add."""
        if self.reads:
            held = self.answers.decoding.reads(ahead * self.answers.decoding.step_token if ahead else 0.0).held_byte
            self.memory.grow(held + self.answers.decoding.count * self.memory.block_byte)

    def _serve(self) -> Generator[Any, Any, None]:
        """Take steps as long as there is something to do."""
        while True:
            self.desk.freed(self)
            batch = self._batch()
            reads = bool(batch.images or batch.chunks)
            steps = self._steps() if self.policy.mixed or not reads else 0.0
            self._busy(reads or bool(steps))
            if reads:
                yield from self._step(batch, decodes=bool(steps))
            elif steps:
                yield from self._decode(steps)
            else:
                self._wake = self.env.event()
                yield self._wake
                self._wake = None

    def _busy(self, busy: bool) -> None:
        if busy != self.busy:
            self.busy = busy
            if self.partner:
                self.partner.nudge()

    def _now(self, chunks: Sequence[Chunk] = (), *, decodes: bool = False) -> Prices:
        """Times as things are: with a slice of the device only where its other one is in use."""
        if not (self.partner and self.partner.busy):
            return self.prices
        if self.policy.slices_by_cost and self.reads and self.policy.tpot_s:
            self.share = self._least_share(chunks, self.policy.tpot_s, decodes=decodes)
            self.partner.share = 1 - self.share
        return self._sliced(self.share)

    def _least_share(self, chunks: Sequence[Chunk], limit_s: float, *, decodes: bool) -> float:
        """The least share of the multiprocessors with which a step keeps a limit, the largest where none does."""
        decoding = self.answers.decoding if decodes else None
        shares = [eighth / SLICES for eighth in range(1, SLICES)]
        return next(
            (each for each in shares if self._sliced(each).step(chunks, decoding).time_s <= limit_s), shares[-1]
        )

    def _batch(self) -> Batch:
        if self.reads:
            count = self.answers.decoding.count if self.policy.mixed else 0
            rows = count * (1 + self.answers.decoding.draft.nodes) if count else 0.0
            return prompts(
                self.policy, self.filling, self.waiting, rows=rows, encodes=self.encodes, admit=self.admit
            )  # fmt: skip
        return images(self.policy, self.to_encode)

    def _step(self, batch: Batch, *, decodes: bool) -> Generator[Any, Any, None]:
        """Encode, read parts of prompts and decode a token, all in one step."""
        chunks = [Chunk(request.shape, request.computed, new) for request, new in batch.chunks]
        start, prices = self.env.now, self._now(chunks, decodes=decodes)
        vision = self._encode(prices, batch.images)
        language = NOTHING
        if batch.chunks or decodes:
            language = prices.step(chunks, self.answers.decoding if decodes else None)
        if decodes:
            self._grow(1.0)
        together = self.policy.sharing == "together"
        spent = vision.beside(language) if together else vision.time_s + language.time_s
        yield self.env.timeout(spent)
        self.steps += 1
        self.busy_s["encoding"] += spent - language.time_s
        self.busy_s["prefilling" if batch.chunks else "decoding"] += language.time_s
        self.desk.span(self, start, batch, self.answers.decoding.count if decodes else 0)
        for request, index in batch.images:
            request.ready[index] |= self.encodes and self.reads
            self.desk.encoded(request, index, self)
        if decodes:
            self._advance(1.0)
        for request, new in batch.chunks:
            request.computed += new
            if not request.unread:
                self.filling.remove(request)
                if self.policy.prefix_cache and not request.generated:
                    shape = request.shape
                    self.memory.keep(self._chain(request), shape.prompt_byte / shape.prompt)
                self.desk.read(request, self)

    def _encode(self, prices: Prices, items: Iterable[tuple[Request, int]]) -> Spent:
        frames: dict[int, tuple[Request, int]] = {}
        for request, index in items:
            before = frames.get(request.key, (request, 0))[1]
            frames[request.key] = request, before + request.frames[index]
        return prices.encode([Piece(request.shape, count) for request, count in frames.values()])

    def _decode(self, steps: float) -> Generator[Any, Any, None]:
        """Take decoding steps until a sequence ends, room is short, or something comes that can start."""
        start, prices = self.env.now, self._now(decodes=True)
        self._grow(steps)  # nobody else may take that room meanwhile
        total = prices.step((), self.answers.decoding, steps).time_s
        if steps <= 1:
            yield self.env.timeout(total)
        else:
            self._wake, self._ahead = self.env.event(), True
            yield self._wake | self.env.timeout(total)
            self._wake, self._ahead = None, False
            passed = self.env.now - start
            if passed < total:
                steps, total = self._until(prices, passed, steps, total)
                yield self.env.timeout(max(0.0, total - passed))
        self.steps += steps
        self.busy_s["decoding"] += total
        self.desk.span(self, start, Batch([], []), self.answers.decoding.count)
        self._advance(steps)

    def _until(self, prices: Prices, passed: float, steps: float, total: float) -> tuple[float, float]:
        """The first step that ends no earlier, and when it does. Steps grow slowly, so that a guess is near."""
        count = min(steps, max(1.0, math.ceil(steps * passed / total - EPSILON)))
        time_s = prices.step((), self.answers.decoding, count).time_s
        while time_s < passed and count < steps:
            count = min(steps, count + 1)
            time_s = prices.step((), self.answers.decoding, count).time_s
        return count, time_s

    def _steps(self) -> float:
        """Decoding steps to the next end of a sequence, or as many as there is room for. Sequences give way if there is
        room for none.
        """
        while self.answers.decoding.count:
            left = self.answers.left
            slope = self.answers.decoding.growth_byte * self.answers.decoding.step_token if self.reads else 0.0
            room = self.memory.free
            if not self.reads:
                return left
            steps = left if slope <= 0 or room >= slope * left else max(0.0, float(math.floor(room / slope)))
            while steps > 1 and self.answers.growth_byte(steps) > room:  # an uneven cache may grow faster later
                steps = float(math.floor(steps / 2))
            if steps and (steps < 1 or self.answers.growth_byte(steps) <= room):
                return steps
            if not self._preempt():
                return left
        return 0.0

    def _preempt(self) -> bool:
        """The latest sequence gives up its cache; its prompt and what it has answered are read again later."""
        if self.sequences < 2:
            return False
        request, tokens = self.answers.give_up()
        self._grow()
        self.memory.unpin(request.pinned)
        request.pinned, request.computed = [], 0
        request.generated += tokens
        request.preempted += 1
        old = request.shape.workload
        request.shape = self.prices.shape(
            replace(old, text_tokens=old.text_tokens + tokens, output_tokens=max(1, old.output_tokens - tokens))
        )
        self.waiting.appendleft(request)
        return True

    def _advance(self, steps: float) -> None:
        """So many decoding steps are taken."""
        done = self.answers.advance(steps)
        self._grow()
        for request in done:
            self.desk.answered(request, self)
