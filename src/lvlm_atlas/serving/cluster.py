"""A server of several pools: requests are handed from stage to stage over links, and leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.serving.batching import Batch
from lvlm_atlas.serving.budgets import profiled
from lvlm_atlas.serving.instance import Instance
from lvlm_atlas.serving.memory import BLOCK, Embeddings, Memory, room_byte
from lvlm_atlas.serving.policy import Policy
from lvlm_atlas.serving.prices import Prices
from lvlm_atlas.serving.request import Request
from lvlm_atlas.serving.spent import Slice
from lvlm_atlas.serving.tally import Tally
from lvlm_atlas.serving.wires import Link, Wires

if TYPE_CHECKING:
    import simpy


class Cluster:
    """The pools of a server.

    Args:
        env: the simulation's clock.
        policy: how it is laid out.
        prices: times of batches of one instance.
        wires: links and host.
        tally: what is counted.
    """

    def __init__(self, env: simpy.Environment, policy: Policy, prices: Prices, wires: Wires, tally: Tally) -> None:
        self.env, self.policy, self.prices, self.tally = env, policy, prices, tally
        self._budgets: dict[int, Policy] = {}
        self._sliced = cache(lambda whole, part: whole.sliced(Slice(part)))
        self._turns: dict[tuple[int, str], int] = {}
        self.offers: list[deque[tuple[Request, Instance | None, float]]] = [deque() for _ in policy.pools]
        """Requests that wait to be taken on by a pool, where they come from, and what is to be moved."""
        self.embeddings: dict[int, Embeddings] = {}
        self.pools = [
            [self._instance(index, number) for number in range(pool.instances)]
            for index, pool in enumerate(policy.pools)
        ]
        self.instances = [each for pool in self.pools for each in pool]
        if policy.routing == "shared":
            for pool in self.pools:
                for each in pool[1:]:
                    each.waiting, each.to_encode = pool[0].waiting, pool[0].to_encode
        self._links = {id(each): Link(env, wires) for each in self.instances}
        self.coming = self.open = True
        """Whether requests may still come, or are under way."""
        self.vacancy = env.event()
        """The next request that leaves."""
        self.moves = 0
        """Instances that have changed their pool."""
        self.past_busy_s = [dict.fromkeys(STAGES, 0.0) for _ in policy.pools]
        """Time in steps of instances that have left each pool, by what they were for."""
        self.past_s = [0.0] * len(policy.pools)
        """Time that these were in it."""
        if policy.sharing == "sliced":
            for one, two in zip(self.pools[0], self.pools[-1], strict=True):
                one.partner, two.partner = two, one

    def _instance(self, index: int, number: int) -> Instance:
        policy, pool = self.policy, self.policy.pools[index]
        every = policy.sharing == "sliced" or policy.scaling != "fixed"
        stages = frozenset().union(*(each.stages for each in policy.pools)) if every else pool.stages
        prices = self.prices.spread(pool.devices)
        room = room_byte(prices, stages, policy.token_budget, pool.name)
        plain = self.prices.text
        memory = Memory(room, BLOCK * plain.prompt_byte / plain.prompt, prefixes=policy.prefix_cache)
        share = policy.encoder_share if "encoding" in pool.stages else 1 - policy.encoder_share
        sliced = partial(self._sliced, prices)
        if policy.profiled:
            policy = self._budgets[index] = self._budgets.get(index) or profiled(policy, pool, prices, policy.tpot_s)
        if policy.embedding_cache and "encoding" in pool.stages:
            self.embeddings.setdefault(index, Embeddings(room * policy.embedding_share))
        return Instance(self.env, self, f"{pool.name} {number + 1}", pool, policy, (prices, sliced, share), memory)

    def enqueue(self, request: Request, instance: Instance) -> None:
        """A request waits at an instance, or for the first that is free."""
        instance.waiting.append(request)
        if self.policy.routing == "shared":
            for each in self.pools[self.policy.pools.index(instance.pool)]:
                each.nudge()
        else:
            instance.nudge()

    def choose(self, pool: int, what: str) -> Instance:
        """The instance that gets the next of what comes."""
        open_ = [each for each in self.pools[pool] if not each.leaving] or self.pools[pool]
        turn = self._turns.get((pool, what), 0)
        self._turns[pool, what] = turn + 1
        if len(open_) == 1:
            return open_[0]
        if self.policy.routing == "in-turn":
            return open_[turn % len(open_)]
        order = open_[turn % len(open_) :] + open_[: turn % len(open_)]
        return min(order, key=lambda each: each.load)

    # From stage to stage

    def encoded(self, request: Request, index: int, instance: Instance) -> None:
        """An image has been encoded."""
        kept, named = self.embeddings.get(self.policy.of("encoding", request.modality)), request.arrival.images
        byte = request.shape.embedding_byte * request.frames[index] / request.shape.frames
        if kept and named:
            kept.keep(named[index], byte)
        if instance.reads:
            return
        request.pending -= 1
        if self.policy.overlap:
            self.env.process(self.embed(request, [index]))
        elif not request.pending:
            request.ready = [True] * len(request.frames)
            reader = self.policy.of("prefilling", request.modality)
            self.offer(reader, request, None, request.shape.embedding_byte)

    def embed(self, request: Request, indices: list[int]) -> Generator[Any, Any, None]:
        """Embeddings go to where the prompt is read."""
        share = sum(request.frames[index] for index in indices) / request.shape.frames
        yield from self._send(request.instance, request.shape.embedding_byte * share)
        for index in indices:
            request.ready[index] = True
        request.instance.nudge()

    def read(self, request: Request, instance: Instance) -> None:
        """A prompt has been read, and the first token is there."""
        if request.first_s is None:
            request.first_s = self.env.now
        if request.shape.output <= 1:
            self._leave(request, instance)
            return
        decoder = self.policy.of("decoding", request.modality)
        if self.policy.pools[decoder] is instance.pool:
            instance.seat(request)
        else:
            self.offer(decoder, request, instance, request.shape.prompt_byte)

    def offer(self, pool: int, request: Request, source: Instance | None, byte: float) -> None:
        """A pool is to take a request on: the first of its instances that has room does."""
        self.offers[pool].append((request, source, byte))
        self.take(pool)

    def take(self, pool: int) -> None:
        """Instances of a pool take on what waits for it, as long as they have room."""
        offers = self.offers[pool]
        while offers:
            request, source, byte = offers[0]
            held, pinned = request.held_byte, request.pinned
            taker = next((each for each in sorted(self.pools[pool], key=lambda e: e.load) if each.admit(request)), None)
            if taker is None:
                for each in self.pools[pool]:
                    each.cut_short()  # some of its room may be set aside for steps that are still to come
                return
            offers.popleft()
            taker.coming += 1
            self.env.process(self._move(request, source, taker, byte, held, pinned))

    def _move(
        self, request: Request, source: Instance | None, taker: Instance, byte: float, held: float, pinned: list[int]
    ) -> Generator[Any, Any, None]:
        yield from self._send(taker, byte)
        taker.coming -= 1
        if source is not None:
            source.memory.give(held)
            source.memory.unpin(pinned)
            self.freed(source)
            source.nudge()
        if taker.reads and request.unread:
            taker.filling.append(request)
            taker.nudge()
        else:
            taker.seat(request)

    def _send(self, target: Instance, byte: float) -> Generator[Any, Any, None]:
        """Move bytes to an instance, unless it is on the same devices."""
        if self.policy.sharing != "sliced":
            sent = yield from self._links[id(target)].send(byte)
            self.tally.moved(sent)

    def answered(self, request: Request, instance: Instance) -> None:
        """An answer is complete."""
        self._leave(request, instance)

    def _leave(self, request: Request, instance: Instance) -> None:
        instance.release(request)
        self.tally.left(request, self.env.now)
        self.open = self.coming or self.tally.present > 0
        vacancy, self.vacancy = self.vacancy, self.env.event()
        vacancy.succeed()

    def freed(self, instance: Instance) -> None:
        """There may be room for another."""
        index = self.policy.pools.index(instance.pool)
        if self.offers[index]:
            self.take(index)

    def span(self, instance: Instance, start_s: float, batch: Batch, decoding: int) -> None:
        """A step, or several alike, have been taken."""
        self.tally.step(instance.name, start_s, self.env.now, batch, decoding)
