"""Ids of a loaded atlas that lead nowhere, found without applying all rules."""

from __future__ import annotations

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.schema.record import refs_in


def dangling(atlas: Atlas) -> list[str]:
    """What techniques name and no vocabulary, entry or bibliography has, each as `id: what 'name'`."""
    known = {name: {term.id for term in vocabulary.terms} for name, vocabulary in atlas.vocabularies.items()}
    known["technique"] = {*atlas.techniques, *atlas.redirects, *atlas.drafts}
    known["paper"] = {*atlas.papers}
    return [
        f"{technique.id}: {to} {id_!r}"
        for technique in atlas.techniques.values()
        for _, to, id_ in refs_in(technique)
        if id_ not in known.get(to, {id_})
    ]


def warning(atlas: Atlas) -> str | None:
    """What to say of them in a line; None if there are none."""
    found = dangling(atlas)
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0]}{more} lead nowhere; `lvlm-atlas check` names them all" if found else None
