"""One of the processes that compute answers: `python -m lvlm_atlas.site.answers ROOT ASKED OUT PART PARTS`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lvlm_atlas
from lvlm_atlas.site.answers.answer import Answers, Searches
from lvlm_atlas.site.answers.card import card, pairs
from lvlm_atlas.site.answers.edges import edges
from lvlm_atlas.site.answers.facets import facets
from lvlm_atlas.site.answers.index import index, numbers
from lvlm_atlas.site.answers.scope import Scope, scope
from lvlm_atlas.site.answers.script import script
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.estimates import REFERENCE


def main(root: Path, asked: Path, out: Path, part: int, parts: int) -> None:
    """Write what falls to one of so many parts."""
    content = Content(lvlm_atlas.load(root))
    for name, value in _scripts(content, scope(content, asked), part, parts):
        path = out / f"{name}.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script(name, value), encoding="utf-8", newline="\n")


def _scripts(content: Content, asked: Scope, part: int, parts: int) -> Iterator[tuple[str, Any]]:
    """Names of scripts, with what they hand over."""
    numbered, searches = numbers(content), Searches(content.kb)
    if part == 0:
        yield "index", index(content, asked)
        yield "facets", facets(content, numbered)
        yield "pairs", pairs(content)
        yield "edges", edges(content, numbered)
        for technique in content.techniques:
            yield f"technique/{technique.id}", card(content, technique, numbered)
    for number, model in enumerate(content.estimates.models):
        if number % parts == part:
            answers = Answers(content, asked, model, numbered, searches)
            for device in asked.devices_of(model):
                yield f"request/{model}/{device}", answers.of_device(device)
            yield f"model/{model}", answers.of_model()
            if model == REFERENCE.model and REFERENCE.device in asked.every_device:
                yield "together", answers.together(REFERENCE.device)


if __name__ == "__main__":
    given_root, given_asked, given_out, given_part, given_parts = sys.argv[1:]
    main(Path(given_root), Path(given_asked), Path(given_out), int(given_part), int(given_parts))
