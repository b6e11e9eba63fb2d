"""Names as a sweep takes them: ids, patterns, `all`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase

from lvlm_atlas.fault import AtlasError, suggestion


def chosen(what: str, words: Iterable[str], known: Collection[str], id_of: Callable[[str], str]) -> tuple[str, ...]:
    """The ids that the words stand for, each once, in the order of the words.

    Args:
        what: what is named, such as `model`.
        words: ids or other names, patterns such as `qwen*`, `all`; several in one if commas part them.
        known: the ids there are.
        id_of: the id of something by one of its names; raises if there is none.

    Raises:
        AtlasError: a name is unknown, a pattern matches nothing, or there is no word.
    """
    ids: dict[str, None] = {}
    for word in (part.strip() for each in words for part in each.split(",")):
        if word == "all":
            ids |= dict.fromkeys(known)
        elif "*" in word:
            ids |= dict.fromkeys(matching(what, word, known))
        elif word:
            ids[id_of(word)] = None
    if not ids:
        raise AtlasError(f"there is no {what} to sweep over; name one, a pattern such as 'a*', or all")
    return tuple(ids)


def matching(what: str, pattern: str, known: Collection[str]) -> tuple[str, ...]:
    """The ids that a pattern matches, in their order.

    Raises:
        AtlasError: it matches none.
    """
    matches = tuple(id_ for id_ in known if fnmatchcase(id_, pattern.lower()))
    if not matches:
        raise AtlasError(f"no {what} matches {pattern!r}; {suggestion(pattern.replace('*', ''), known)}")
    return matches
