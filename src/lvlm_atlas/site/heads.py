"""What the head of a page tells machines: where it lies, what a shared link shows, what it is about.

Both site engines leave this to templates, of which there are two kinds; so it is put into the built pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from lvlm_atlas.site.content import Content, Page
from lvlm_atlas.site.data import WHOLE
from lvlm_atlas.site.markup import attribute
from lvlm_atlas.site.published import Published
from lvlm_atlas.site.routes import FIXED, built

SCRIPTS = "script-src 'self' 'wasm-unsafe-eval'; object-src 'none'; base-uri 'self'"
"""What pages may run: the scripts beside them, none written into a page."""


def heads(content: Content, pages: Sequence[Page], published: Published) -> dict[str, str]:
    """What goes into the head of each page, by the path of its HTML."""
    return {built(page.path): "\n".join(_head(content, page, published)) for page in pages}


def _head(content: Content, page: Page, published: Published) -> Iterator[str]:
    path, about = built(page.path), page.description
    yield f'<meta property="og:title" content="{attribute(page.title)}">'
    yield '<meta property="og:site_name" content="LVLM Atlas">'
    yield f'<meta property="og:type" content="{"website" if page.path == FIXED["home"] else "article"}">'
    if about:
        yield f'<meta property="og:description" content="{attribute(about)}">'
    yield '<meta name="twitter:card" content="summary">'
    if published.url:
        address = published.url + path.removesuffix("index.html")
        yield f'<link rel="canonical" href="{attribute(address)}">'
        yield f'<meta property="og:url" content="{attribute(address)}">'
        # In JSON `<` may be written as an escape, so that no text of an entry can end the element.
        data = json.dumps(_linked_data(content, page, published), ensure_ascii=False, separators=(",", ":"))
        yield f'<script type="application/ld+json">{data.replace("<", chr(92) + "u003c")}</script>'


def _linked_data(content: Content, page: Page, published: Published) -> dict[str, Any]:
    """The page in the words of schema.org."""
    address = published.url + built(page.path).removesuffix("index.html")
    said: dict[str, Any] = {
        "@context": "https://schema.org", "@type": "WebPage", "name": page.title, "url": address,
        "description": page.description, "inLanguage": "en",
        "isPartOf": {"@type": "WebSite", "name": "LVLM Atlas", "url": published.url},
    }  # fmt: skip
    technique = page.context.get("t")
    if page.path == FIXED["home"]:
        survey = content.data.survey
        said |= {
            "@type": "Dataset", "license": "https://opensource.org/license/mit", "version": str(content.kb.edition),
            "creator": {"@type": "Organization", "name": "The LVLM Atlas contributors"},
            "distribution": [{"@type": "DataDownload", "encodingFormat": "application/gzip",
                              "contentUrl": f"{published.url}{WHOLE}"}],
            "isBasedOn": {"@type": "ScholarlyArticle", "name": survey.title, "url": survey.url},
            "potentialAction": {"@type": "SearchAction", "target": f"{published.url}?q={{search_term_string}}",
                                "query-input": "required name=search_term_string"},
        }  # fmt: skip
    elif technique is not None:
        paper = page.context["paper"]
        said |= {
            "@type": "TechArticle", "headline": page.title, "dateModified": technique.updated,
            "about": {"@type": "DefinedTerm", "name": technique.name, "alternateName": list(technique.aliases)},
            "citation": {"@type": "ScholarlyArticle", "name": paper.title, "url": paper.url,
                         "author": list(paper.authors), "datePublished": str(paper.year)},
        }  # fmt: skip
    return said
