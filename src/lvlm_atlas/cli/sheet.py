"""A technique for the terminal: what its page says."""

from __future__ import annotations

from collections.abc import Iterable

from lvlm_atlas.cli.terminal import Block, Column, Indented, Table, Text
from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.neighbourhood import by_law
from lvlm_atlas.graph.relations import reading
from lvlm_atlas.graph.result_words import kept_phrase, number_phrase, setting_of
from lvlm_atlas.graph.results import experiment_results
from lvlm_atlas.schema.effect import Effect
from lvlm_atlas.schema.elsewhere import Shipped
from lvlm_atlas.schema.reported import Reported
from lvlm_atlas.schema.technique import Parameter, Technique
from lvlm_atlas.schema.wording import as_text, change, cost, layers, setting


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
    edges = [_edge(atlas, technique, edge) for edge in atlas.interactions(technique.id)]
    laws = [Text(f"• {sentence}") for sentence in by_law(atlas, technique.id).sentences]
    parts += _section("Interactions", [*edges, *laws])
    parts += _section("Reported by its sources", (_reported(atlas, technique, each) for each in technique.reported))
    parts += _section("Shipped in", (_noted(*_shipped(atlas, shipped)) for shipped in technique.shipped_in))
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
        **({"withholds": ", ".join(technique.withholds)} if technique.withholds else {}),
        "reference": technique.reference or "none yet",
        **({"code": f"github.com/{technique.upstream.repository}"} if technique.upstream else {}),
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
        (name, parameter.symbol or "", setting(parameter.default), _legal(parameter), parameter.doc)
        for name, parameter in technique.parameters.items()
    ]
    return table


def _effect(effect: Effect) -> str:
    where = layers(effect)
    return as_text((f"{effect.quantity} ", *change(effect), *((" ", *where) if where else ())))


def _legal(parameter: Parameter) -> str:
    return parameter.range or ", ".join(map(str, parameter.choices)) or parameter.type


def _shipped(atlas: KnowledgeBase, shipped: Shipped) -> tuple[str, str]:
    """An engine and how to switch the technique on there; then what differs, and where that can be read."""
    since = f" since {shipped.since}" if shipped.since else ""
    notes = [f"departs: {shipped.departs}"] if shipped.departs else []
    notes += [f"refuses: {shipped.refuses}"] if shipped.refuses else []
    notes.append(f"[{shipped.source.paper}, {shipped.source.place}]")
    return f"{atlas.atlas.term('engine', shipped.engine).name}{since}: {shipped.how}", "  ".join(notes)


def _noted(line: str, note: str | None) -> Text:
    return Text.assemble(f"• {line}", *([(f"\n  {note}", "dim")] if note else []))


def _reported(atlas: KnowledgeBase, technique: Technique, experiment: Reported) -> Text:
    """An experiment: the model and how it was run, every number, what else decides them, the source."""
    rows = experiment_results(atlas.atlas, technique, experiment)
    how = (experiment.model_given, setting_of(experiment.setting), kept_phrase(rows[0]), experiment.device)
    source = f"[{experiment.source.paper}, {experiment.source.place}]"
    return _noted(
        f"{'; '.join(part for part in how if part)}\n  {'; '.join(map(number_phrase, rows))}",
        " ".join(part for part in (experiment.note, source) if part),
    )


def _edge(atlas: KnowledgeBase, technique: Technique, edge: Edge) -> Text:
    """An edge, read from the technique that is shown."""
    return Text.assemble(
        f"• {reading(atlas.atlas, edge, technique.id)} ",
        (edge.other(technique.id), "bold"),
        f" [{edge.evidence}]",
        (f"\n  {edge.reason}  [{edge.source}]", "dim"),
    )
