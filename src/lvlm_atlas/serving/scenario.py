"""A question about a server under load, and its answer: who asks what of which devices, by which policy and stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.serving.load import Load, load
from lvlm_atlas.serving.policy import Policy
from lvlm_atlas.serving.prices import Prices
from lvlm_atlas.serving.simulation import Run, simulate
from lvlm_atlas.serving.traffic import Arrival
from lvlm_atlas.serving.wires import Wires

COMMON = (
    "times of every batch are the engine's, for the rows of all its requests; a step starts when the one before ends",
    "images stand in front of the text of a prompt, but for a beginning that requests share",
    "attention of the sequences of a step adds up; its kernels start once",
    "a prompt that a technique thins in the LLM is read in parts of the same shape",
    "a sequence whose cache was given up keeps its images' embeddings",
    "a front process prepares the images of a request one after the other and those of other requests beside them, but "
    "for the part that makes the encoder's input, which is for one request at a time",
    "a request is prepared by the first front process that is free",
    "energy is that of all devices at their thermal design power for as long as the run lasts",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A server and what it is asked to keep."""

    model: Model
    device: Device
    deployment: Deployment
    """How one instance runs the model."""
    policy: Policy
    stack: Callable[[Workload], Sequence[Applied]] = lambda _: ()
    """Techniques for a kind of request, in pipeline order."""
    labels: tuple[str, ...] = ()
    """The techniques, as people write them."""
    slo: dict[str, float] = field(default_factory=dict)
    """Limits in seconds by `ttft`, `tpot` and `total`."""
    wires: Wires = field(default_factory=Wires)
    concurrency: int | None = None
    """Requests that clients have under way at most; None: any number."""

    def grown(self, factor: int) -> Scenario:
        """The same server with so many times the devices and clients."""
        clients = None if self.concurrency is None else factor * self.concurrency
        return replace(self, policy=self.policy.grown(factor), concurrency=clients)

    @property
    def devices(self) -> int:
        """Devices of the whole server."""
        return self.policy.devices(self.deployment.devices)

    @property
    def paced(self) -> Policy:
        """The policy with the limit that its rules aim at, and steps that read no more than the runtime's do."""
        aimed = replace(self.policy, tpot_s=self.slo.get("tpot"))
        runtime = self.deployment.runtime
        most = runtime.host.chunk_token if runtime else None
        if most is None or not aimed.chunked:
            return aimed
        return replace(aimed, token_budget=min(aimed.token_budget, most))

    def prices(self) -> Prices:
        """Times of batches of one instance.

        Raises:
            AtlasError: as of `estimate`.
        """
        return Prices(
            self.model, self.device, self.deployment, self.stack,
            encoder_data_parallel=self.policy.encoder_data_parallel, encoder_devices=self.policy.encoder_devices,
        )  # fmt: skip

    def run(self, stream: Iterable[Arrival], prices: Prices | None = None) -> tuple[Load, Run]:
        """Send requests through the server.

        Args:
            stream: the requests, by their time of arrival.
            prices: what `prices` has made before, so that nothing is worked out twice.

        Raises:
            AtlasError: as of `simulate`.
        """
        done = simulate(self.paced, prices or self.prices(), stream, self.wires, concurrency=self.concurrency)
        answer = load(
            done, slo=self.slo, devices=self.devices, tdp_w=self.device.tdp_w,
            price_usd_h=self.deployment.price_usd_h, assumptions=(*COMMON, *self.policy.assumptions),
        )  # fmt: skip
        return answer, done


def wired(
    device: Device, *, link_gb_s: float | None = None, latency_s: float = 0.0, host_image_s: float = 0.0,
    host_workers: int = 8,
) -> Wires:  # fmt: skip
    """Links and host of a server.

    Args:
        device: its devices; without a bandwidth, instances are joined by their links.
        link_gb_s: bandwidth into an instance in GB/s; None: that of the devices' links.
        latency_s: time of a transfer beside its bytes.
        host_image_s: time in which the host prepares an image or frame, beside that of the runtime.
        host_workers: requests that a front process has in preparation at once.
    """
    own = device.link_byte_s or device.host_link_byte_s
    plain = Wires(latency_s=latency_s, host_image_s=host_image_s, host_workers=host_workers)
    byte_s = own if link_gb_s is None else link_gb_s * 1e9
    return plain if byte_s is None else replace(plain, byte_s=byte_s)
