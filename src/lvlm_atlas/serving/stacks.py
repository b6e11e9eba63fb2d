"""Techniques of a server: of a stack, each request gets those that take what it brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.transform import Applied
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.specs.fits import problem
from lvlm_atlas.specs.stack import Choice, parse, split, stacked

if TYPE_CHECKING:
    from lvlm_atlas.graph.knowledge import KnowledgeBase


class Stacks:
    """A stack for every kind of request.

    Args:
        kb: the techniques.
        text: the stack, such as `fastv:keep_ratio=0.25+kivi`; `none` for none.
        model: the model.
        kinds: requests that come, of which one at least must take each technique.

    Raises:
        AtlasError: as of `specs.stack.stacked`, or a technique takes none of the requests.
    """

    def __init__(self, kb: KnowledgeBase | None, text: str, model: Model, kinds: Sequence[Workload]) -> None:
        self.kb, self.model = kb, model
        plain = kb is None or text.strip() in ("", "none")
        self.choices: list[Choice] = [] if plain or kb is None else [parse(kb, part) for part in split(text)]
        self._made: dict[tuple[bool, bool], tuple[Applied, ...]] = {}
        for choice in self.choices:
            why = [problem(choice.technique, model, each) for each in kinds]
            if all(why):
                raise AtlasError(f"{choice.technique.id} {why[0]}; leave it out")
        self.labels = tuple(each.label for each in max(map(self, kinds), key=len, default=()))

    def __call__(self, workload: Workload) -> tuple[Applied, ...]:
        """The techniques for a request, in pipeline order."""
        key = (bool(workload.images), bool(workload.videos))
        if key not in self._made:
            fitting = [each for each in self.choices if not problem(each.technique, self.model, workload)]
            made: tuple[Applied, ...] = ()
            if fitting and self.kb is not None:
                made = stacked(self.kb, fitting, self.model, workload)
            self._made[key] = tuple(sorted(made, key=lambda each: each.order))
        return self._made[key]
