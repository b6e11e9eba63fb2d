"""Pages of models: what they are made of, what pixels become, and what the roofline predicts of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from markupsafe import Markup

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline import units
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.schema.model import Model
from lvlm_atlas.site.bars import Bar, Part, bars
from lvlm_atlas.site.content import FULL_WIDTH, Content, Page
from lvlm_atlas.site.estimates import REFERENCE, Case
from lvlm_atlas.site.roofline_svg import stages
from lvlm_atlas.site.routes import FIXED
from lvlm_atlas.site.svg import Href


@dataclass(frozen=True)
class Prediction:
    """What a workload costs a model."""

    workload: str
    """Its id."""
    bound: Estimate | None = None
    """With ideal kernels; None if the model cannot take the request."""
    typical: Estimate | None = None
    """With the factors that others found."""
    why_not: str = ""
    """Why there are no numbers."""


def model_pages(content: Content) -> Iterator[Page]:
    """The list of models and a page for each."""
    models = [content.atlas.models[id_] for id_ in content.estimates.models]
    cases = {model.id: reference_case(content, model.id) for model in models}
    yield Page(
        path=FIXED["models"], title="Models", template="models.md.j2", hide=FULL_WIDTH,
        description="Vision-language models: parameters, tokens, cache, and predicted times.",
        context={"models": models, "cases": cases, "overview": lambda href: overview(content, cases, href)},
    )  # fmt: skip
    for model in models:
        yield _model_page(content, model, cases[model.id])


def reference_case(content: Content, model: str) -> Case | None:
    """The reference request to a model, on as few of the reference devices as hold it."""
    case = replace(REFERENCE, model=model)
    return content.estimates.smallest(case) if content.estimates.holds(case) else None


def _model_page(content: Content, model: Model, case: Case | None) -> Page:
    estimate = content.estimates.of(case) if case else None
    path = content.routes.path("model", model.id)
    return Page(
        path=path, title=model.name, template="model.md.j2", hide=("toc",),
        description=f"{model.name}: {units.parameters(model.params.total)} parameters, tokens of images and videos, "
        "key-value cache, and predicted times.",
        context={
            "model": model,
            "kv_byte": content.estimates.kv_byte(model.id),
            "case": case,
            "typical": content.estimates.pace("typical") if case else None,
            "estimate": estimate,
            "predictions": predictions(content, case) if case else (),
            "roof": stages(estimate, content.stage_classes, id_="la-roofline") if estimate else Markup(),
            "stem": path.rpartition("/")[2].removesuffix(".md"),
            "file": f"catalog/models/{model.id}.yaml",
        },
    )  # fmt: skip


def predictions(content: Content, case: Case) -> tuple[Prediction, ...]:
    """What each workload of the catalog costs a model on the devices of a case."""
    return tuple(_prediction(content, replace(case, workload=workload)) for workload in content.estimates.workloads)


def _prediction(content: Content, case: Case) -> Prediction:
    try:
        bound = content.estimates.of(case)
        return Prediction(case.workload, bound, content.estimates.of(replace(case, efficiency="typical")))
    except AtlasError as error:
        return Prediction(case.workload, why_not=str(error).partition(";")[0])


def overview(content: Content, cases: dict[str, Case | None], href: Href) -> Markup:
    """Where the time of the reference request goes, model by model; empty without estimates."""
    estimates = [content.estimates.of(case) for case in cases.values() if case]
    if not estimates:
        return Markup()
    rows = [
        Bar(
            estimate.model.name,
            tuple(share_of(content, estimate, name) for name in STAGES),
            f"{units.seconds(estimate.total_s)}{on(estimate)}",
            href("model", estimate.model.id),
        )
        for estimate in sorted(estimates, key=lambda each: each.total_s)
    ]
    return bars(
        rows, id_="la-models", title="Where the time goes, model by model",
        desc="Share of encoding, prefilling and decoding in the time of the request, with the whole time behind. The "
        "table has the numbers.",
    )  # fmt: skip


def share_of(content: Content, estimate: Estimate, stage: str) -> Part:
    """A stage's share of the whole time."""
    share = estimate.stages[stage].time_s / estimate.total_s
    return Part(share, content.stage_classes[stage], f"{stage}: {units.share(share)}")


def on(estimate: Estimate) -> str:
    """How many devices there are, where it is more than one."""
    devices = estimate.deployment.devices
    return f" on {devices}" if devices > 1 else ""
