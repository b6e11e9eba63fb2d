"""The list of the catalog's rules and a page for each: what it asks, why, a change that breaks it, the repair."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.rules.check import all_rules
from lvlm_atlas.rules.demonstration import demonstration
from lvlm_atlas.site.content import Content, Page
from lvlm_atlas.site.routes import FIXED


def rule_pages(content: Content) -> Iterator[Page]:
    """The pages."""
    rules = sorted(all_rules(), key=lambda rule: (rule.level, rule.id))
    yield Page(
        path=FIXED["rules"], title="Rules of the catalog", template="rules.md.j2", hide=("toc",),
        description="What `lvlm-atlas check` asks of every record, why, and how to repair it.",
        context={"groups": {level: [rule for rule in rules if rule.level == level] for level in ("error", "warning")}},
    )  # fmt: skip
    for rule in rules:
        yield Page(
            path=content.routes.path("rule", rule.id), title=rule.id, template="rule.md.j2", hide=("toc",),
            description=rule.why,
            context={"shown": demonstration(rule), "asks": " ".join((rule.find.__doc__ or "").split())},
        )  # fmt: skip
