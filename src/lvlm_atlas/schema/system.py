"""A serving system, or a lossless feature of an engine: what schedules requests, not what a model computes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lvlm_atlas.schema.elsewhere import Shipped
from lvlm_atlas.schema.expression import Amount
from lvlm_atlas.schema.record import Day, Id, PaperKey, Record, Ref, Source, Text
from lvlm_atlas.schema.technique import Interaction, Upstream


class Decision(Record):
    """One decision that the system takes, and by which rule."""

    decides: Literal["admission", "batching", "routing", "ordering", "placement", "scaling", "caching"]
    """What is decided: who is let in, what runs together, where it runs, in which order, what stays where."""
    rule: Text
    """The rule, in words and formulas."""
    source: Source
    """Where the rule can be read."""


class Resource(Record):
    """A kind of instance or a share of a device that the system hands out."""

    name: Text
    """What the system calls it."""
    stages: tuple[Annotated[Id, Ref("stage")], ...] = Field(min_length=1)
    """The stages it runs."""
    holds: Text
    """What lies there: weights, embeddings, blocks of the cache."""


class Transfer(Record):
    """What one request moves between two resources."""

    start: Text
    """Where it comes from."""
    end: Text
    """Where it goes."""
    carries: Text
    """What is moved, and when."""
    byte: Amount
    """Bytes a request, in the symbols of the taxonomy."""


class Figure(Record):
    """A number that a source reports of the system, with the setting it belongs to."""

    metric: Annotated[Id, Ref("metric")]
    """What was measured."""
    value: Text
    """The number as printed, with its unit and its baseline."""
    setting: Text
    """Models, load and hardware, as far as the source says."""
    source: Source
    """Where it is printed."""


class ServedPool(Record):
    """Instances that are alike in a simulated server."""

    name: Text
    """What they are called."""
    stages: tuple[Annotated[Id, Ref("stage")], ...] = Field(min_length=1)
    """The stages that they run."""
    share: int = Field(default=1, ge=1, le=1000)
    """Parts of the devices that the pool gets unless sizes are given."""
    serves: Literal["any", "text", "visual"] = "any"
    """Requests it takes: all, those of text alone, or those with images or videos."""


class Simulated(Record):
    """A layout of the system that `serve-sim` runs. What is left out has the default of a plain server."""

    name: Id
    """What the layout is called on the command line."""
    variant: bool = False
    """Whether it is how another engine does it, or what a source held the system against; the system's id means the
    others."""
    pools: tuple[ServedPool, ...] = Field(min_length=1)
    """Its pools."""
    routing: Literal["in-turn", "least-loaded", "shared"] = "least-loaded"
    """Which instance of a pool gets a request: the next, the one with least to do, or the first that is free."""
    sharing: Literal["in-turn", "together", "sliced"] = "in-turn"
    """How vision and language share a device: one after the other in a step, at once, or on multiprocessors of their
    own; then the first and the last pool share each device."""
    scaling: Literal["fixed", "queue-length", "load", "gain-cost"] = "fixed"
    """What moves instances from pool to pool: nothing, queues, how busy pools are, or what a move gains and costs."""
    front: Literal["one", "each"] = "each"
    """How many processes take requests in and prepare images: one for all instances, or one for each that encodes."""
    front_megapixel_ms: float = Field(default=34.0, ge=0, le=10**4)
    """Milliseconds in which such a process makes the encoder's input of a megapixel, for one request at a time. Unless
    given, vLLM's: 14.0 pages of 1275 × 1650 pixels a second (vllm-project/vllm#58266)."""
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
    encoder_devices: int | None = Field(default=None, ge=1, le=64)
    """Devices of an instance that make the encoder faster at most, where a source measured that more do not."""
    shortest_first: bool = False
    """Whether encoders take the request with the least left to encode first."""
    embedding_cache: bool = True
    """Whether embeddings are kept by what an image shows."""
    prefix_cache: bool = False
    """Whether caches of equal beginnings are shared."""
    token_budget: int = Field(default=8192, ge=1, le=10**7)
    """Tokens that a step reads at most."""
    image_batch: int = Field(default=8, ge=1, le=10**4)
    """Images that an encoder without prompts to read takes at once."""
    sequences: int = Field(default=1024, ge=1, le=10**6)
    """Sequences that an instance has under way at most."""
    slices_by_cost: bool = False
    """Whether the encoder gets the largest share of the multiprocessors with which the LLM keeps its time per token."""
    profiled: bool = False
    """Whether the budgets of a step are the largest with which it keeps the limit of the time per token."""
    departs: tuple[Text, ...] = ()
    """Where it departs from the system, or was chosen since the source leaves it open."""

    @model_validator(mode="after")
    def _runs_all(self) -> Simulated:
        for kind in ("text", "visual"):
            run = {stage for pool in self.pools if pool.serves in ("any", kind) for stage in pool.stages}
            needed = {"prefilling", "decoding"} | ({"encoding"} if kind == "visual" else set())
            if missing := needed - run:
                raise ValueError(f"no pool runs {', '.join(sorted(missing))} for {kind} requests; add it to one")
        return self


class Replay(Record):
    """A published comparison of two servers, in a setting that `serve-sim` can be asked for too."""

    metric: Literal["ttft-mean", "ttft-p50", "tpot-mean", "throughput", "goodput"]
    """What was compared."""
    times: float = Field(gt=0, le=1000)
    """How many times better the system was than its baseline: less latency, or more throughput."""
    printed: Text
    """The numbers as printed."""
    source: Source
    """Where they are printed."""
    model: Annotated[Id, Ref("model")]
    """The model that is simulated."""
    hardware: Annotated[Id, Ref("device")]
    """The device."""
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    """Devices of an instance that runs the LLM."""
    weight_dtype: str | None = None
    """Type of the weights; that of the record unless given."""
    activation_dtype: str | None = None
    """Type in which products are computed; that of the record unless given."""
    kv_dtype: str | None = None
    """Type of the cache; that of the activations unless given."""
    policy: Text
    """The system as `serve-sim` takes it, with sizes."""
    baseline: Text
    """What it was held against."""
    image: Text
    """Size of the images, such as `1920x1080`."""
    traffic: Annotated[Id, Ref("traffic")] | None = None
    """The distribution that requests are drawn from; without it they are as the following fields say."""
    images: tuple[Annotated[int, Field(ge=0, le=1000)], ...] = ()
    """How many images requests have, 0: text alone; those of each number that stands here are equally many."""
    text_tokens: int = Field(default=0, ge=0, le=10**6)
    """Text of a prompt."""
    output_tokens: int = Field(default=1, ge=1, le=10**6)
    """Tokens of an answer."""
    requests: int = Field(ge=1, le=10**4)
    """How many arrive."""
    rate: float | None = Field(default=None, gt=0, le=10**6)
    """Requests a second; all at once unless given."""
    concurrency: int | None = Field(default=None, ge=1, le=10**5)
    """Requests that clients have under way at most; any number unless given."""
    token_budget: int | None = Field(default=None, ge=1, le=10**7)
    """Tokens that a step of either server reads at most; those of its layout unless given."""
    sequences: int | None = Field(default=None, ge=1, le=10**6)
    """Sequences that an instance of either has under way at most; those of its layout unless given."""
    image_batch: int | None = Field(default=None, ge=1, le=10**4)
    """Images that an encoder without prompts takes at once; those of its layout unless given."""
    ttft_s: float | None = None
    """Limit of the time to the first token, for goodput."""
    tpot_s: float | None = None
    """Limit of the time per token, for goodput."""
    attain: float = Field(default=0.9, gt=0, le=1)
    """Share of the requests that must be within the limits, for goodput."""
    differs: tuple[Text, ...] = ()
    """What is unlike the source's setting, and why the two may differ."""

    @model_validator(mode="after")
    def _says_what_comes(self) -> Replay:
        if (self.traffic is None) == (not self.images):
            raise ValueError("has both or neither of `traffic` and `images`; say in one way what comes")
        return self


class System(Record):
    """One system. It acts on requests and devices, so that no reference of the LVLM can run it."""

    id: Id
    """Permanent id, equal to the file's name."""
    name: Text
    """Its own name."""
    aliases: tuple[Text, ...] = ()
    """Other names and spellings."""
    kind: Literal["serving-system", "engine-feature"]
    """A system of its own, or a feature that engines have."""
    summary: Text = Field(max_length=280)
    """What it does and what that buys, in one sentence."""
    paper: PaperKey
    """The work that introduces it; of a feature, the engine's own."""
    also: tuple[PaperKey, ...] = ()
    """Further works that define it."""
    family: Annotated[Id, Ref("family")] | None = None
    """Where the survey files it; a feature of an engine has no place there."""
    forms: tuple[Annotated[Id, Ref("system")], ...] = ()
    """Systems that are forms of it, where it is what they have in common."""
    stages: tuple[Annotated[Id, Ref("stage")], ...] = Field(min_length=1)
    """The stages whose work it schedules, spares or moves."""
    modality: tuple[Annotated[Id, Ref("modality")], ...] = Field(min_length=1)
    """Inputs it treats."""
    lossless: bool
    """Whether each answer is the one that the model gives without it, up to the order of floating-point sums."""
    explanation: Text
    """How it works and why, in a paragraph."""
    policy: tuple[Decision, ...] = Field(min_length=1)
    """What it decides, and how."""
    resources: tuple[Resource, ...] = ()
    """What it runs on."""
    communication: tuple[Transfer, ...] = ()
    """What moves between its resources; none where all happens on one device."""
    reported: tuple[Figure, ...] = ()
    """What sources report of it. Nothing is measured here."""
    simulated: tuple[Simulated, ...] = ()
    """Layouts that `serve-sim` runs; none where nothing here stands for it."""
    replays: tuple[Replay, ...] = ()
    """Published comparisons that are held against the simulation."""
    relations: tuple[Interaction, ...] = ()
    """How it gets along with techniques."""
    shipped_in: tuple[Shipped, ...] = ()
    """Engines whose released code has it."""
    code: Literal["released", "partly-released", "none"]
    """Whether its code can be had: all of it, some of its policy, or nothing."""
    upstream: Upstream | None = None
    """The authors' code."""
    verified: Annotated[Id, Ref("verification")]
    """Against what the record was checked."""
    updated: Day
    """Day of the last change of substance, quoted, as `'2026-11-22'`."""

    @field_validator("summary")
    @classmethod
    def _is_a_sentence(cls, text: str) -> str:
        if not text.endswith((".", "!", "?")):
            raise ValueError("is not a sentence; end it with a full stop")
        return text

    @model_validator(mode="after")
    def _is_consistent(self) -> System:
        if (self.kind == "serving-system") != (self.family is not None):
            raise ValueError("a serving-system has a `family`, an engine-feature has none; correct one of the two")
        if self.upstream and self.code == "none":
            raise ValueError("names `upstream` code and says `code: none`; correct one of the two")
        return self
