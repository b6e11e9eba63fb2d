"""The atlas for agents: its questions as tools of the Model Context Protocol."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from lvlm_atlas import __version__
from lvlm_atlas.cli.cite import references
from lvlm_atlas.cli.lookup import record_json, records_named
from lvlm_atlas.cli.rows import by_pipeline, edge_row, reasons, table_row
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.metric import limits
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.contract import contract
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.specs.request import request

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError:
    raise AtlasError(
        "an agent's door needs mcp; install it with: pip install 'lvlm-atlas[mcp]', in a checkout '.[mcp]'"
    ) from None

INSTRUCTIONS = """\
Techniques that make inference of large vision-language models cheaper: what each does and needs, what conflicts with
what, what its sources report, and what a roofline predicts for a model, device and workload. Numbers are `reported` (by
a source), `measured` (in runs of references, or on the lab's small models) or `predicted`: never mix them, and cite the
source given.
That two techniques are not known to conflict does not mean that they work together.
Ids stand in `search`; a query such as `stage:prefilling training:none -need:attention-map` narrows it down.
"""


class Tools:
    """What an agent may ask. Docstrings and annotations are what it is told of each tool."""

    def __init__(self, root: Path) -> None:
        self._planner = Planner(root)

    def search(self, query: str = "") -> dict[str, Any]:
        """Techniques that a query finds, all without one: fields (`stage:decoding`, `year>=2024`), relations
        (`composes-with(fastv)`, `like(fastv)`), and, or, not, parentheses. Each row says why it is there.
        """
        if not query:
            techniques = by_pipeline(self._kb.atlas, self._kb.atlas.techniques.values())
            return {"techniques": [table_row(self._kb.atlas, technique) for technique in techniques]}
        answer = self._kb.query(query)
        rows = [{**table_row(self._kb.atlas, row.technique), "because": reasons(row)["edges"]} for row in answer.rows]
        return {"techniques": rows, "why_empty": answer.why_empty}

    def show(self, id: str) -> dict[str, Any]:  # noqa: A002 - the name that an agent sees
        """The whole record of anything in the catalog by id, name or alias: a technique with its interactions, a model,
        a device, a workload, a serving system, a term of a vocabulary, a work.
        """
        return {"records": [record_json(self._kb, each) for each in records_named(self._kb, id)]}

    def estimate(
        self,
        model: str,
        hardware: str,
        workload: str = "single-image-chat",
        stack: str = "",
        images: int | None = None,
        text_tokens: int | None = None,
        output_tokens: int | None = None,
        batch: int | None = None,
        efficiency: str | None = None,
        runtime: str | None = None,
    ) -> dict[str, Any]:
        """Predicted time, memory and energy of a request by stage, and what bounds each. `stack` is such as
        `fastv:keep_ratio=0.5+kivi`; `efficiency` is ideal (no kernel is faster; default), typical or survey; `runtime`
        is software such as vllm or transformers, whose kernels and host then count. SI units.
        """
        estimated = self._planner.estimate(
            model, hardware, self._workload(workload, images, text_tokens, output_tokens, batch), stack=stack,
            efficiency=efficiency, runtime=runtime,
        )  # fmt: skip
        return contract(estimated)

    def plan(
        self,
        model: str,
        hardware: str,
        goal: str,
        workload: str = "single-image-chat",
        slo: list[str] | None = None,
        training: str | None = None,
        require: str | None = None,
        exclude: str | None = None,
        max_techniques: int = 3,
    ) -> dict[str, Any]:
        """Stacks of techniques that bring `goal` (ttft, tpot, total, memory, cost or energy) down most, why others
        lost, what is known of each pair, and what was not searched. `slo` are limits such as `ttft=500ms`; `training`
        is what may be trained at most (none, calibration, finetune); `require` and `exclude` are queries.
        """
        return self._planner.plan(
            model, hardware, workload, goal=goal, slo=limits(slo or ()), training=training, require=require,
            exclude=exclude, max_techniques=max_techniques,
        ).to_dict()  # fmt: skip

    def interactions(
        self, one: str, two: str, model: str, hardware: str, workload: str = "single-image-chat"
    ) -> dict[str, Any]:
        """What two techniques buy together, against what each buys alone, predicted; and what is known of the pair."""
        edges = [edge_row(edge) for edge in self._kb.between(one.partition(":")[0], two.partition(":")[0])]
        return {**self._planner.interactions(one, two, model, hardware, workload).to_dict(), "edges": edges}

    def cite(self, words: list[str], style: str = "bibtex") -> str:
        """References to the works behind techniques (ids or queries), as bibtex, latex, csl or ris."""
        return references(self._kb, words, style)

    @property
    def _kb(self) -> KnowledgeBase:
        return self._planner.kb

    def _workload(
        self, workload: str, images: int | None, text: int | None, output: int | None, batch: int | None
    ) -> Workload:
        return request(self._planner.workload(workload), count=images, text=text, output=output, batch=batch)


def server(root: Path) -> MCPServer[Any]:
    """The server of one catalog."""
    tools = Tools(root)
    door: MCPServer[Any] = MCPServer("lvlm-atlas", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING")
    for tool in (tools.search, tools.show, tools.estimate, tools.plan, tools.interactions, tools.cite):
        door.add_tool(_answering(tool))
    return door


def _answering(tool: Callable[..., Any]) -> Callable[..., Any]:
    """The tool, whose errors of input reach the agent as the sentence that a person would get."""

    @wraps(tool)
    def answer(*args: Any, **given: Any) -> Any:
        try:
            return tool(*args, **given)
        except AtlasError as error:
            raise ToolError(str(error)) from None

    return answer
