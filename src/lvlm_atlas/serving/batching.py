"""What a step does beside decoding: which images are encoded, and which parts of prompts are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from lvlm_atlas.serving.policy import Policy
from lvlm_atlas.serving.request import Request


class Batch(NamedTuple):
    """What a step does beside decoding."""

    images: list[tuple[Request, int]]
    """Images to encode, each as the request and its index."""
    chunks: list[tuple[Request, int]]
    """Parts of prompts to read: the request, and how many positions."""


def images(policy: Policy, queue: deque[tuple[Request, int]]) -> Batch:
    """The next images of an instance that reads no prompts."""
    if policy.shortest_first and len(queue) > 1:
        ahead = sorted(queue, key=lambda each: each[0].pending)
        queue.clear()
        queue.extend(ahead)
    taken: list[tuple[Request, int]] = []
    frames = 0
    while queue and (not taken or frames + _frames(queue[0]) <= policy.image_batch):
        frames += _frames(queue[0])
        taken.append(queue.popleft())
    return Batch(taken, [])


def _frames(item: tuple[Request, int]) -> int:
    request, index = item
    return request.frames[index]


def prompts(
    policy: Policy, filling: list[Request], waiting: deque[Request], *, rows: float, encodes: bool,
    admit: Callable[[Request], bool],
) -> Batch:  # fmt: skip
    """The next parts of prompts: those under way first, then those that wait, in order of arrival.

    A prompt is read up to its first image without embeddings. Where the instance encodes too, it does so first, as far
    as this step's tokens reach; where it encodes and reads at once, the images are there for the next step.

    Args:
        policy: the rules.
        filling: requests under way; those that are let in join them.
        waiting: requests that wait; those that are let in leave.
        rows: tokens of the step that sequences in decoding take.
        encodes: whether images of these requests are encoded in the step.
        admit: sets room aside for a request, if there is any.
    """
    budget = policy.token_budget - rows
    vision = float(policy.token_budget if policy.encoder_budget is None else policy.encoder_budget)
    batch = Batch([], [])
    for request in _under_way(filling, waiting, admit):
        if encodes and request.pending:
            vision = _encode(batch, request, budget, vision, at_once=policy.sharing == "together")
        new = min(request.readable - request.computed, int(budget))
        if not policy.chunked and new < request.unread:
            if batch.chunks or request.readable < request.shape.prompt:
                break
            new = request.unread  # a prompt longer than the budget is read alone
        if new > 0:
            batch.chunks.append((request, new))
            budget -= new
        if budget <= 0:
            break
    return batch


def _under_way(filling: list[Request], waiting: deque[Request], admit: Callable[[Request], bool]) -> Iterator[Request]:
    yield from tuple(filling)
    while waiting and admit(waiting[0]):
        filling.append(waiting.popleft())
        yield filling[-1]


def _encode(batch: Batch, request: Request, budget: float, vision: float, *, at_once: bool) -> float:
    """Encode the images that a step's tokens reach. What is left of the budget of vision tokens."""
    before, reached = 0, request.computed + budget
    for index, frames in enumerate(request.frames):
        start, tokens = request.lead + request.upto(before), request.upto(frames)
        before += frames
        if request.ready[index]:
            continue
        if start >= reached or (tokens > vision and batch.images):
            break
        vision -= tokens
        batch.images.append((request, index))
        request.ready[index] = not at_once
        request.pending -= 1
    return vision
