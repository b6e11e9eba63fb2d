"""How a server is laid out: pools of instances, the stages that each runs, and by which rules it batches and routes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.stage import STAGES

Routing = Literal["in-turn", "least-loaded", "shared"]
"""Which instance of a pool gets a request: the next, the one with least to do, or the first that is free."""
Sharing = Literal["in-turn", "together", "sliced"]
"""How vision and language share a device: one after the other in a step, at once in a step, or each on multiprocessors
of its own."""
Front = Literal["one", "each"]
"""How many processes take requests in: one for all instances, or one for each that encodes."""
Scaling = Literal["fixed", "queue-length", "load", "gain-cost"]
"""Whether instances move between pools, and by what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Instances that are alike."""

    name: str
    stages: frozenset[str]
    """The stages they run."""
    instances: int = 1
    modality: Literal["any", "text", "visual"] = "any"
    """Which requests they serve."""
    devices: int | None = None
    """Devices of an instance that encodes alone; None: as many as the others have."""

    def __post_init__(self) -> None:
        assert self.stages <= {*STAGES}  # noqa: S101
        if self.instances < 1:
            raise AtlasError(f"pool {self.name} has {self.instances} instances; give it 1 or more")
        if self.devices is not None and self.stages != {"encoding"}:
            raise AtlasError(
                f"pool {self.name} runs more than the encoder, so that --tp says its devices; leave them out"
            )

    @property
    def letters(self) -> str:
        """Its stages by their letters, such as `EP`."""
        return "".join(stage[0].upper() for stage in STAGES if stage in self.stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A server's layout and rules."""

    id: str
    pools: tuple[Pool, ...]
    routing: Routing = "least-loaded"
    sharing: Sharing = "in-turn"
    scaling: Scaling = "fixed"
    front: Front = "each"
    front_megapixel_ms: float = 34.0
    """Time in which a front process makes the encoder's input of a megapixel, for one request at a time."""
    mixed: bool = True
    """Whether a step that reads prompts decodes too; otherwise prompts go first, and sequences that decode wait."""
    overlap: bool = False
    """Whether a prompt is read as far as its images are encoded, while others still are."""
    spread_images: bool = False
    """Whether the images of a request go to several encoders."""
    chunked: bool = True
    """Whether prompts are read in parts."""
    encoder_data_parallel: bool = False
    """Whether each device of an instance holds the whole encoder and takes images of its own."""
    encoder_devices: int | None = None
    """Devices of an instance that make the encoder faster at most; None: all."""
    shortest_first: bool = False
    """Whether encoders take the request with the least left to encode first."""
    embedding_cache: bool = True
    """Whether embeddings are kept by what an image shows."""
    prefix_cache: bool = False
    """Whether caches of equal beginnings are shared."""
    token_budget: int = 8192
    """Tokens that a step reads at most."""
    encoder_budget: int | None = None
    """Vision tokens that a step encodes at most, but for one image; None: as many as the step reads."""
    image_batch: int = 8
    """Images that an encoder without a prompt to read takes at once."""
    sequences: int = 1024
    """Sequences that an instance has under way at most."""
    embedding_share: float = 0.1
    """Share of the room for caches that embeddings may take."""
    encoder_share: float = 0.5
    """Share of the multiprocessors that encodes, where the two are sliced."""
    slices_by_cost: bool = False
    """Whether that share is the largest with which the LLM's step keeps `tpot_s`, chosen step by step."""
    profiled: bool = False
    """Whether the budgets of steps are the largest that keep `tpot_s` (budgets.py)."""
    tpot_s: float | None = None
    """Limit of the time per token that these rules aim at; None: none was asked for."""
    assumptions: tuple[str, ...] = field(default=())
    """What was chosen here, since the source leaves it open."""

    @property
    def instances(self) -> int:
        """All of them."""
        return sum(pool.instances for pool in self.pools)

    @property
    def holders(self) -> int:
        """Instances that have devices of their own."""
        return self.pools[0].instances if self.sharing == "sliced" else self.instances

    @property
    def encoders(self) -> int:
        """Instances that encode."""
        return sum(pool.instances for pool in self.pools if "encoding" in pool.stages)

    def of(self, stage: str, modality: str) -> int:
        """Index of the pool that runs a stage for requests with or without visual input."""
        taken = ("any", modality)
        return next(i for i, pool in enumerate(self.pools) if stage in pool.stages and pool.modality in taken)

    def devices(self, each: int) -> int:
        """Devices of all instances, where one has so many unless its pool says otherwise."""
        if self.sharing == "sliced":
            return self.holders * each
        return sum(pool.instances * (pool.devices or each) for pool in self.pools)

    def grown(self, factor: int) -> Policy:
        """The same with so many times the instances."""
        pools = tuple(replace(pool, instances=factor * pool.instances) for pool in self.pools)
        return replace(self, pools=pools)

    def sized(self, counts: tuple[int, ...], devices: tuple[int | None, ...] = ()) -> Policy:
        """The same with so many instances in its pools, each of so many devices, None: as many as others.

        Raises:
            AtlasError: there are more or fewer pools, or a pool has none.
        """
        if len(counts) != len(self.pools):
            names = ", ".join(f"{pool.name} ({pool.letters})" for pool in self.pools)
            raise AtlasError(
                f"policy {self.id} has {len(self.pools)} pools, and {len(counts)} sizes were given; give one for each "
                f"of {names}, such as {self.id}:{','.join(['2'] * len(self.pools))}"
            )
        if self.sharing == "sliced" and len({*counts}) > 1:
            raise AtlasError(f"pools of policy {self.id} share devices; give each {counts[0]} instances")
        sizes = zip(self.pools, counts, devices or (None,) * len(counts), strict=True)
        pools = tuple(replace(pool, instances=count, devices=each) for pool, count, each in sizes)
        return replace(self, pools=pools)
