"""Files that lead from the site to other tools: all references at once, and feeds of what changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from lvlm_atlas.atlas.citation import csl, ris
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.markup import bare, clean
from lvlm_atlas.site.routes import built

FEED = "feed.xml"
_MOST = 50
"""Entries of a feed."""


def doors(content: Content) -> Iterator[tuple[str, str]]:
    """Each file: its path and its text. Feeds need an address, since what they hold is read elsewhere."""
    papers = content.atlas.papers.values()
    yield "references.bib", "\n\n".join(paper.bibtex.strip() for paper in papers) + "\n"
    yield "references.ris", "\n\n".join(ris(paper) for paper in papers) + "\n"
    yield "references.csl.json", json.dumps([csl(paper) for paper in papers], ensure_ascii=False, indent=1) + "\n"
    if content.published.url:
        latest = changed(content)[:_MOST]
        yield FEED, _atom(content, latest)
        yield "feed.json", _json_feed(content, latest)


def changed(content: Content) -> list[Technique]:
    """All techniques, the one last changed first."""
    return sorted(content.techniques, key=lambda t: (t.updated, t.id), reverse=True)


def _address(content: Content, technique: Technique) -> str:
    return content.published.url + built(content.routes.path("technique", technique.id))


def _atom(content: Content, latest: list[Technique]) -> str:
    url = content.published.url
    entries = (
        f"<entry><title>{escape(clean(t.name))}</title><id>{escape(_address(content, t))}#{t.updated}</id>"
        f"<link href={quoteattr(_address(content, t))}/><updated>{t.updated}T00:00:00Z</updated>"
        f"<summary>{escape(clean(bare(t.summary)))}</summary></entry>"
        for t in latest
    )
    day = latest[0].updated if latest else "1980-01-01"
    return "\n".join([
        '<?xml version="1.0" encoding="utf-8"?>', '<feed xmlns="http://www.w3.org/2005/Atom">',
        f"<title>LVLM Atlas: entries as they change</title><id>{escape(url)}</id>",
        f"<link href={quoteattr(url)}/><link rel=\"self\" href={quoteattr(url + FEED)}/>",
        f"<updated>{day}T00:00:00Z</updated><author><name>The LVLM Atlas contributors</name></author>",
        *entries, "</feed>", "",
    ])  # fmt: skip


def _json_feed(content: Content, latest: list[Technique]) -> str:
    url = content.published.url
    items = [
        {"id": f"{_address(content, t)}#{t.updated}", "url": _address(content, t), "title": t.name,
         "content_text": bare(t.summary), "date_modified": f"{t.updated}T00:00:00Z"}
        for t in latest
    ]  # fmt: skip
    document = {
        "version": "https://jsonfeed.org/version/1.1", "title": "LVLM Atlas: entries as they change",
        "home_page_url": url, "feed_url": f"{url}feed.json", "items": items,
    }  # fmt: skip
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"
