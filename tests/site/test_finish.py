"""What is finished in a built site: heads, scripts outside the pages, no padding, a sitemap only with an address."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import lvlm_atlas
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.site.content import Content, Page
from lvlm_atlas.site.finish import finish
from lvlm_atlas.site.heads import heads
from lvlm_atlas.site.published import UNPUBLISHED, Published, published

PAGE = """<!doctype html>
<html><head>
    <meta charset="utf-8">
  <link rel="canonical" href="old"><link rel="stylesheet" href="../assets/stylesheets/main.css">
</head>


<body>
   <script>var one = "</b>";</script><script id="__config" type="application/json">{"a": 1}</script>
   <pre>  kept

  as it is</pre>
</body></html>
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in ("techniques/a.html", "b.html"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(PAGE, encoding="utf-8")
    scripts = tmp_path / "assets" / "javascripts"
    scripts.mkdir(parents=True)
    (scripts / "bundle.min.js").write_text("run();\n//# sourceMappingURL=bundle.min.js.map\n", encoding="utf-8")
    (scripts / "bundle.min.js.map").write_text("{}", encoding="utf-8")
    (tmp_path / "sitemap.xml").write_text("<urlset/>", encoding="utf-8")
    return tmp_path


def test_scripts_stand_in_files_once_each_and_data_stay_in_the_page(folder: Path) -> None:
    finish(folder, {}, {}, UNPUBLISHED, "2026-11-30")
    html = (folder / "techniques/a.html").read_text(encoding="utf-8")
    sources = re.findall(r"<script src=\.\./assets/(inline-\w+\.js)></script>", html)
    assert len(sources) == 1
    assert (folder / "assets" / sources[0]).read_text(encoding="utf-8") == 'var one = "</b>";'
    assert [path.name for path in (folder / "assets").glob("inline-*")] == sources
    assert '{"a": 1}' in html
    assert "script-src 'self'" in html.partition("<link")[0]
    assert "unsafe-inline" not in html


def test_padding_goes_but_not_where_it_counts(folder: Path) -> None:
    finish(folder, {}, {}, UNPUBLISHED, "2026-11-30")
    html = (folder / "b.html").read_text(encoding="utf-8")
    assert "<pre>  kept\n\n  as it is</pre>" in html
    assert "\n\n" not in html.replace("kept\n\n", "")


def test_signs_written_as_numbers_become_themselves_unless_html_reads_them(folder: Path) -> None:
    (folder / "b.html").write_text(
        "<p>a&#95;b&#44; &#60;i&#62; &#38;amp; &#160;.</p><pre>&#95;</pre>", encoding="utf-8"
    )
    finish(folder, {}, {}, UNPUBLISHED, "2026-11-30")
    wanted = "<p>a_b, &lt;i> &amp;amp; \u00a0.<pre>_</pre>\n"
    assert (folder / "b.html").read_text(encoding="utf-8") == wanted


def test_no_source_map_is_shipped_or_asked_for(folder: Path) -> None:
    finish(folder, {}, {}, UNPUBLISHED, "2026-11-30")
    assert not list(folder.rglob("*.map"))
    assert "sourceMappingURL" not in (folder / "assets/javascripts/bundle.min.js").read_text(encoding="utf-8")


def test_a_sitemap_is_there_with_an_address_only(folder: Path) -> None:
    finish(folder, {}, {}, UNPUBLISHED, "2026-11-30")
    assert not (folder / "sitemap.xml").exists()
    (folder / "b.html").write_text(PAGE, encoding="utf-8")
    known = {"b.html": "<title>b</title>", "techniques/index.html": ""}
    finish(folder, known, {}, Published("https://example.org/x/"), "2026-11-30")
    listed = re.findall("<loc>(.*?)</loc>", (folder / "sitemap.xml").read_text(encoding="utf-8"))
    assert listed == ["https://example.org/x/b.html", "https://example.org/x/techniques/"]
    assert "https://example.org/x/sitemap.xml" in (folder / "robots.txt").read_text(encoding="utf-8")
    assert "<title>b</title>" in (folder / "b.html").read_text(encoding="utf-8")
    assert "href=old" not in (folder / "b.html").read_text(encoding="utf-8")


def test_linked_data_cannot_end_its_element(odd: lvlm_atlas.KnowledgeBase) -> None:
    page = Page(path="x.md", title="</script><b>", template="", description='"q" <i>')
    head = heads(Content(odd), [page], Published("https://example.org/"))["x.html"]
    data = head.partition('ld+json">')[2].partition("</script>")[0]
    assert json.loads(data)["name"] == "</script><b>"
    assert "<b>" not in head
    assert '<link rel="canonical" href="https://example.org/x.html">' in head


@pytest.mark.parametrize("typed", ["example.org", "https://a b/", "ftp://x", "https://x/?q"])
def test_an_address_that_is_none_is_refused(typed: str) -> None:
    with pytest.raises(AtlasError, match="--url is an address such as"):
        published(typed, None)


def test_addresses_end_in_one_slash() -> None:
    there = published("https://example.org/atlas", "https://example.org/repo///")
    assert there == Published("https://example.org/atlas/", "https://example.org/repo/")
    assert there.edit("catalog/a.yaml") == "https://example.org/repo/edit/main/catalog/a.yaml"
    assert UNPUBLISHED.edit("catalog/a.yaml") == ""
