"""What a mean of function values can be, where only the mean of the arguments is known."""

from __future__ import annotations

from collections.abc import Sequence


def envelope(values: Sequence[float], mean: float, *, upper: bool) -> float:
    """The least or the greatest mean of `values` at whole places whose own mean is `mean`.

    Any mean of points lies in their convex hull; this is where the hull begins or ends above the place.

    Args:
        values: one at each place 0, 1, …
        mean: from 0 to the last place.
        upper: the greatest, else the least.
    """
    sign = -1 if upper else 1
    hull: list[tuple[int, float]] = []
    for point in ((place, sign * value) for place, value in enumerate(values)):
        while len(hull) > 1 and _turns_down(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    right = next(i for i, (place, _) in enumerate(hull) if place >= mean)
    (x1, y1), (x2, y2) = hull[max(0, right - 1)], hull[right]
    return sign * (y2 if x1 == x2 else y1 + (y2 - y1) * (mean - x1) / (x2 - x1))


def _turns_down(first: tuple[int, float], middle: tuple[int, float], last: tuple[int, float]) -> bool:
    """Whether the middle point lies on or above the line from the first to the last."""
    rise = (last[1] - first[1]) * (middle[0] - first[0])
    return (middle[1] - first[1]) * (last[0] - first[0]) >= rise
