"""The knowledge base: an atlas with its relations, for Python. `lvlm_atlas.load()` returns it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.interactions import Interactions
from lvlm_atlas.rows import frame
from lvlm_atlas.schema.technique import Technique

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import networkx as nx

    from lvlm_atlas.atlas.edition import Edition
    from lvlm_atlas.graph.answer import Answer
    from lvlm_atlas.graph.results import ReportedResult

# networkx takes 0.2 s to import; what a caller does not use is not imported.
# ruff: noqa: PLC0415

Value = str | bool | int
"""A value of a field, as `where` takes it."""


@dataclass(frozen=True, repr=False, eq=False)
class KnowledgeBase(Interactions):
    """An atlas, the edges between its techniques, and the questions one can ask of them.

    It iterates over the techniques; `kb["fastv"]` is one of them, by id, former id, name or alias.
    """

    @property
    def techniques(self) -> Mapping[str, Technique]:
        """Techniques by id, ids ascending."""
        return self.atlas.techniques

    def __iter__(self) -> Iterator[Technique]:
        return iter(self.atlas.techniques.values())

    def __len__(self) -> int:
        return len(self.atlas.techniques)

    def __getitem__(self, id_: str) -> Technique:
        return self.technique(id_)

    def __contains__(self, technique: object) -> bool:
        if isinstance(technique, str):
            try:
                return self.technique(technique) is not None
            except AtlasError:
                return False
        return any(technique is each for each in self)

    def __repr__(self) -> str:
        counts = f"{len(self.atlas.techniques)} techniques, {len(self.atlas.models)} models"
        return f"<KnowledgeBase at {self.atlas.root}: {counts}, {len(self.atlas.hardware)} devices>"

    def _repr_markdown_(self) -> str:
        from lvlm_atlas.graph.answer import table_of

        return table_of(self)

    def records(self) -> list[dict[str, Any]]:
        """A record for each technique."""
        from lvlm_atlas.graph.answer import records_of

        return records_of(self)

    def to_pandas(self) -> Any:
        """The records as a pandas frame.

        Raises:
            AtlasError: pandas is not installed.
        """
        return frame(self.records())

    @cached_property
    def edition(self) -> Edition:
        """Which data these are: date and digest."""
        from lvlm_atlas.atlas.edition import edition

        return edition(self.atlas)

    @cached_property
    def graph(self) -> nx.MultiDiGraph[str]:
        """Techniques, terms and papers as one networkx graph."""
        from lvlm_atlas.graph.network import network

        return network(self.atlas, self.edges, self.laws)

    def query(self, text: str) -> Answer:
        """The techniques that a query finds, each with its reasons.

        Raises:
            QueryError: the query cannot be answered as written.
        """
        from lvlm_atlas.graph.query import answer

        return answer(self, text)

    def where(self, **conditions: Value | tuple[Value, ...]) -> tuple[Technique, ...]:
        """The techniques that meet all conditions, given as `field=value`; of a tuple, any value will do.

        A year may be compared, as in `where(year=">=2024")`.

        Raises:
            AtlasError: there is no such field, or the field has no such value.
        """
        from lvlm_atlas.graph.field_table import field_named

        matches = list(self.atlas.techniques.values())
        for name, given in conditions.items():
            field = field_named(name)
            values = given if isinstance(given, tuple) else (given,)
            tests = [field.test(self.atlas, str(value)) for value in values]
            matches = [technique for technique in matches if any(test(technique) is not None for test in tests)]
        return tuple(matches)

    def results(
        self,
        query: str | None = None,
        *,
        benchmark: str | None = None,
        metric: str | None = None,
        model: str | None = None,
    ) -> tuple[ReportedResult, ...]:
        """Numbers that sources report of the techniques that a query finds, by default of all.

        Those of one benchmark or metric and of one model stand together, the most vision tokens kept first;
        see `graph.results.results`. A benchmark, metric or model that every answer to the query must have is asked of
        the numbers too: `benchmark:gqa` finds scores on GQA alone.

        Raises:
            AtlasError: the query cannot be answered as written, or there is no such benchmark, metric or model.
        """
        from lvlm_atlas.graph.query import required
        from lvlm_atlas.graph.results import results

        techniques: Iterable[Technique] = self.atlas.techniques.values()
        if query is not None:
            techniques = [row.technique for row in self.query(query).rows]
            asked = required(query, ("reported_on", "reports", "reported_for"))
            if benchmark is None and metric is None:
                benchmark, metric = asked.get("reported_on"), asked.get("reports")
            model = model or asked.get("reported_for")
        return results(self.atlas, techniques, benchmark=benchmark, metric=metric, model=model)
