"""What programs may rely on in the JSON of commands, as JSON schemas; further keys may come without notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from lvlm_atlas.cli.json_text import as_json
from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.graph.results import ReportedResult
from lvlm_atlas.roofline.contract_fields import schema as estimate_schema
from lvlm_atlas.serving.contract import ServeSim

# pydantic reads these types at run time.
_OPEN = ConfigDict(extra="allow")


class Gain(TypedDict):
    """A stage of a stack; times in seconds, the gain against no techniques."""

    time_s: float
    bound: str
    gain: float | None


class Moved(TypedDict):
    """The stage that takes longest, without techniques and with them."""

    before: str
    after: str


class Limit(TypedDict):
    """A limit, and what the stack comes to, in the metric's unit."""

    metric: str
    most: float
    value: float
    met: bool
    share: float


class Together(TypedDict):
    """What is known of two techniques of a stack."""

    techniques: list[str]
    verdict: str
    why: list[str]


class KeptTogether(TypedDict):
    """What a stack is expected to keep of the answers of the lab's models, measured; shares from 0 to 1."""

    share: float
    margin: float
    records: list[str]
    unmeasured: list[list[str]]


class Option(TypedDict):
    """A stack; SI base units."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    stack: list[str]
    risk: str
    ttft_s: float
    tpot_s: float
    total_s: float
    device_byte: float
    fits_at_once: int
    requests_per_s: float
    energy_j: float | None
    cost_usd: float | None
    stages: dict[str, Gain]
    gain: dict[str, float | None]
    bottleneck: Moved
    limits: list[Limit]
    pairs: list[Together]
    reported: dict[str, list[ReportedResult]]
    answers_together: KeptTogether | None
    assumptions: list[str]


class Lost(TypedDict):
    """What is not in the plan, and why."""

    what: str
    kind: str
    why: str


class Plan(TypedDict):
    """`plan -f json`: predicted, but for what stands under `reported`."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    format: Literal["lvlm-atlas-plan/2"]
    model: str
    hardware: str
    workload: str
    goal: str
    evidence: Literal["predicted"]
    searched: int
    settings: str
    baseline: Option
    front: list[Option]
    runners_up: list[Lost]
    unused: list[Lost]
    conflicts: list[Lost]
    left_out: list[Lost]
    assumptions: list[str]
    data: str


class Figure(TypedDict):
    """What each of two techniques buys of a figure, and both together; `expected` is the product."""

    figure: str
    first: float
    second: float
    joint: float
    expected: float
    ratio: float
    kind: str


class Pair(TypedDict):
    """`interactions -f json`: predicted."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    format: Literal["lvlm-atlas-interactions/1"]
    techniques: list[str]
    model: str
    hardware: str
    workload: str
    evidence: Literal["predicted"]
    kind: str
    why: str
    bottleneck: Moved
    gains: list[Figure]
    assumptions: list[str]
    data: str


class TechniqueRow(TypedDict):
    """A technique in `list` and `query`: what tables show, and the whole entry beside it."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    id: str
    stage: str
    year: int
    acts_at: list[str]
    saves: str
    training: str
    summary: str
    file: str


class EdgeRow(TypedDict):
    """An edge in `graph`, as a walk meets it."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    id: str
    step: int
    relation: str
    start: str
    kind: str
    end: str
    symmetric: bool
    evidence: str
    reason: str
    source: str


class Fault(TypedDict):
    """A fault in `check`; the path is relative to the root."""

    path: str
    line: int
    column: int
    level: Literal["error", "warning"]
    rule: str
    message: str
    repair: str


class DifferenceRow(TypedDict):
    """A difference in `diff`."""

    kind: str
    id: str
    change: Literal["added", "removed", "changed"]
    what: str


def _of(type_: Any) -> Callable[[], dict[str, Any]]:
    return lambda: TypeAdapter(type_).json_schema(mode="serialization")


CONTRACTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "estimate": estimate_schema,
    "plan": _of(Plan),
    "interactions": _of(Pair),
    "results": _of(list[ReportedResult]),
    "list": _of(list[TechniqueRow]),
    "query": _of(list[TechniqueRow]),
    "graph": _of(list[EdgeRow]),
    "check": _of(list[Fault]),
    "diff": _of(list[DifferenceRow]),
    "serve-sim": _of(ServeSim),
}
"""Commands whose JSON has a schema."""


def schema_text(name: str, root: Path) -> str:
    """The schema of a command's JSON, or of a kind of file of the catalog.

    Raises:
        AtlasError: there is none of that name.
    """
    file = root / "taxonomy" / "schema" / f"{name}.json"
    if name in CONTRACTS:
        return as_json(CONTRACTS[name]())
    if file.is_file():
        return file.read_text("utf-8").rstrip("\n")
    kinds = [path.stem for path in file.parent.glob("*.json")]
    raise AtlasError(f"no schema {name!r}; {suggestion(name, [*CONTRACTS, *kinds])}")
