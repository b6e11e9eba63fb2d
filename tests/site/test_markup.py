"""Text of entries as Markdown: whatever they say is shown, and nothing of it is obeyed."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import markdown
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.site.markup import attribute, bare, clean, code, external, fenced, listed, plain, text

CONFIG = yaml.safe_load((Path(__file__).resolve().parents[2] / "site/mkdocs.yml").read_text(encoding="utf-8"))
SIGNS = st.text(st.sampled_from("ab1.-+*_`|<>&[](){}!#~^=:$\\\"'/%; \n\t\x02\x03½é"), max_size=40)
ANY = st.one_of(SIGNS, st.text(max_size=40))


class Seen(HTMLParser):
    """The tags and the text of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(source: str) -> Seen:
    names, configs = [], {}
    for extension in CONFIG["markdown_extensions"]:
        name, config = next(iter(extension.items())) if isinstance(extension, dict) else (extension, {})
        names.append(name)
        configs[name] = config
    return Seen(markdown.markdown(source, extensions=names, extension_configs=configs))


def said(value: str) -> str:
    return " ".join(clean(value).split())


@given(ANY)
def test_a_paragraph_says_the_text_and_nothing_else(value: str) -> None:
    seen = rendered(f"before\n\n{plain(value)}\n\nafter")
    assert set(seen.tags) <= {"p"}
    assert " ".join(seen.text.split()) == " ".join(f"before {said(value)} after".split())


@given(ANY, ANY)
def test_a_table_keeps_its_shape(one: str, two: str) -> None:
    seen = rendered(f"| a | b |\n|---|---|\n| {text(one)} | {code(two)} |\n")
    assert seen.tags.count("td") == 2
    assert set(seen.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code", "em"}


@given(ANY)
def test_a_heading_an_item_and_a_link_show_the_text(value: str) -> None:
    seen = rendered(f"# T {plain(value)}\n\n- {text(value)}\n\n[{plain(value)}x](#y)\n")
    assert set(seen.tags) <= {"h1", "ul", "li", "a", "p", "code", "em"}
    assert seen.text.count("<") == said(value).count("<") * 2 + said(bare(value)).count("<")


@given(ANY)
def test_code_is_shown_as_it_is(value: str) -> None:
    seen = rendered(f"x {code(value)} y")
    assert seen.tags == ["p", "code"]
    assert " ".join(seen.text.split()) == " ".join(f"x {said(value)} y".split())


@given(st.one_of(SIGNS, st.text(st.sampled_from("`~ \na<"), max_size=30)))
def test_a_fence_holds_whatever_is_in_it(value: str) -> None:
    seen = rendered(f"before\n\n{fenced(value, 'bibtex')}\n\nafter")
    assert set(seen.tags) <= {"p", "div", "pre", "code", "span", "a"}
    assert seen.tags.count("pre") == 1
    assert "".join(seen.text.split()) == "".join(f"before{clean(value)}after".split())


@given(ANY, ANY)
def test_a_link_out_is_one_link(url: str, label: str) -> None:
    seen = rendered(f"see {external('https://example.org/' + url, label)}.")
    assert seen.tags == ["p", "a"]


@pytest.mark.parametrize(
    ("written", "tags"),
    [
        ("a `b` c", ["code"]),
        ("an *important* word", ["em"]),
        ("2 * 3 * 4", []),
        ("a*b*c", []),
        ("`unclosed", []),
        ("*a `b` c*", ["code"]),
    ],
)
def test_marks_become_tags_where_they_are_meant(written: str, tags: list[str]) -> None:
    assert rendered(f"x {text(written)}").tags == ["p", *tags]


def test_a_list_escapes_what_is_not_yet_markup() -> None:
    assert listed(["a_b", code("c")]) == "a&#95;b, <code>c</code>"


def test_an_attribute_cannot_be_left() -> None:
    assert attribute('x" onload="<y>') == "x&quot; onload=&quot;&lt;y&gt;"


@pytest.mark.parametrize(
    ("formula", "shown"),
    [
        ("N_v + N_in", "<code>N<sub>v</sub> &#43; N<sub>in</sub></code>"),
        ("key_BGSd", "<code>key&#95;BGSd</code>"),
        ("N_vision", "<code>N&#95;vision</code>"),
        ("N_v_x", "<code>N&#95;v&#95;x</code>"),
    ],
)
def test_indices_of_symbols_stand_below_the_line_and_names_stay(formula: str, shown: str) -> None:
    assert code(formula) == shown
