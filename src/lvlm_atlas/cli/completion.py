"""What the shell offers at Tab, from names and lines of files: nobody waits for a catalog to load."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from lvlm_atlas.atlas.root import data_root

Complete = Callable[[typer.Context, str], list[str]]
"""Takes the command so far and the word so far; gives whole words."""

_FOLDERS = {
    "technique": "catalog/techniques", "model": "catalog/models", "device": "catalog/hardware",
    "workload": "catalog/workloads", "system": "catalog/systems", "list": "catalog/lists",
    "runtime": "catalog/runtimes",
}  # fmt: skip


def ids_of(*kinds: str) -> Complete:
    """Completes ids of records of some kinds."""

    def complete(context: typer.Context, word: str) -> list[str]:
        return [id_ for kind in kinds for id_ in _ids(_root(context), kind) if id_.startswith(word)]

    return complete


def words_of(words: Callable[[], tuple[str, ...]]) -> Complete:
    """Completes words that the program knows, asked for only then."""

    def complete(_: typer.Context, word: str) -> list[str]:
        return [each for each in words() if each.startswith(word)]

    return complete


def stacks(context: typer.Context, word: str) -> list[str]:
    """Completes the last technique of a stack such as `fastv:layer=2+ki`, or the parameter that is begun."""
    root = _root(context)
    head, plus, last = word.rpartition("+")
    id_, colon, settings = last.partition(":")
    before = head + plus
    if not colon:
        return [before + each for each in _ids(root, "technique") if each.startswith(id_)]
    done, comma, name = settings.rpartition(",")
    if "=" in name:
        return []
    names = _parameters(root, id_)
    return [f"{before}{id_}:{done}{comma}{each}=" for each in names if each.startswith(name)]


def queries(context: typer.Context, word: str) -> list[str]:
    """Completes the field that a condition begins with, or the term behind it."""
    from lvlm_atlas.graph.field_table import FIELDS
    from lvlm_atlas.graph.fields import TermField

    head, last = re.fullmatch(r"(.*?[\s(-]?)([^\s(-]*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
    name, colon, value = last.partition(":")
    if not colon:
        fields = (written for field in FIELDS for written in (field.name, *field.aliases))
        return [f"{head}{each}:" for each in fields if each.startswith(name)]
    for field in FIELDS:
        if name in (field.name, *field.aliases) and isinstance(field, TermField):
            return [
                f"{head}{name}:{each}" for each in _terms(_root(context), field.vocabulary) if each.startswith(value)
            ]
    return []


def vocabularies(context: typer.Context, word: str) -> list[str]:
    """Completes names of vocabularies."""
    return [name for name, _ in _vocabularies(_root(context)) if name.startswith(word)]


def _root(context: typer.Context) -> Path:
    given = context.params.get("root")
    return Path(given) if given else data_root()


def _ids(root: Path, kind: str) -> list[str]:
    return sorted(file.stem for file in (root / _FOLDERS[kind]).rglob("*.yaml"))


def _parameters(root: Path, id_: str) -> list[str]:
    """Names of the parameters of a technique: the keys below `parameters:` in its file."""
    for file in (root / _FOLDERS["technique"]).rglob(f"{id_}.yaml"):
        block = re.search(r"^parameters:\n((?:  .*\n)+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        return re.findall(r"^  (\w+):", block[1], re.MULTILINE) if block else []
    return []


def _vocabularies(root: Path) -> Iterator[tuple[str, str]]:
    """Each vocabulary's name, with its file as text."""
    for file in sorted((root / "taxonomy").glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        name = re.search(r"^vocabulary: (\S+)$", text, re.MULTILINE)
        if name:
            yield name[1], text


def _terms(root: Path, vocabulary: str) -> list[str]:
    return [
        id_
        for name, text in _vocabularies(root)
        if name == vocabulary
        for id_ in re.findall(r"^ *- (?:\{ *)?id: ([\w.-]+)", text, re.MULTILINE)
    ]
