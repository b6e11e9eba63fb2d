"""A small atlas full of odd characters, its site built once, and a reader of built pages."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

import lvlm_atlas
from lvlm_atlas.site.build import build

ODD = "A|B *star* 1_2_3 `tick|<3` [x](y.md) {{ z }} {: #id } <3 && \"q\" 'r' \\ $m$ ~~s~~ ![i](j) #h :smile: ½"

FIRST = """\
id: fastv
name: 'Fast<3V | *x*'
aliases: [fast-v, 'ODD']
summary: 'Drops tokens. ODD.'
paper: chen2024fastv
stage: prefilling
family: token-compression.attention-guided
modality: [image, video]
training: none
query_aware: true
acts_at: [llm-layer]
relieves: [{stage: prefilling, bound: compute}, {stage: decoding, bound: memory-bandwidth}]
mechanism: [token-pruning]
signals: [last-query-attention]
needs: [attention-row]
explanation: 'ODD'
algorithm:
  - {does: 'ODD', code: llm_layer}
  - {does: '1. - > # not a list'}
parameters:
  layer: {symbol: 'K|*', type: int, default: 2, range: '[0, inf)', doc: 'ODD'}
  keep_ratio: {type: float, default: 0.5, range: '(0, 1]', doc: Share that stays.}
effects:
  - {quantity: llm.vision-tokens, scale: keep_ratio, from_layer: layer, note: 'ODD'}
overheads: [{stage: prefilling, attention_rows: 1, why: 'ODD'}]
interactions:
  - {kind: composes-with, with: kivi, reason: 'ODD', evidence: reasoned, source: {paper: chen2024fastv, place: 'ODD'}}
reported:
  - model_name: 'ODD'
    setting: {layer: 3}
    share_kept: 0.125
    device: 'ODD'
    results:
      - {metric: ttft, value: 45, unit: '% less', data: 'ODD'}
      - {benchmark: gqa, value: 60.5, baseline: 62.5}
    source: {paper: chen2024fastv, place: abstract}
    note: 'ODD'
pitfalls: [{mistake: 'ODD', test: test_positions_stay}]
status: implemented
reference: lvlm_atlas.reference.techniques.prefilling.fastv:FastV
neutral: {keep_ratio: 1.0}
trials: [{layer: 1, keep_ratio: 0.5}]
upstream: {repository: some-one/FastV}
verified: code
updated: '2026-11-22'
"""

SECOND = """\
id: kivi
name: KIVI
summary: Stores the cache in few bits.
paper: liu2024kivi
stage: decoding
family: kv-cache-compression.bit-level
modality: [image]
training: none
query_aware: false
acts_at: [cache-bits]
relieves: [{stage: decoding, bound: memory-capacity}]
mechanism: [cache-quantisation]
signals: [value-range]
explanation: Keys per channel, values per token.
algorithm: [{does: Quantise.}]
parameters:
  bits: {type: choice, default: 2, choices: [2, 4], doc: Bits of an element.}
effects:
  - {quantity: kv.bits, key: bits, value: bits, group_size: 32, group_overhead_bit: 32}
status: described
verified: paper
updated: '2026-11-21'
"""

THIRD = (
    SECOND[: SECOND.index("effects:")]
    .replace("id: kivi", "id: index")
    .replace("name: KIVI", "name: Lonely")
    .replace("cache-bits", "stop")
    + "effects: [{quantity: output-tokens, cap: bits}]\n"
    + SECOND[SECOND.index("status:") :]
)

SMOKE = """\
id: first-run
kind: smoke
date: '2026-11-22'
version: 0.1.0
machine: {device: 'a | b', kind: cpu, python: 3.11.9, torch: 2.13.0, system: Linux}
workload: {preset: tiny, dtype: float32, seed: 0, frames: 1, text_tokens: 8, output_tokens: 4}
results:
  - technique: fastv
    setting: {layer: 1, keep_ratio: 0.5}
    passed: [neutral]
    failed: {order: 'ODD'}
    counts: {encoder_tokens: [16, 16], llm_tokens: [24, 16], score_entries: [1000, 400], kv_entries: [24, 16],
      kv_byte: 40960, target_passes: 3, output_tokens: 4}
    baseline: {encoder_tokens: [16, 16], llm_tokens: [24, 24], score_entries: [1000, 1000], kv_entries: [24, 24],
      kv_byte: 49152, target_passes: 3, output_tokens: 4}
"""

PAPER = """
@misc{Odd:key_1,
  title  = {Of <b>bold</b> | pipes * and _lines_},
  author = {Last, First & <i>},
  year   = {2025},
  url    = {https://example.org/a_b(c)*d},
}
"""


@pytest.fixture(scope="session")
def odd_root(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose entries hold whatever a page could stumble over."""
    made = tmp_path_factory.mktemp("odd")
    shutil.copytree(checkout / "taxonomy", made / "taxonomy")
    (made / "papers.bib").write_text((checkout / "papers.bib").read_text(encoding="utf-8") + PAPER, encoding="utf-8")
    files = {
        "techniques/prefilling/token-compression/fastv": FIRST,
        "techniques/decoding/kv-cache-compression/kivi": SECOND,
        "techniques/decoding/kv-cache-compression/index": THIRD,
        "techniques/decoding/kv-cache-compression/kivi-2bit": "id: kivi-2bit\nmoved: kivi\n",
        "techniques/decoding/kv-cache-compression/both": "id: both\nsplit: [kivi, fastv]\n",
        "measurements/first-run": SMOKE,
    }
    for name, text in files.items():
        path = made / "catalog" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("ODD", ODD.replace("'", "''")), encoding="utf-8")
    return made


@pytest.fixture(scope="session")
def odd(odd_root: Path) -> lvlm_atlas.KnowledgeBase:
    """The odd root, loaded."""
    return lvlm_atlas.load(odd_root)


@pytest.fixture(scope="session")
def odd_site(odd: lvlm_atlas.KnowledgeBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its site, built strictly."""
    folder = tmp_path_factory.mktemp("odd-site")
    return build(odd, folder / "site", docs=folder / "docs")


@pytest.fixture(scope="session")
def catalog(checkout: Path) -> lvlm_atlas.KnowledgeBase:
    """The catalog of the checkout, loaded."""
    return lvlm_atlas.load(checkout)


@pytest.fixture(scope="session")
def site(built: Path) -> Path:
    """Its site, built strictly."""
    return built / "site"


@dataclass
class Html(HTMLParser):
    """What a built page links to, loads, and can be linked to."""

    text: str
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    ids: Counter[str] = field(default_factory=Counter)
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(re.sub(r"<title>.*?</title>", "", self.text))  # a title holds text alone, whatever it looks like

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        if "id" in given:
            self.ids[given["id"]] += 1
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(given.get("href", ""))
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object"):
            self.loads += [given[key] for key in ("src", "data", "srcset") if key in given]


@pytest.fixture(scope="session")
def read() -> Callable[[Path], Html]:
    """Reads a built page."""
    return lambda path: Html(path.read_text(encoding="utf-8"))
