"""The search index holds words, and no bare numbers but those of arXiv."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lvlm_atlas.site.search_index import without_numbers


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("kept 50 % and 60.4 of 1,024 tokens", "kept % and of tokens"),
        ("arXiv 2403.06764, 2403.06764 too", "arXiv 2403.06764 too"),
        ("Qwen2.5-VL-72B on H200 in fp8 at 2×", "Qwen2.5-VL-72B on H200 in fp8 at"),
        ("<p>97.42 %</p>", "<p>97.42 %</p>"),
        ("−3 ± 0.5 (12)", "±"),
    ],
)
def test_numbers_go_and_words_with_digits_stay(text: str, kept: str) -> None:
    assert without_numbers(text).strip() == kept


def test_the_built_index_holds_hardly_a_number(site: Path) -> None:
    pages = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))["docs"]
    words = [word for page in pages for word in page["text"].split()]
    bare = [word for word in words if re.fullmatch(r"[\d.,%]+", word) and not re.fullmatch(r"\d{4}\.\d{4,5}", word)]
    assert words
    assert not [word for word in bare if any(map(str.isdigit, word))]
