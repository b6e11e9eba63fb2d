"""Estimates by name: models, devices, workloads and techniques of the catalog, for Python and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.deployment import IDEAL, TYPICAL, Deployment, efficiency_named
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.runtime import Runtime
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.specs.records import device_spec, model_spec, workload_spec

# What an estimate without techniques does not use is not imported.
# ruff: noqa: PLC0415

if TYPE_CHECKING:
    from lvlm_atlas.atlas.shelves import Shelves
    from lvlm_atlas.graph.knowledge import KnowledgeBase
    from lvlm_atlas.planner.pair import Pair
    from lvlm_atlas.planner.plan import Plan
    from lvlm_atlas.roofline.transform import Applied
    from lvlm_atlas.specs.stack import Choice


DEFAULT_RUNTIME = "vllm"
"""The runtime that `typical` stands for where none is named: a server, and the one with most timings."""


class Planner:
    """The catalog with the engine. Whatever names something may also be given as the thing itself."""

    def __init__(self, root: Path | str | None = None, kb: KnowledgeBase | None = None) -> None:
        """Look at the catalog under `root`; by default the one that comes with the package.

        Args:
            root: its folder.
            kb: the knowledge base of that folder, if it is loaded already.
        """
        from lvlm_atlas.atlas.overlay import resolved

        self.root = resolved(Path(root)) if root is not None else None
        self._kb = kb

    @cached_property
    def kb(self) -> KnowledgeBase:
        """Techniques and their relations."""
        from lvlm_atlas.atlas.loader import load
        from lvlm_atlas.graph.knowledge import KnowledgeBase

        return self._kb or KnowledgeBase(load(self.root))

    @cached_property
    def atlas(self) -> Shelves:
        """Models, devices and workloads, which are read without the techniques."""
        from lvlm_atlas.atlas.shelves import shelves

        return shelves(self.root)

    def model(self, model: str | Model) -> Model:
        """The model of that id.

        Raises:
            AtlasError: there is none.
        """
        return model_spec(self.atlas.model(model)) if isinstance(model, str) else model

    def device(self, device: str | Device) -> Device:
        """The device of that id or alias.

        Raises:
            AtlasError: there is none.
        """
        return device_spec(self.atlas.device(device)) if isinstance(device, str) else device

    def workload(self, workload: str | Workload) -> Workload:
        """The workload of that id, which may have parts replaced: `document-pages:images=5,output=64`.

        Raises:
            AtlasError: there is none, or a part is none.
        """
        if isinstance(workload, Workload):
            return workload
        if not isinstance(workload, str):
            raise AtlasError(f"workload is {workload!r}; give an id, or what `Planner.request` makes")
        id_, colon, rest = workload.partition(":")
        if not colon:
            return workload_spec(self.atlas.workload(workload))
        from lvlm_atlas.specs.request import replaced

        return self.request(id_, **replaced(rest))

    def request(
        self,
        workload: str | Workload = "single-image-chat",
        *,
        image: str | Sequence[str] = (),
        images: int | None = None,
        video: str | Sequence[str] = (),
        frames: int | None = None,
        text: int | None = None,
        output: int | None = None,
        batch: int | None = None,
        turns: int | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        vision_tokens: int | None = None,
        video_by: str | None = None,
    ) -> Workload:
        """A workload with parts of it replaced; names are those of the command line's options.

        Args:
            workload: the workload to start from.
            image: sizes, such as `1280x720`; in place of its visual input.
            images: how many images of each size; 0: none, so that a request without videos is text alone.
            video: videos, such as `1280x720:60s@2`; in its place.
            frames: frames read of each video, whatever the model's own limits.
            text: text tokens of the prompt.
            output: tokens generated.
            batch: requests processed together.
            turns: questions about the same visual input.
            min_pixels: least pixels of an image or a frame, as the model's processor takes it.
            max_pixels: most pixels, alike.
            vision_tokens: vision tokens that each image is to become; it keeps its shape.
            video_by: whose rule reads videos, of those in the model's record, such as `servers`.

        Raises:
            AtlasError: as of `specs.request.request`.
        """
        from lvlm_atlas.specs.request import request

        sizes, clips = ((each,) if isinstance(each, str) else tuple(each) for each in (image, video))
        return request(
            self.workload(workload), images=sizes, count=images, videos=clips, text=text, output=output, batch=batch,
            turns=turns, frames=frames, min_pixels=min_pixels, max_pixels=max_pixels, vision_tokens=vision_tokens,
            video_by=video_by,
        )  # fmt: skip

    def estimate(
        self,
        model: str | Model,
        hardware: str | Device,
        workload: str | Workload = "single-image-chat",
        *,
        stack: str | Sequence[str | Choice] = (),
        efficiency: str | None = None,
        runtime: str | Runtime | None = None,
        deployment: Deployment | None = None,
    ) -> Estimate:
        """What a request costs: see `roofline.estimate.estimate`.

        Args:
            model: its id, such as `qwen2.5-vl-7b`.
            hardware: a device's id or alias, such as `h200`.
            workload: its id, such as `images-20`; `request` makes others.
            stack: techniques, such as `fastv:keep_ratio=0.5+kivi`, or a list of such.
            efficiency: how near to the peaks: `ideal`, `survey`, or `typical`, which stands for the default runtime;
                None: as the deployment says.
            runtime: the software whose kernels and host to take, such as `vllm`; None: as the deployment says.
            deployment: how the model is run; None: released types, one device, ideal kernels.

        Raises:
            AtlasError: a name is unknown, a number is no such number, or the stack is in conflict.
        """
        if efficiency is not None or runtime is not None:
            deployment = self.paced(deployment or Deployment(), efficiency=efficiency, runtime=runtime)
        spec, request = self.model(model), self.workload(workload)
        return estimate(spec, self.device(hardware), request, deployment, self._stacked(stack, spec, request))

    def paced(
        self, deployment: Deployment, *, efficiency: str | None = None, runtime: str | Runtime | None = None
    ) -> Deployment:
        """A deployment at the pace of a preset or of a runtime.

        Args:
            deployment: the deployment.
            efficiency: `ideal`, `survey`, or `typical`, which stands for `DEFAULT_RUNTIME` if no other is named; of a
                catalog without it, for general factors. None: as the deployment says.
            runtime: the runtime; None: none.

        Raises:
            AtlasError: a name is unknown, or both a runtime and a preset that is none are named.
        """
        preset = efficiency_named(efficiency) if efficiency is not None else deployment.efficiency
        if runtime is not None and efficiency not in (None, TYPICAL.name):
            raise AtlasError(f"runtime and efficiency {efficiency!r} are both given; leave one of the two out")
        if runtime is None and efficiency == TYPICAL.name and DEFAULT_RUNTIME in self.atlas.runtimes:
            runtime = DEFAULT_RUNTIME
        if runtime is not None:
            preset = TYPICAL
        return replace(deployment, efficiency=preset, runtime=None if runtime is None else self.runtime(runtime))

    def runtime(self, runtime: str | Runtime) -> Runtime:
        """The runtime of that id or alias.

        Raises:
            AtlasError: there is none.
        """
        if not isinstance(runtime, str):
            return runtime
        from lvlm_atlas.specs.runtime import runtime_spec

        return runtime_spec(self.atlas.runtime(runtime), self.atlas.runtime)

    def _stacked(self, stack: str | Sequence[str | Choice], model: Model, request: Workload) -> tuple[Applied, ...]:
        if not stack:
            return ()
        from lvlm_atlas.specs.stack import stacked

        return stacked(self.kb, stack, model, request)

    def plan(
        self,
        model: str | Model,
        hardware: str | Device,
        workload: str | Workload = "single-image-chat",
        *,
        goal: str,
        slo: Mapping[str, float] | None = None,
        training: str | None = None,
        max_techniques: int = 3,
        require: str | None = None,
        exclude: str | None = None,
        risk: str = "unknown",
        also: Sequence[str] = (),
        settings: Sequence[str] = (),
        milder: bool = False,
        described: bool = False,
        keep_quality: float | None = None,
        task: str | None = None,
        deployment: Deployment | None = None,
    ) -> Plan:
        """Which stacks of techniques bring a goal down most: all that can run together are compared.

        Args:
            model: its id.
            hardware: a device's id or alias.
            workload: its id, or a request.
            goal: `ttft`, `tpot`, `total`, `memory`, `cost`, `energy`, `concurrency` or `throughput`.
            slo: limits by metric: seconds, GB, USD or J.
            training: what may be trained at most: `none`, `calibration`, …; None: anything.
            max_techniques: techniques in a stack, at most.
            require: a query; every stack has a technique that it finds.
            exclude: a query; no stack has a technique that it finds.
            risk: the largest risk accepted, of `planner.risk.RISKS`.
            also: further metrics in which a stack may be better to be worth having.
            settings: techniques at other settings than their default, such as `fastv:keep_ratio=0.25`.
            milder: whether to try each technique halfway to its neutral setting too.
            described: whether to search techniques that are only described, with no reference that runs.
            keep_quality: share of the answers that each technique must keep by its curve, such as 0.95; it is then
                searched at the cheapest setting that does, and left out where none does. None: at its default.
            task: the task of the lab that this is about; None: the mean of those that a technique serves.
            deployment: how the model is run; None: released types, one device, and ideal kernels, or typical ones where
                limits are to be kept, since that is a question about software as it is.

        Raises:
            AtlasError: a name is unknown, a number is out of range, a goal has no price or power, or nothing fits.
        """
        from lvlm_atlas.planner.equal_quality import Quality
        from lvlm_atlas.planner.objective import Objective
        from lvlm_atlas.planner.optimiser import plan

        if task is not None and keep_quality is None:
            raise AtlasError(
                "a task says whose answers to keep; give the share of them too, keep_quality or --keep-quality"
            )
        deployment = deployment or self.paced(Deployment(), efficiency=(TYPICAL if slo else IDEAL).name)
        baseline = self.estimate(model, hardware, workload, deployment=deployment)
        objective = Objective(
            goal=goal, slo=slo or {}, also=also, max_techniques=max_techniques, training=training, risk=risk,
            require=require, exclude=exclude, settings=settings, milder=milder, described=described,
            quality=None if keep_quality is None else Quality(keep_quality, task),
        )  # fmt: skip
        return plan(self.kb, baseline, objective)

    def interactions(
        self,
        one: str | Choice,
        two: str | Choice,
        model: str | Model,
        hardware: str | Device,
        workload: str | Workload = "single-image-chat",
        *,
        deployment: Deployment | None = None,
    ) -> Pair:
        """What two techniques buy together, against what each buys alone.

        Args:
            one: a technique, such as `fastv:keep_ratio=0.5`.
            two: another.
            model: a model's id.
            hardware: a device's id or alias.
            workload: a workload's id, or a request.
            deployment: how the model is run; None: released types, one device, ideal kernels.

        Raises:
            AtlasError: as of `estimate`; so too if the two conflict.
        """
        from lvlm_atlas.planner.pair import Pair

        stacks: list[tuple[str | Choice, ...]] = [(), (one,), (two,), (one, two)]
        joint, second, first, neither = [
            self.estimate(model, hardware, workload, stack=stack, deployment=deployment) for stack in reversed(stacks)
        ]
        return Pair(neither, first, second, joint)
