"""Requests drawn from a published distribution of lengths and images."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lvlm_atlas.roofline.workload import Image, Workload
from lvlm_atlas.schema.traffic import Sort, Traffic
from lvlm_atlas.serving.traffic import Arrival


@dataclass(frozen=True, slots=True)
class Lengths:
    """Requests as a source counted them. The same seed gives the same ones."""

    record: Traffic
    image: Image
    """Size of the images, which sources do not give."""
    seed: int = 0

    def draws(self) -> Iterator[Arrival]:
        """Requests without end, their times still open."""
        source = random.Random(f"{self.record.id} {self.seed}")  # noqa: S311
        sorts = self.record.sorts
        weights = [each.share for each in sorts]
        while True:
            yield Arrival(0.0, self._drawn(source.choices(sorts, weights)[0], source))

    def kinds(self) -> list[Workload]:
        """A request of each sort with and without images, of medium length."""
        return [
            self._request(sort, count, at(sort.text_tokens, 50), at(sort.output_tokens, 50))
            for sort in self.record.sorts
            for count in {bool(each): each for each, _ in sort.images or ((0, 1),)}.values()
        ]

    def _drawn(self, sort: Sort, source: random.Random) -> Workload:
        counts = [count for count, _ in sort.images] or [0]
        count = source.choices(counts, [share for _, share in sort.images] or [1])[0]
        text, output = (at(each, 100 * source.random()) for each in (sort.text_tokens, sort.output_tokens))
        return self._request(sort, count, text, output)

    def _request(self, sort: Sort, count: int, text: float, output: float) -> Workload:
        images = (replace(self.image, count=count),) if count else ()
        least = 0 if count else 1
        return Workload(
            id=f"{self.record.id} {sort.name}", images=images, text_tokens=max(least, round(text)),
            output_tokens=max(1, round(output)),
        )  # fmt: skip


def at(quantiles: Sequence[tuple[float, int]], percent: float) -> float:
    """The length that so many per cent do not exceed; straight lines between those that are known."""
    index = max(1, bisect_left([each for each, _ in quantiles], percent))
    (low, fewer), (high, more) = quantiles[index - 1 : index + 1]
    return fewer + (more - fewer) * (percent - low) / (high - low)
