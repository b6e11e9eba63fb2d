"""A technique for the terminal: what its page says."""

from __future__ import annotations

from collections.abc import Iterable

from lvlm_atlas.cli.terminal import Block, Column, Indented, Table, Text
from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.relations import reading
from lvlm_atlas.schema.effect import Effect
from lvlm_atlas.schema.technique import Parameter, Setting, Technique
from lvlm_atlas.schema.wording import as_text, change, cost, layers


def sheet(atlas: KnowledgeBase, technique: Technique) -> list[Block]:
    """Everything a reader wants to know, answer first."""
    paper = atlas.atlas.papers[technique.paper]
    parts: list[Block] = [
        Text.assemble((technique.name, "bold"), f"  {technique.id}", ("" if technique.reference else "  (described)")),
        Text(technique.summary),
        Text(""),
        _facts(atlas, technique),
    ]
    parts += _section("How it works", [Text(technique.explanation)])
    steps = (f"{number}. {step.does}" for number, step in enumerate(technique.algorithm, start=1))
    parts += _section("Algorithm", map(Text, steps))
    parts += _section("Parameters", [_parameters(technique)] if technique.parameters else [])
    parts += _section("Effects", (_noted(_effect(e), e.note) for e in technique.effects))
    parts += _section("Overheads", (_noted(f"{o.stage}: {as_text(cost(o))}", o.why) for o in technique.overheads))
    parts += _section("Interactions", (_edge(atlas, technique, e) for e in atlas.interactions(technique.id)))
    reported = (
        _noted(f"{r.claim}: {r.value}", f"{r.setting}  [{r.source.paper}, {r.source.place}]")
        for r in technique.reported
    )
    parts += _section("Reported by its sources", reported)
    parts += _section("Pitfalls", (Text(f"• {pitfall.mistake}") for pitfall in technique.pitfalls))
    parts += _section(
        "Paper", [Text(f"{'; '.join(paper.authors)} ({paper.year}). {paper.title}. {paper.venue}. {paper.url}")]
    )
    return parts


def _facts(atlas: KnowledgeBase, technique: Technique) -> Table:
    rows = {
        "stage": technique.stage,
        "family": technique.family,
        "acts at": ", ".join(technique.acts_at),
        "relieves": ", ".join(f"{relief.stage}/{relief.bound}" for relief in technique.relieves),
        "training": technique.training,
        "decides by": ", ".join(technique.signals) + (", the prompt" if technique.query_aware else ""),
        "needs": ", ".join(technique.needs) or "nothing special",
        "reference": technique.reference or "none yet",
        "checked": f"against {technique.verified}, {technique.updated}",
        "entry": str(atlas.atlas.paths[technique.id]),
    }
    facts = Table([Column(style="dim", wrap=False), Column()], head=False)
    facts.rows += rows.items()
    return facts


def _section(title: str, body: Iterable[Block]) -> list[Block]:
    lines = list(body)
    if not lines:
        return []
    return [Text(""), Text(title, style="bold"), *map(Indented, lines)]


def _parameters(technique: Technique) -> Table:
    table = Table([Column(name) for name in ("name", "symbol", "default", "legal", "meaning")])
    table.rows += [
        (name, parameter.symbol or "", _value(parameter.default), _legal(parameter), parameter.doc)
        for name, parameter in technique.parameters.items()
    ]
    return table


def _effect(effect: Effect) -> str:
    where = layers(effect)
    return as_text((f"{effect.quantity} ", *change(effect), *((" ", *where) if where else ())))


def _value(value: Setting) -> str:
    """A value as YAML writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _legal(parameter: Parameter) -> str:
    return parameter.range or ", ".join(map(str, parameter.choices)) or parameter.type


def _noted(line: str, note: str | None) -> Text:
    return Text.assemble(f"• {line}", *([(f"\n  {note}", "dim")] if note else []))


def _edge(atlas: KnowledgeBase, technique: Technique, edge: Edge) -> Text:
    """An edge, read from the technique that is shown."""
    return Text.assemble(
        f"• {reading(atlas.atlas, edge, technique.id)} ",
        (edge.other(technique.id), "bold"),
        f" [{edge.evidence}]",
        (f"\n  {edge.reason}  [{edge.source}]", "dim"),
    )
