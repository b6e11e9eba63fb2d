"""Both engines build the same site: pages, anchors and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lvlm_atlas
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.site import build as module
from lvlm_atlas.site.build import build, generate


@pytest.fixture(scope="module")
def other(odd: lvlm_atlas.KnowledgeBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The odd site, built by Zensical."""
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("zensical")
    return build(odd, folder / "site", docs=folder / "docs", engine="zensical")


def pages(folder: Path) -> dict[str, str]:
    return {page.relative_to(folder).as_posix(): page.read_text(encoding="utf-8") for page in folder.rglob("*.html")}


def article(html: str) -> str:
    return html.partition("<article")[2].partition("</article>")[0]


def test_both_engines_make_the_same_pages_anchors_and_links(odd_site: Path, other: Path) -> None:
    ours, theirs = pages(odd_site), pages(other)
    assert set(ours) == set(theirs)
    for path, html in ours.items():
        one, two = article(html), article(theirs[path])
        ids = [set(re.findall(r'\bid="?([^"\s>]+)', each)) - {"__skip"} for each in (one, two)]
        assert ids[0] == ids[1], path
        links = [{link.removeprefix("./") for link in re.findall(r'href="?([^"\s>]+)', each)} for each in (one, two)]
        if path != "tags.html":  # Zensical links the names of tags too
            assert links[0] == links[1], path


def test_no_engine_leaves_scripts_in_pages_or_a_search_of_its_own(odd_site: Path, other: Path) -> None:
    for folder in (odd_site, other):
        for path, html in pages(folder).items():
            if "Redirecting" not in html:
                assert "<script>" not in html, path
                assert "md-search" not in html, path
        assert not (folder / "search.json").exists()
        assert not list(folder.rglob("*.map"))


def test_zensical_too_refuses_a_link_that_leads_nowhere(
    odd: lvlm_atlas.KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zensical")

    def broken(kb: lvlm_atlas.KnowledgeBase, folder: Path, **more: str) -> Path:
        made = generate(kb, folder, **more)
        with (made / "pages/index.md").open("a", encoding="utf-8") as page:
            page.write("\n[gone](gone.md)\n")
        return made

    monkeypatch.setattr(module, "generate", broken)
    with pytest.raises(AtlasError, match="the site does not build: ") as caught:
        build(odd, tmp_path / "site", engine="zensical")
    assert re.search(r"page does not exist: index.md:\d+:\d+", str(caught.value))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
