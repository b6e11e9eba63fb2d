"""The page of workloads: what each standard request is, and what it becomes on the reference model and device."""

from __future__ import annotations

from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.schema.workload import Workload
from lvlm_atlas.site.content import Content, Page
from lvlm_atlas.site.estimates import REFERENCE
from lvlm_atlas.site.models import predictions
from lvlm_atlas.site.routes import FIXED


def workloads_page(content: Content) -> Page:
    """The page."""
    atlas = content.atlas
    rows = predictions(content, REFERENCE) if content.estimates.holds(REFERENCE) else ()
    estimates: dict[str, Estimate | None] = {each.workload: each.bound for each in rows}
    return Page(
        path=FIXED["workloads"],
        title="Workloads",
        template="workloads.md.j2",
        description="The standard requests: images, videos, text and answer of each, and why.",
        context={
            "workloads": [(atlas.workloads[id_], visual(atlas.workloads[id_])) for id_ in content.estimates.workloads],
            "estimates": estimates,
            "case": REFERENCE,
        },
    )


def visual(workload: Workload) -> str:
    """The visual input of a request in words."""
    said = [f"{each.count} × {each.width} × {each.height} pixels" if each.count > 1
            else f"{each.width} × {each.height} pixels" for each in workload.images]  # fmt: skip
    said += [
        f"video of {length(each.duration_s)}, {each.width} × {each.height} pixels, {_often(each.sample_fps)}"
        for each in workload.videos
    ]
    return "; ".join(said)


def length(seconds: float) -> str:
    """A duration as people say it."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def _often(fps: float) -> str:
    return "a frame a second" if fps == 1 else f"{fps:g} frames a second"
