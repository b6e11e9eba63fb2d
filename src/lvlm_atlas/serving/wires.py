"""What joins the instances of a server, and what stands in front of them."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lvlm_atlas.serving.policy import Policy
from lvlm_atlas.serving.prices import Prices
from lvlm_atlas.serving.shape import Shape

if TYPE_CHECKING:
    import simpy


@dataclass(frozen=True, slots=True, kw_only=True)
class Wires:
    """Links of a server, and its host."""

    byte_s: float = math.inf
    """Bandwidth into an instance."""
    latency_s: float = 0.0
    """Time of a transfer beside its bytes."""
    host_image_s: float = 0.0
    """Time in which the host prepares an image or frame, beside that of the runtime."""
    host_workers: int = 8
    """Requests or images that a front process has in preparation at once; vLLM loads media in 8 threads of each
    (docs/configuration/optimization.md)."""


class Front:
    """Processes that take requests in and prepare their images.

    Each has several images or requests in preparation at once, but makes the encoder's input for one at a time
    (`Policy.front_megapixel_ms`).

    Args:
        env: the simulation's clock.
        policy: how many processes there are, and what of their time is serial.
        prices: what the host takes for a request.
        wires: how many a process prepares at once.
    """

    def __init__(self, env: simpy.Environment, policy: Policy, prices: Prices, wires: Wires) -> None:
        import simpy  # noqa: PLC0415  an extra

        processes = 1 if policy.front == "one" else policy.encoders
        self.env, self.prices, self.image_s = env, prices, wires.host_image_s
        self.serial_megapixel_s = policy.front_megapixel_ms / 1e3
        self._threads = simpy.Resource(env, wires.host_workers * processes)
        self._worker = simpy.Resource(env, processes)

    def waits(self, shape: Shape) -> bool:
        """Whether a request takes time here, or others are in front of it."""
        busy = self._threads.queue or self._worker.count
        return bool(busy or self.prices.prepare_s(shape) or (shape.frames and self.image_s))

    def prepare(self, shape: Shape, frames: int, *, whole: bool = True) -> Generator[Any, Any, None]:
        """Prepare so many of a request's frames, one after the other; of a whole request, take it in first."""
        share = frames / shape.frames if frames else 0.0
        images_s = share * self.prices.images_s(shape) + frames * self.image_s
        serial_s = min(images_s, share * self.prices.megapixels(shape) * self.serial_megapixel_s)
        taken_s = self.prices.prepare_s(shape) - self.prices.images_s(shape) if whole else 0.0
        with self._threads.request() as thread:
            yield thread
            if taken_s + images_s > serial_s:
                yield self.env.timeout(taken_s + images_s - serial_s)
            with self._worker.request() as turn:
                yield turn
                yield self.env.timeout(serial_s)


class Link:
    """The way into an instance: one transfer at a time."""

    def __init__(self, env: simpy.Environment, wires: Wires) -> None:
        import simpy  # noqa: PLC0415  an extra

        self.env, self.wires = env, wires
        self._way = simpy.Resource(env, 1)

    def send(self, byte: float) -> Generator[Any, Any, float]:
        """Move bytes there; those that took time are returned."""
        time_s = self.wires.latency_s + byte / self.wires.byte_s if byte else 0.0
        if not time_s:
            return 0.0
        with self._way.request() as turn:
            yield turn
            yield self.env.timeout(time_s)
        return byte
