"""llms.txt: where a language model that reads the site finds what, as data rather than pages."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.site.content import Content
from lvlm_atlas.site.data import WHOLE

_SUMMARY = (
    "An executable knowledge base of efficient inference for large vision-language models: techniques with effects, "
    "overheads, needs, interactions, reported numbers and runnable references; models and devices with predictions."
)
_EVIDENCE = (
    "Numbers are reported by a source, measured in runs of references, or predicted by a roofline; they never mix. Two "
    "techniques without a known conflict are not known to work together."
)


def llms_txt(content: Content) -> str:
    """The file, as https://llmstxt.org proposes it: a title, a summary, and links with a line each."""
    survey = content.data.survey
    about = f"Data of {content.kb.edition}. The frame is the survey {survey.title} ({survey.url}). {_EVIDENCE}"
    sections = (line for heading, lines in _sections(content) for line in (f"## {heading}", "", *lines, ""))
    whole = f"- [The whole atlas]({WHOLE}): every entry, vocabulary, work and edge, gzipped JSON"
    return "\n".join(["# LVLM Atlas", "", f"> {_SUMMARY}", "", about, "", "## Data", "", whole, "", *sections])


def _sections(content: Content) -> Iterator[tuple[str, list[str]]]:
    atlas, routes = content.atlas, content.routes
    kinds = {
        "Techniques": [("technique", t.id, t.name, t.summary) for t in content.techniques],
        "Models": [("model", m.id, m.name, f"{m.llm.name} with {m.vision.name}") for m in atlas.models.values()],
        "Devices": [("device", d.id, d.name, f"{d.vendor}, {d.year}") for d in atlas.hardware.values()],
        "Runtimes": [("runtime", r.id, r.name, r.summary) for r in atlas.runtimes.values()],
        "Serving systems": [("system", s.id, s.name, s.summary) for s in atlas.systems.values()],
    }
    for heading, records in kinds.items():
        yield (
            heading,
            [
                f"- [{name}]({routes.path(kind, id_).removesuffix('.md')}.json): {' '.join(line.split())}"
                for kind, id_, name, line in records
            ],
        )
