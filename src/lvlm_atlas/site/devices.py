"""Pages of devices: their walls, where those meet, and which models they hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from markupsafe import Markup

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline import units
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.schema.hardware import Hardware
from lvlm_atlas.site.bars import Bar, Part, bars
from lvlm_atlas.site.content import FULL_WIDTH, Content, Page
from lvlm_atlas.site.estimates import REFERENCE, Case
from lvlm_atlas.site.roofline_svg import stages
from lvlm_atlas.site.routes import FIXED
from lvlm_atlas.site.svg import Href


@dataclass(frozen=True)
class Fit:
    """Whether a device holds a model with the reference request."""

    model: str
    """Its id."""
    estimate: Estimate
    """Of the request, for its bytes: they are the same on every device."""
    devices: int | None
    """How many devices hold it, with what servers need besides; None: more than pages try."""


def device_pages(content: Content) -> Iterator[Page]:
    """The list of devices and a page for each."""
    devices = sorted(content.atlas.hardware.values(), key=lambda each: (-each.bandwidth_gb_s, each.id))
    yield Page(
        path=FIXED["devices"], title="Devices", template="devices.md.j2", hide=FULL_WIDTH,
        description="Accelerators: peaks, bandwidth, capacity, and the ridge between compute and memory.",
        context={"devices": devices, "ridges": {each.id: ridge(content.estimates.devices[each.id]) for each in devices},
                 "overview": lambda href: overview(content, href)},
    )  # fmt: skip
    for device in devices:
        yield _device_page(content, device)


def _device_page(content: Content, record: Hardware) -> Page:
    case = replace(REFERENCE, device=record.id)
    device = content.estimates.devices[record.id]
    estimate, why_not = _reference(content, case)
    path = content.routes.path("device", record.id)
    return Page(
        path=path, title=record.name, template="device.md.j2", hide=("toc",),
        description=f"{record.name}: peaks, bandwidth, capacity, ridge, and the models that fit.",
        context={
            "record": record,
            "device": device,
            "peaks": [(dtype, peak, peak / device.bandwidth_byte_s) for dtype, peak in device.peak_flop_s.items()],
            "case": case,
            "estimate": estimate,
            "typical": content.estimates.of(replace(case, efficiency="typical")) if estimate else None,
            "why_not": why_not,
            "roof": stages(estimate, content.stage_classes, id_="la-roofline") if estimate else Markup(),
            "fits": fits(content, record.id),
            "stem": path.rpartition("/")[2].removesuffix(".md"),
            "file": f"catalog/hardware/{record.id}.yaml",
        },
    )  # fmt: skip


def _reference(content: Content, case: Case) -> tuple[Estimate | None, str]:
    if not content.estimates.holds(case):
        return None, "the catalog lacks the reference model or workload"
    try:
        return content.estimates.of(case), ""
    except AtlasError as error:
        return None, str(error).partition(";")[0]


def fits(content: Content, device: str) -> tuple[Fit, ...]:
    """Every model that can take the reference request, smallest first, and how many devices hold it."""
    models = []
    for model in content.estimates.models:
        case = replace(REFERENCE, model=model)
        if not content.estimates.holds(case):
            continue
        estimate, _ = _reference(content, case)
        if estimate:
            smallest = content.estimates.smallest(replace(case, device=device))
            models.append(Fit(model, estimate, smallest.devices if smallest else None))
    return tuple(models)


def ridge(device: Device) -> float | None:
    """FLOP per byte where the walls meet, for 16 bits; None if the device has no such rate."""
    for dtype in ("bf16", "fp16"):
        if dtype in device.peak_flop_s:
            return device.ridge(dtype)
    return None


def overview(content: Content, href: Href) -> Markup:
    """The ridges of all devices; empty without devices."""
    ridges = {id_: at for id_, device in content.estimates.devices.items() if (at := ridge(device))}
    rows = [
        Bar(content.atlas.hardware[id_].name, (Part(at, "la-s4"),), units.number(at), href("device", id_))
        for id_, at in sorted(ridges.items(), key=lambda item: -item[1])
    ]
    return bars(
        rows, id_="la-devices", title="Where the walls meet, device by device",
        desc="FLOP per byte at which compute takes over from memory, in 16 bits. The table has the numbers.",
    ) if rows else Markup()  # fmt: skip
