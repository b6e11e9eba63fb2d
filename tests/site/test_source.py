"""The reference's source on its page: read, not run, and linked line by line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import lvlm_atlas
from lvlm_atlas.site.source import Lines, Source, source_of

TEXT = '''"""A <module> & its text.

```
not a fence
```
"""

@decorated
def score(x):
    return x


class Method:
    def score_all(self):
        return score(1)

    async def later(self):
        pass
'''


@pytest.fixture
def source() -> Source:
    return Source("src/x.py", TEXT, "Method")


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("score", Lines(8, 10)),
        ("score_all", Lines(14, 15)),
        ("Method.score_all", Lines(14, 15)),
        ("Method", Lines(13, 18)),
        ("later", Lines(17, 18)),
        ("missing", None),
        ("score.inner", None),
    ],
)
def test_a_step_finds_its_lines(source: Source, code: str, lines: Lines | None) -> None:
    assert source.lines(code) == lines


def test_every_line_has_an_anchor_and_is_escaped(source: Source) -> None:
    html = source.html()
    assert html.count('<a id="line-') == len(TEXT.splitlines())
    assert "&lt;module&gt;" in html
    assert "\n```" not in html  # it would open a fence in the page


def test_a_source_that_does_not_parse_is_shown_without_links() -> None:
    assert Source("src/x.py", "def (", "X").lines("x") is None


def test_a_reference_that_is_not_there_has_no_source(tmp_path: Path) -> None:
    assert source_of("lvlm_atlas.reference.techniques.nothing:Nothing") is None
    assert source_of("other_package.reference.techniques.prefilling.fastv:FastV") is None
    assert source_of(None) is None


def test_every_step_that_names_code_links_to_it(catalog: lvlm_atlas.KnowledgeBase) -> None:
    for technique in catalog.atlas.techniques.values():
        source = source_of(technique.reference)
        for step in technique.algorithm:
            assert not (source and step.code) or source.lines(step.code), (technique.id, step.code)
            assert not (source and step.code) or source.snippet(step.code), (technique.id, step.code)


def test_the_site_never_imports_torch(odd_root: Path, tmp_path: Path) -> None:
    code = (
        "import sys, lvlm_atlas; from pathlib import Path; from lvlm_atlas.site.build import generate;"
        f"generate(lvlm_atlas.load({str(odd_root)!r}), Path({str(tmp_path)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
