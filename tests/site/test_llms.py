"""llms.txt leads to every record as data."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import lvlm_atlas


def test_every_link_leads_to_data_and_no_record_is_left_out(odd: lvlm_atlas.KnowledgeBase, odd_site: Path) -> None:
    text = (odd_site / "llms.txt").read_text(encoding="utf-8")
    title, _, summary = text.splitlines()[:3]
    assert (title, summary[:2]) == ("# LVLM Atlas", "> ")
    assert str(odd.edition) in text
    links = re.findall(r"^- \[.+\]\((\S+)\): .+$", text, re.MULTILINE)
    assert len(links) == text.count("\n- ")
    kinds = {"technique": odd.atlas.techniques, "model": odd.atlas.models, "device": odd.atlas.hardware}
    linked: dict[str, set[str]] = {kind: set() for kind in kinds}
    for link in links:
        data = (odd_site / link).read_bytes()
        document = json.loads(gzip.decompress(data) if link.endswith(".gz") else data)
        for kind in kinds:
            if kind in document:
                linked[kind].add(document[kind]["id"])
    assert linked == {kind: set(records) for kind, records in kinds.items()}
