"""What surrounds a technique: every stored interaction on the way outwards as rows to read, the laws in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.interactions import Interactions
from lvlm_atlas.graph.laws import same_quantity
from lvlm_atlas.graph.relations import reading
from lvlm_atlas.schema.vocabulary import PositionTerm


class Neighbour(NamedTuple):
    """One interaction, read outwards from the technique that is nearer to the middle."""

    step: int
    """How many interactions away from the middle the far end is, along this one; 1 touches the middle."""
    id: str
    """The near end."""
    reads: str
    """How the interaction reads from the near end: `is fed by`."""
    other: str
    """The far end."""
    edge: Edge
    """The interaction, with reason, evidence and source."""


def neighbourhood(kb: Interactions, id_: str, depth: int = 1) -> tuple[Neighbour, ...]:
    """The interactions at most `depth` steps out from a technique, nearest first.

    Raises:
        AtlasError: there is no such technique, or `depth` is below 1.
    """
    middle = kb.technique(id_).id
    distance = {middle: 0} | {end: len(path) - 1 for end, path in kb.paths(middle, depth).items()}
    rows = []
    for edge in kb.edges:
        near, far = sorted((edge.start, edge.end), key=lambda end: (distance.get(end, depth + 1), end != edge.start))
        step = distance.get(near, depth + 1) + 1
        if step <= depth:
            rows.append(Neighbour(step, near, reading(kb.atlas, edge, near), far, edge))
    return tuple(sorted(rows, key=lambda row: (row.step, row.id, row.edge.kind, row.other)))


class Remainder(NamedTuple):
    """Interactions of one technique that a short list leaves out, of one kind, step and direction."""

    step: int
    id: str
    """The near end."""
    reads: str
    """How they read from the near end."""
    predicted: bool
    """Whether the roofline predicts them, where the others are stated or follow from a rule."""
    others: tuple[str, ...]
    """The far ends."""


def folded(rows: Iterable[Neighbour], most: int) -> Iterator[Neighbour | Remainder]:
    """The rows, at most so many of a kind for each near end, and after those what is left of that kind.

    Statements come before what rules derive, and the strongest prediction first.
    """
    groups: dict[tuple[int, str, str, bool], list[Neighbour]] = defaultdict(list)
    for row in rows:
        groups[row.step, row.id, row.reads, row.edge.evidence == "predicted"].append(row)
    for key, group in groups.items():
        group.sort(key=lambda row: informative_first(row.edge))
        yield from group[:most]
        if len(group) > most:
            yield Remainder(*key, tuple(row.other for row in group[most:]))


def informative_first(edge: Edge) -> tuple[bool, float]:
    """A key that sorts statements before what rules derive, and the strongest prediction first."""
    return edge.evidence == "derived", -edge.strength


class ByLaw(NamedTuple):
    """What the laws say of one technique, by places and quantities instead of the names of all others."""

    id: str
    feeds: tuple[PositionTerm, ...]
    """The places that receive less for what it reduces, in pipeline order."""
    fed_by: tuple[PositionTerm, ...]
    """The places at which a reduction leaves less for it."""
    shared: tuple[str, ...]
    """The quantities that it reduces."""
    sharing: int
    """How many others it diminishes, or is diminished by, since they reduce one of them too."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """The same in words, each with a query that lists the techniques."""
        said = []
        if self.feeds:
            places = f"from `{self.feeds[0].id}` to `{self.feeds[-1].id}`"
            said.append(f"It cascades to whatever acts later, {places} (`is-fed-by({self.id})`).")
        if self.fed_by:
            places = f"from `{self.fed_by[0].id}` to `{self.fed_by[-1].id}`"
            said.append(
                f"It is fed by whatever reduces frames or tokens before it, {places} (`cascades-to({self.id})`)."
            )
        if self.sharing:
            others = "1 other reduces" if self.sharing == 1 else f"{self.sharing} others reduce"
            quantities = " or ".join(f"`{quantity}`" for quantity in self.shared)
            said.append(
                f"{others} {quantities} too, so that the later of two saves less (`diminishes({self.id})`, "
                f"`is-diminished-by({self.id})`)."
            )
        return tuple(said)


def by_law(kb: Interactions, id_: str) -> ByLaw:
    """What the laws say of one technique."""
    id_ = kb.technique(id_).id
    sharing = {edge.other(id_) for edge in kb.of_kind(id_, same_quantity.kind) if same_quantity.id in edge.rules}
    reduced = dict.fromkeys(each.quantity for each in kb.laws.placed(id_) if each.reduces)
    return ByLaw(id_, kb.laws.feeds(id_), kb.laws.fed_by(id_), tuple(reduced), len(sharing))
