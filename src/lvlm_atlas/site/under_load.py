"""The guide to servers under load: one device or several, together or apart, with techniques or without."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from markupsafe import Markup

from lvlm_atlas.roofline.units import seconds
from lvlm_atlas.site.content import Content, Page
from lvlm_atlas.site.load_svg import key, load_curves
from lvlm_atlas.site.loads import Loads
from lvlm_atlas.site.routes import FIXED
from lvlm_atlas.site.simulations import load_asked


def under_load_page(content: Content) -> Iterator[Page]:
    """The guide; none for a catalog that lacks what it asks about, or without the extra."""
    loads = content.under_load
    if not loads.possible:
        return
    yield Page(
        path=FIXED["under-load"], title="Under load", template="under-load.md",
        description="One device or eight, stages together or apart, techniques or none: servers under load, simulated.",
        context={"loads": loads, "asked": load_asked(), "drawing": partial(_drawing, loads), "key": key,
                 "seconds": seconds},
    )  # fmt: skip


def _drawing(loads: Loads) -> Markup:
    return load_curves(
        loads.curves, id_="load-curves", title="Time to the last token, 90th percentile, over the rate of requests",
        desc="; ".join(
            f"{curve.label}: " + ", ".join(f"{seconds(time)} at {rate:g}" for rate, time in curve.points)
            for curve in loads.curves
        ),
    )  # fmt: skip
