"""Renders pages: Jinja2 in which whatever an entry says is escaped unless a template says which marks it may use."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph import result_words
from lvlm_atlas.roofline import units
from lvlm_atlas.site import markup, words
from lvlm_atlas.site.content import Content, Links, Page
from lvlm_atlas.site.counts_svg import counts_picture
from lvlm_atlas.site.neighbours import neighbours
from lvlm_atlas.site.routes import relative
from lvlm_atlas.site.svg import pipeline, stage_number, strip

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(folder: Path) -> Environment:
    """Jinja2 over the site's templates and hand-written pages. A name that is not defined is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader([folder / "templates", folder / "pages"]),
        autoescape=True,
        finalize=_escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "text": markup.text,
        "code": markup.code,
        "attribute": lambda value: Markup(markup.attribute(value)),  # noqa: S704  escaped
        "legal": words.legal,
        "within_a_sentence": words.within_a_sentence,
        "setting": words.setting,
        "overhead": words.overhead,
    }
    made.globals |= {name: getattr(markup, name) for name in ("listed", "external", "fenced")}
    made.filters |= {
        "value": result_words.value_of, "baseline": result_words.baseline_of, "percent": result_words.percent_of,
        "kept": result_words.kept_of,
    }  # fmt: skip
    made.globals |= {"counted": words.counted, "units": units}
    return made


def render(content: Content, page: Page, templates: Environment) -> str:
    """The page as Markdown, with its front matter."""
    from jinja2 import TemplateError

    links = Links(content, page.path)
    atlas = content.atlas
    tools: dict[str, Any] = {
        "title": page.title, "content": content, "atlas": atlas,
        "edition": content.kb.edition, "survey": content.data.survey,
        "link": links.link, "cite": links.cite, "page": links.page, "href": links.href, "name": links.name,
        "author_year": links.author_year, "figure": figure,
        "asset": lambda name: relative(page.path, f"assets/{name}"),
        "pipeline": lambda: _both(pipeline(atlas, links.href, tall=False), pipeline(atlas, links.href, tall=True)),
        "counts_picture": counts_picture,
        "strip": lambda t: strip(atlas, t.acts_at, t.name),
        "neighbours": lambda t: neighbours(content.kb, t, links.href),
        "stage_number": lambda id_: stage_number(atlas, id_),
    }  # fmt: skip
    try:
        body = templates.get_template(page.template).render(**tools, **page.context)
    except TemplateError as error:
        raise AtlasError(f"site template {page.template}: {error}") from None
    return f"---\n{_front_matter(page)}\n---\n\n{body.strip()}\n"


def figure(drawing: Markup, class_: str, caption: str = "") -> Markup:
    """A drawing as a block of HTML that scrolls inside itself where the page is narrow."""
    if not drawing:
        return drawing
    words_ = Markup(f"<figcaption>{markup.text(caption)}</figcaption>") if caption else ""  # noqa: S704  escaped
    return Markup(f'<figure class="la-figure {class_}"><div class="la-scroll">{drawing}</div>{words_}</figure>')  # noqa: S704


def _both(wide: Markup, tall: Markup) -> Markup:
    """Two shapes of one drawing; the style sheet shows the one that fits."""
    return figure(wide, "la-wide") + Markup("\n\n") + figure(tall, "la-tall")


def _front_matter(page: Page) -> str:
    """The page's metadata. JSON is YAML too, and knows how to quote."""
    meta: dict[str, Any] = {"title": markup.attribute(page.title), "description": markup.attribute(page.description)}
    if page.tags:
        meta["tags"] = [markup.attribute(tag) for tag in page.tags]
    if page.hide:
        meta["hide"] = list(page.hide)
    # Zensical looks for links in front matter too, so that no text may have brackets there.
    return _lines((key, _quoted(value)) for key, value in meta.items() if value)


def _quoted(value: str | list[str]) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("[", r"\u005b")


def _lines(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in pairs)


def _escaped(value: object) -> object:
    """Runs over everything that a template prints."""
    return markup.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
