"""A record of something we measured: what, on which machine, with which versions. Written by the tool."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lvlm_atlas.limits import MOST_COUNT
from lvlm_atlas.schema.record import Day, Id, Record, Ref, Setting, Text

Counted = Annotated[int, Field(ge=0, le=MOST_COUNT)]
Mean = Annotated[int | float, Field(ge=0, le=MOST_COUNT)]


class Machine(Record):
    """Where it ran."""

    device: Text
    """Name of the device that computed."""
    kind: Literal["cpu", "cuda"]
    """Kind of the device."""
    python: str
    """Version of Python."""
    torch: str
    """Version of torch."""
    cuda: str | None = None
    """Version of CUDA, on a GPU."""
    system: Text
    """Operating system and processor family."""


class Workload(Record):
    """What it ran on."""

    preset: str
    """Configuration of the reference LVLM."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """Type of weights and activations."""
    seed: int
    """Seed of weights and inputs."""
    frames: int = Field(ge=1, le=MOST_COUNT)
    """Frames of the request."""
    text_tokens: int = Field(ge=1, le=MOST_COUNT)
    """Text tokens of the prompt."""
    output_tokens: int = Field(ge=1, le=MOST_COUNT)
    """Tokens generated."""


class Counts(Record):
    """What the trace of a run counted."""

    encoder_tokens: tuple[Counted, ...]
    """Tokens that enter each encoder layer, and those that leave the last; a frame."""
    llm_tokens: tuple[Counted, ...]
    """Tokens that enter each LLM layer in prefill."""
    score_entries: tuple[Counted, ...]
    """Attention scores computed in prefill, per LLM layer, over all heads."""
    kv_entries: tuple[Mean, ...]
    """Cache entries per key-value head after prefill, per LLM layer; their mean where heads differ."""
    kv_byte: Counted
    """Bytes of the cache after prefill."""
    kv_settled_entries: tuple[Mean, ...] = ()
    """Cache entries a head of all layers together: after prefill, and when each round has settled."""
    accepted_lengths: tuple[Counted, ...] = ()
    """Drafted tokens accepted in each round; nothing for a run that drafts none."""
    target_passes: Counted
    """Forward passes of the target after prefill."""
    output_tokens: Counted
    """Tokens generated."""


class SmokeResult(Record):
    """The outcome of one technique's smoke test."""

    technique: Annotated[Id, Ref("technique")]
    """The technique that ran."""
    setting: dict[str, Setting]
    """The parameters it ran with."""
    passed: tuple[str, ...]
    """Checks that held."""
    failed: dict[str, str] = Field(default_factory=dict)
    """Checks that did not hold, with what was seen."""
    skipped: dict[str, str] = Field(default_factory=dict)
    """Checks that make no sense for this technique, with the reason that its entry gives."""
    counts: Counts | None = None
    """What the trace counted; absent if the run did not finish."""
    baseline: Counts | None = None
    """The same request without techniques."""


class Measurement(Record):
    """One run of the tool over some techniques."""

    id: Id
    """Permanent id, equal to the file's name."""
    kind: Literal["smoke"]
    """What was measured."""
    date: Day
    """Day of the run."""
    commit: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}(-dirty)?$")
    """Commit of the code, where it ran in a checkout."""
    version: str
    """Version of lvlm-atlas."""
    machine: Machine
    """Where it ran."""
    workload: Workload
    """What it ran on."""
    results: tuple[SmokeResult, ...] = Field(min_length=1)
    """One a technique and setting."""
