"""Pages of runtimes: what each adds to the bound, where that is from, and how near it comes to published times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.units import seconds, share
from lvlm_atlas.schema.runtime import Runtime
from lvlm_atlas.schema.timing import Timings
from lvlm_atlas.site.content import FULL_WIDTH, Content, Page
from lvlm_atlas.site.estimates import REFERENCE
from lvlm_atlas.site.markup import bare
from lvlm_atlas.site.routes import FIXED
from lvlm_atlas.specs.runtime import runtime_spec
from lvlm_atlas.specs.timing import Timing, timing

_HOST = {
    "request_ms": ("a request", 1e3), "image_ms": ("an image or frame", 1e3), "megapixel_ms": ("a megapixel", 1e3),
    "step_ms": ("a pass of the LLM", 1e3), "layer_us": ("an LLM layer", 1e6),
    "prompt_layer_us": ("an LLM layer of a prompt, on top", 1e6),
    "encoder_layer_us": ("an encoder layer", 1e6), "narrow_layer_us": ("an LLM layer with narrow weights, on top", 1e6),
}  # fmt: skip
"""What the host takes time for, in words, and how many of the field's unit are a second."""


@dataclass(frozen=True)
class Judged:
    """A published time beside what the engine says."""

    timing: Timing
    stated: str
    predicted_s: float
    ideal_s: float


def runtime_pages(content: Content) -> Iterator[Page]:
    """The list of runtimes and a page for each; none for a catalog without runtimes."""
    runtimes = sorted(content.atlas.runtimes.values(), key=lambda each: (each.fit is None, each.name.casefold()))
    if not runtimes:
        return
    yield Page(
        path=FIXED["runtimes"], title="Runtimes", template="runtimes.md.j2", hide=FULL_WIDTH,
        description="What software adds to the bound: kernels, host, and how near predictions come to published times.",
        context={"runtimes": runtimes, "share": share,
                 "estimates": {each.id: _reference(content, each) for each in runtimes}},
    )  # fmt: skip
    for runtime in runtimes:
        yield _runtime_page(content, runtime)


def host_rows(runtime: Runtime) -> list[tuple[str, str]]:
    """What the host takes time for, and how long."""
    given = runtime.host.model_dump(exclude={"starts"}, exclude_none=True)
    return [(_HOST[name][0], seconds(value / _HOST[name][1])) for name, value in given.items()]


def _runtime_page(content: Content, runtime: Runtime) -> Page:
    path = content.routes.path("runtime", runtime.id)
    timings = [each for each in content.atlas.timings.values() if each.runtime == runtime.id]
    return Page(
        path=path, title=runtime.name, template="runtime.md.j2", hide=("toc",), description=bare(runtime.summary),
        context={
            "runtime": runtime,
            "timed": _timed(content, runtime),
            "host": host_rows(_timed(content, runtime)),
            "estimate": _reference(content, runtime),
            "case": REFERENCE,
            "timings": [(each, _judged(content, runtime, each)) for each in timings],
            "share": share,
            "stem": path.rpartition("/")[2].removesuffix(".md"),
            "file": f"catalog/runtimes/{runtime.id}.yaml",
        },
    )  # fmt: skip


def _timed(content: Content, runtime: Runtime) -> Runtime:
    """The runtime whose times it has."""
    return content.atlas.runtimes[runtime.times_of] if runtime.times_of else runtime


def _reference(content: Content, runtime: Runtime) -> Mapping[str, Estimate] | None:
    """The reference request at this runtime and as the bound; None where the catalog lacks it."""
    try:
        bound = content.estimates.of(REFERENCE)
        return {"bound": bound, "runtime": content.estimates.of(replace(REFERENCE, runtime=runtime.id))}
    except (AtlasError, KeyError):
        return None


def _judged(content: Content, runtime: Runtime, record: Timings) -> list[Judged]:
    """The times of a record, those that count for no fit left out."""
    estimates, planner = content.estimates, content.estimates.planner
    spec = runtime_spec(runtime, content.atlas.runtime)
    rows = []
    for point in record.points:
        if point.excluded or point.model not in estimates.models or point.hardware not in estimates.devices:
            continue
        own = timing(point, record.id, estimates.models.__getitem__, estimates.devices.__getitem__, planner.request)
        rows.append(Judged(own, point.stated, own.predicted_s(spec), own.predicted_s(None)))
    return rows
