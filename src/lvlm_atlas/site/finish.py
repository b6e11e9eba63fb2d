"""Finishes what a site engine built: heads, scripts in files of their own, no padding, a sitemap where one is of use.

Works on the HTML, so that it is the same whichever engine built it.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from lvlm_atlas.site.blocks import Blocks, put_back
from lvlm_atlas.site.heads import SCRIPTS
from lvlm_atlas.site.published import Published

_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_ROOT = re.compile(r'href="([^"]*)assets/stylesheets/')
_REDIRECT = re.compile(r'"redirect":\s*"[^"]*",\s*')
"""A list of moved pages that Zensical asks for: they have pages that lead on, also without a server."""
_SHORTER = (
    (re.compile(r'<(t[dh]) style="text-align: right;">'), r'<\1 class="la-r">'),
    (re.compile(r'<span class="w">(\s*)</span>'), r"\1"),
    (re.compile(r', "search": "[^"]*"'), ""),
    (re.compile(r'"search\.[^"]*": "[^"]*", '), ""),
)
"""What engines write at length a hundred times a page: alignments, colours of blanks, words of their own search."""
_SOURCE_MAP = re.compile(r"\n?(?://# sourceMappingURL=\S+|/\*# sourceMappingURL=\S+ \*/)\s*$")
_UNUSED = ("search", "search.json", "assets/javascripts/lunr", "assets/javascripts/workers", "tags.json",
           "redirect.json", "objects.inv", "sitemap.xml", "sitemap.xml.gz")  # fmt: skip
"""What engines write and no page of ours asks for; a sitemap is written anew where there is an address."""


def finish(site: Path, heads: Mapping[str, str], blocks: Blocks, published: Published, day: str) -> None:
    """Finish a built site in place.

    Args:
        site: the site.
        heads: what goes into the head of each page, by path.
        blocks: drawings and listings that were put aside.
        published: where it is published.
        day: its date.
    """
    _thin(site)
    scripts: dict[str, str] = {}
    for file in sorted(site.rglob("*.html")):
        path = file.relative_to(site).as_posix()
        html = file.read_text(encoding="utf-8")
        if root := _ROOT.search(html):
            html = _page(html, root[1], heads.get(path, ""), scripts)
            if path == "404.html":
                html = _lost(html)
        file.write_text(_tight(put_back(html, blocks)), encoding="utf-8", newline="\n")
    for name, body in scripts.items():
        (site / "assets" / name).write_text(body, encoding="utf-8", newline="\n")
    if published.url:
        _sitemap(site, sorted(heads), published.url, day)


def _thin(site: Path) -> None:
    """Take out what no page asks for: maps of the theme's sources, the engine's search, empty lists."""
    import shutil

    for name in _UNUSED:
        unused = site / name
        if unused.is_dir():
            shutil.rmtree(unused)
        else:
            unused.unlink(missing_ok=True)
    for map_ in site.rglob("*.map"):
        map_.unlink()
    for suffix in ("js", "css"):
        for file in (site / "assets").rglob(f"*.min.{suffix}"):
            file.write_text(_SOURCE_MAP.sub("", file.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


def _page(html: str, root: str, head: str, scripts: dict[str, str]) -> str:
    """A page of the theme with its head filled, its scripts in files and none allowed inside it."""

    def outside(found: re.Match[str]) -> str:
        name = f"inline-{hashlib.sha256(found[1].encode()).hexdigest()[:8]}.js"
        scripts[name] = found[1]
        return f'<script src="{root}assets/{name}"></script>'

    html = _REDIRECT.sub("", _INLINE.sub(outside, html))
    html = re.sub(r'<link rel="canonical"[^>]*>', "", html)
    first = f'<meta http-equiv="Content-Security-Policy" content="{escape(SCRIPTS, quote=False)}">'
    html = html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{first}', 1)
    return html.replace("</head>", f"{head}\n</head>", 1)


def _lost(html: str) -> str:
    """The page for addresses that lead nowhere: it looks for names near the one asked for."""
    body = (
        "<h1>There is no such page</h1>\n<p>Ids that were renamed or split lead on; this address never was one, or has "
        "a slip in it. The search finds techniques, models, devices and words.</p>\n"
        '<div data-la-lost class="la-lost"></div>'
    )
    return re.sub(r"<h1>404[^<]*</h1>", body, html, count=1)


def _tight(html: str) -> str:
    """The page without what no reader sees: indents, quotes and closing tags that HTML lets go."""
    from minify_html import minify

    for long, short in _SHORTER:
        html = long.sub(short, html)
    return minify(html) + "\n"


def _sitemap(site: Path, paths: list[str], url: str, day: str) -> None:
    rows = "\n".join(
        f"<url><loc>{escape(url + path.removesuffix('index.html'))}</loc><lastmod>{day}</lastmod></url>"
        for path in paths
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        f"{rows}\n</urlset>\n"
    )
    (site / "sitemap.xml").write_text(text, encoding="utf-8", newline="\n")
    (site / "sitemap.xml.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (site / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {url}sitemap.xml\n", encoding="utf-8")
