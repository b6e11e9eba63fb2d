"""The page of plots: gain against risk, the first token against images, when a small cache pays, stages that move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.risk import risk
from lvlm_atlas.roofline import units
from lvlm_atlas.roofline.deployment import PRESETS, Deployment
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.site.content import FULL_WIDTH, Content, Page
from lvlm_atlas.site.estimates import REFERENCE
from lvlm_atlas.site.lines_svg import Axis, Curve, lines
from lvlm_atlas.site.risk_svg import Placed, risk_plot
from lvlm_atlas.site.roofline_svg import stages
from lvlm_atlas.site.routes import FIXED
from lvlm_atlas.site.svg import Href, stage_number
from lvlm_atlas.specs.request import request
from lvlm_atlas.specs.stack import stacked

IMAGES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (1_000, 4_000, 16_000, 64_000, 128_000)
"""Text tokens of a prompt."""
BATCHES = (1, 8, 32)
SMALL_CACHE = "kivi"
"""The technique of which the page shows when it begins to pay."""
CHAT = "single-image-chat"


@dataclass(frozen=True)
class Plots:
    """The plots of an atlas, from the model and the device of reference."""

    content: Content

    def page(self) -> Iterator[Page]:
        """The page; none where the atlas lacks the request of reference."""
        if not self.content.estimates.holds(REFERENCE):
            return
        alone = dict(sorted(self._alone().items(), key=lambda pair: pair[1].total_s))
        best = self._best(alone)
        yield Page(
            path=FIXED["plots"], title="Plots", template="plots.md.j2", hide=FULL_WIDTH,
            description="Gain against risk, the first token against images, when a small cache pays, stages that move.",
            context={
                "plain": self._of(self._asked()), "moved": self._moved(best), "best": best,
                "alone": alone, "roof": self._roof(best), "images": self._images(alone),
                "cache": self._cache(), "risks": lambda href: self._risks(alone, href), "case": REFERENCE,
            },
        )  # fmt: skip

    def _asked(self) -> Workload:
        return self.content.estimates.workloads[REFERENCE.workload]

    def _of(self, workload: Workload, *stack: str) -> Estimate:
        estimates = self.content.estimates
        model, device = estimates.models[REFERENCE.model], estimates.devices[REFERENCE.device]
        ready = stacked(self.content.kb, stack, model, workload) if stack else ()
        return estimate(model, device, workload, Deployment(efficiency=PRESETS[REFERENCE.efficiency]), ready)

    def _alone(self) -> dict[str, Estimate]:
        """The techniques that the request of reference can have, baselines left out, each alone."""
        alone = {}
        for technique in self.content.techniques:
            if not self.content.atlas.is_baseline(technique):
                try:
                    alone[technique.id] = self._of(self._asked(), technique.id)
                except AtlasError:
                    continue
        return alone

    def _best(self, alone: dict[str, Estimate]) -> list[str]:
        """Of each stage the technique that helps the whole request most, as far as they are known to work together."""
        techniques, chosen = self.content.atlas.techniques, list[str]()
        for stage in self.content.atlas.terms("stage"):
            for id_ in alone:
                if techniques[id_].stage == stage.id and all(
                    self.content.kb.relation(id_, other).value == "works" for other in chosen
                ):
                    chosen.append(id_)
                    break
        return chosen

    def _moved(self, best: list[str]) -> Estimate | None:
        return self._of(self._asked(), *best) if best else None

    def _roof(self, best: list[str]) -> Markup:
        moved = self._moved(best)
        if moved is None:
            return Markup()
        return stages(moved, self.content.stage_classes, id_="la-moved", without=self._of(self._asked()))

    def _images(self, alone: dict[str, Estimate]) -> Markup:
        """Time to the first token as images are added: without techniques, and with the best of each stage for it."""
        quickest = sorted(alone, key=lambda id_: (alone[id_].ttft_s, id_))
        techniques, plain = self.content.atlas.techniques, self._of(self._asked()).ttft_s
        shown: dict[str, str] = {}
        for id_ in quickest:
            if alone[id_].ttft_s < 0.99 * plain:
                shown.setdefault(techniques[id_].stage, id_)
        curves = [self._curve("no technique", (), "la-k3")]
        for stage, id_ in shown.items():
            name, colour = techniques[id_].name, stage_number(self.content.atlas, stage) - 1
            curves.append(self._curve(name, (id_,), f"la-k{colour}"))
        values = [value for curve in curves for _, value in curve.points]
        return lines(
            curves, Axis("images in the request", units.number, tuple(map(float, IMAGES))),
            Axis("time to the first token", units.seconds, _decades(min(values), max(values))), id_="la-images",
            title="Time to the first token against images", desc="Predicted; the command below gives each number.",
        )  # fmt: skip

    def _curve(self, name: str, stack: tuple[str, ...], class_: str) -> Curve:
        points = [(float(n), self._of(request(self._asked(), count=n), *stack).ttft_s) for n in IMAGES]
        return Curve(name, tuple(points), class_)

    def _cache(self) -> Markup:
        """What a small cache gains per token as the context grows, for several batches."""
        content = self.content
        if SMALL_CACHE not in content.atlas.techniques or CHAT not in content.estimates.workloads:
            return Markup()
        base, curves = content.estimates.workloads[CHAT], []
        for number, batch in enumerate(BATCHES):
            points = []
            for text in CONTEXTS:
                asked = request(base, text=text, batch=batch)
                points.append((float(text), self._of(asked).tpot_s / self._of(asked, SMALL_CACHE).tpot_s))
            curves.append(Curve(f"batch {batch}", tuple(points), f"la-k{number}"))
        marks = (1.0, 1.1, 1.5, 2.0, 3.0, 5.0)
        most = max(value for curve in curves for _, value in curve.points)
        return lines(
            curves, Axis("text tokens in the prompt", units.number, tuple(map(float, CONTEXTS))),
            Axis("gain per token", lambda value: f"{value:.2f} ×", tuple(m for m in marks if m <= max(most, 1.1))),
            id_="la-cache", title=f"{content.atlas.techniques[SMALL_CACHE].name} as the context grows",
            desc="How many times less a token takes; predicted.",
        )  # fmt: skip

    def _risks(self, alone: dict[str, Estimate], href: Href) -> Markup:
        plain, techniques = self._of(self._asked()).total_s, self.content.atlas.techniques
        placed = [Placed(id_, plain / each.total_s, risk(techniques[id_])) for id_, each in alone.items()]
        return risk_plot(self.content, placed, href, id_="la-risk") if placed else Markup()


def _decades(low: float, high: float) -> tuple[float, ...]:
    """Round values between two: 1, 2 and 5 of each power of ten."""
    return tuple(value for power in range(-6, 5) for part in (1, 2, 5) if low <= (value := part * 10.0**power) <= high)
