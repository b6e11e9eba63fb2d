"""What the roofline predicts for the pages: each case is computed once, however many pages show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.predicted import HARDWARE, MODEL, WORKLOADS
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.specs.records import device_spec, model_spec, workload_spec
from lvlm_atlas.specs.stack import stacked

GROUPS = (1, 2, 4, 8)
"""Numbers of devices that may share a model."""


@dataclass(frozen=True)
class Case:
    """A request to a model on so many devices, by ids; released types, fused attention."""

    model: str = MODEL
    device: str = HARDWARE
    workload: str = WORKLOADS[0]
    devices: int = 1
    """Devices that share each layer."""
    efficiency: str = "ideal"
    """Preset of efficiency factors; `typical` is the default runtime."""
    runtime: str | None = None
    """A runtime in its place."""
    technique: str | None = None
    """A technique at its defaults."""


REFERENCE = Case()
"""What pages show unless they are about another model, device or workload."""


@dataclass(frozen=True)
class Estimates:
    """The engine over the records of a knowledge base."""

    kb: KnowledgeBase

    @cached_property
    def models(self) -> Mapping[str, Model]:
        """The engine's view of each model, smallest first."""
        specs = {id_: model_spec(record) for id_, record in self.kb.atlas.models.items()}
        return dict(sorted(specs.items(), key=lambda item: (item[1].parameters, item[0])))

    @cached_property
    def devices(self) -> Mapping[str, Device]:
        """The engine's view of each device."""
        return {id_: device_spec(record) for id_, record in self.kb.atlas.hardware.items()}

    @cached_property
    def workloads(self) -> Mapping[str, Workload]:
        """The engine's view of each workload, the one with the least to look at first."""
        specs = {id_: workload_spec(record) for id_, record in self.kb.atlas.workloads.items()}
        return dict(sorted(specs.items(), key=lambda item: (_pixels(item[1]), item[1].batch, item[1].turns, item[0])))

    @cached_property
    def _known(self) -> dict[Case, Estimate | AtlasError]:
        return {}

    def holds(self, case: Case) -> bool:
        """Whether the atlas has all that a case names, as a small atlas of somebody else may not."""
        return case.model in self.models and case.device in self.devices and case.workload in self.workloads

    def of(self, case: Case) -> Estimate:
        """The estimate of a case.

        Raises:
            AtlasError: the model cannot take the request, or the devices cannot run it.
        """
        if case not in self._known:
            try:
                self._known[case] = self._estimate(case)
            except AtlasError as error:
                self._known[case] = error
        estimate = self._known[case]
        if isinstance(estimate, AtlasError):
            raise estimate
        return estimate

    def _estimate(self, case: Case) -> Estimate:
        model, workload = self.models[case.model], self.workloads[case.workload]
        stack = stacked(self.kb, [case.technique], model, workload) if case.technique else ()
        pace = self.pace(case.efficiency, case.runtime)
        deployment = replace(pace, tensor_parallel=case.devices)
        return estimate(model, self.devices[case.device], workload, deployment, stack)

    @cached_property
    def planner(self) -> Planner:
        """The catalog, which knows runtimes and makes requests."""
        return Planner(self.kb.atlas.root, self.kb)

    @cached_property
    def _paces(self) -> dict[tuple[str, str | None], Deployment]:
        return {}

    def pace(self, efficiency: str, runtime: str | None = None) -> Deployment:
        """One device at the pace of a preset or of a runtime."""
        key = (efficiency, runtime)
        if key not in self._paces:
            preset = None if runtime else efficiency
            self._paces[key] = self.planner.paced(Deployment(), efficiency=preset, runtime=runtime)
        return self._paces[key]

    def kv_byte(self, model: str) -> float | None:
        """Bytes that a text token takes in the caches of all layers, in 16 bits; None in an atlas without devices."""
        for device in self.devices.values():
            one, two = (Workload(text_tokens=tokens, output_tokens=1) for tokens in (1, 2))
            spec = self.models[model]  # a state of constant size is the same for both
            return estimate(spec, device, two).memory.kv_byte - estimate(spec, device, one).memory.kv_byte
        return None

    def smallest(self, case: Case) -> Case | None:
        """The case on as few devices as hold it, with what servers need besides; None if no number of `GROUPS` does."""
        device = self.devices[case.device]
        linked = device.link_byte_s or device.host_link_byte_s
        for devices in GROUPS if linked else GROUPS[:1]:
            # What a request takes is the same on every device, so all of them share the estimates of one.
            held = replace(case, device=REFERENCE.device, devices=devices)
            try:
                if self.of(held).memory.device_byte + device.typical.reserve_byte <= device.memory_byte:
                    return replace(case, devices=devices)
            except AtlasError:
                continue
        return None


def _pixels(workload: Workload) -> float:
    """Pixels that one request of a workload shows, frames that are not read left out."""
    images = sum(each.count * each.width * each.height for each in workload.images)
    return images + sum(each.width * each.height * each.duration_s * each.sample_fps for each in workload.videos)
