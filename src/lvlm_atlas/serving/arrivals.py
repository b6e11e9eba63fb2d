"""When requests arrive: at a rate, evenly, at random or in bursts. The same seed gives the same times."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from lvlm_atlas.fault import AtlasError


def arrivals(rate: float, *, burstiness: float = 1.0, seed: int = 0) -> Iterator[float]:
    """Seconds at which requests arrive, without end.

    Times between them are gamma distributed, as in vLLM's benchmark: with a burstiness of 1 that is a Poisson process,
    below 1 requests come in bursts, above more evenly; 0 stands for no randomness at all. Times scale with the rate:
    the same seed gives the same pattern at each.

    Args:
        rate: requests a second on average; infinite: all at once.
        burstiness: squared mean over variance of the times between requests; 0: they are all alike.
        seed: of the random numbers.

    Raises:
        AtlasError: the rate or the burstiness is no such number.
    """
    if not rate > 0:
        raise AtlasError(f"the rate is {rate!r}; give requests a second, above 0")
    if not (0 <= burstiness <= 1e6):
        raise AtlasError(f"burstiness is {burstiness!r}; give a number from 0 (even) over 1 (Poisson) to 1e6")
    return _times(rate, burstiness, random.Random(f"arrivals {seed}"))  # noqa: S311


def _times(rate: float, burstiness: float, source: random.Random) -> Iterator[float]:
    now = 0.0
    while True:
        if math.isinf(rate):
            yield 0.0
            continue
        if burstiness == 0:
            gap = 1.0
        elif burstiness == 1:
            gap = source.expovariate(1.0)
        else:
            gap = source.gammavariate(burstiness, 1 / burstiness)
        now += gap / rate
        yield now
