"""Answers that an instance writes together, and after which steps each ends."""

from __future__ import annotations

import heapq

from lvlm_atlas.serving.decoding import Decoding
from lvlm_atlas.serving.request import Request

EPSILON = 1e-9
"""Steps; less is rounding."""


class Answers:
    """Sequences that decode, the latest last."""

    def __init__(self) -> None:
        self.running: dict[int, Request] = {}
        self.decoding = Decoding()
        """What a step of all of them reads."""
        self._ends: list[tuple[float, int]] = []
        """Steps after which each sequence ends, since the instance began."""
        self._done = 0.0

    def __len__(self) -> int:
        return len(self.running)

    @property
    def left(self) -> float:
        """Steps to the next end of a sequence."""
        return max(EPSILON, self._ends[0][0] - self._done)

    @property
    def mean_left(self) -> float:
        """Steps to the end of a sequence on average; 0 where there is none."""
        return sum(end - self._done for end, _ in self._ends) / len(self._ends) if self._ends else 0.0

    def add(self, request: Request) -> None:
        """A sequence whose prompt and first token are there."""
        shape = request.shape
        self.running[request.key] = request
        self.decoding.add(request.key, shape, 1.0)
        heapq.heappush(self._ends, (self._done + (shape.output - 1) / shape.step_token, request.key))

    def growth_byte(self, steps: float) -> float:
        """What the caches of all grow by in so many steps."""
        later = self.decoding.reads(steps * self.decoding.step_token).held_byte
        return later - self.decoding.held_byte

    def advance(self, steps: float) -> list[Request]:
        """So many steps are taken; those that are done leave."""
        self._done += steps
        self.decoding.advance(steps * self.decoding.step_token)
        done = []
        while self._ends and self._ends[0][0] <= self._done + EPSILON:
            end, key = heapq.heappop(self._ends)
            request = self.running.pop(key)
            self.decoding.remove(key, request.shape, self._grown(request, end))
            done.append(request)
        return done

    def give_up(self) -> tuple[Request, int]:
        """The latest sequence leaves before its end, with the tokens it has."""
        key, request = next(reversed(self.running.items()))
        end = next(end for end, other in self._ends if other == key)
        grown = self._grown(request, end)
        self._ends.remove((end, key))
        heapq.heapify(self._ends)
        del self.running[key]
        self.decoding.remove(key, request.shape, grown)
        return request, min(round(grown), request.shape.output - 1)

    def _grown(self, request: Request, end: float) -> float:
        return request.shape.output - (end - self._done) * request.shape.step_token
