"""What arrives: times and requests by seed, mixes, and the formats of published traces."""

from __future__ import annotations

import json
from itertools import islice, pairwise
from pathlib import Path

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.serving.arrivals import arrivals
from lvlm_atlas.serving.trace import read
from lvlm_atlas.serving.traffic import Kind, Mix, scaled, synthetic


@pytest.mark.parametrize(("burstiness", "variation"), [(0, 0.0), (1, 1.0), (0.25, 2.0), (4, 0.5)])
def test_times_between_arrivals_have_the_mean_and_the_variation_asked_for(burstiness, variation) -> None:
    times = [0.0, *islice(arrivals(5.0, burstiness=burstiness), 20_000)]
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean
    assert (mean, spread) == (pytest.approx(0.2, rel=0.05), pytest.approx(variation, abs=0.1))


def test_the_same_requests_come_in_the_same_pattern_at_every_rate(planner) -> None:
    mix = Mix((Kind(planner.workload("single-image-chat"), 3), Kind(planner.workload("images-20"), 1)), spread=0.5)
    slow, fast = (list(synthetic(mix, rate, 200)) for rate in (1.0, 4.0))
    assert [each.workload for each in slow] == [each.workload for each in fast]
    assert [each.at_s for each in slow] == pytest.approx([4 * each.at_s for each in fast])
    assert sum(len(each.workload.images) and each.workload.images[0].count == 20 for each in slow) == pytest.approx(
        50, abs=20
    )
    assert len({each.workload.output_tokens for each in slow}) > 50


def test_a_share_of_the_images_came_before(planner) -> None:
    mix = Mix((Kind(planner.workload("single-image-chat"), 1),), reuse=0.4)
    names = [name for each in synthetic(mix, 1.0, 3000) for name in each.images]
    assert len({*names}) / len(names) == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kinds": ()}, "the mix has no workload"),
        ({"spread": -1}, "spread is -1; give a coefficient of variation from 0 to 10"),
        ({"reuse": 2}, "reuse is 2; give a share from 0 to 1"),
    ],
)
def test_a_mix_that_is_none_is_refused(planner, asked, said: str) -> None:
    kinds = (Kind(planner.workload("single-image-chat"), 1),)
    with pytest.raises(AtlasError, match=said):
        Mix(**{"kinds": kinds, **asked})
    with pytest.raises(AtlasError, match=r"multi-turn has 8 turns.*multi-turn:turns=1"):
        Mix((Kind(planner.workload("multi-turn"), 1),))


OWN = {"at_s": 3.5, "text": 40, "output": 9, "images": ["640x480", {"size": "32x32", "content": "logo"}],
       "prefix": [{"content": "rules", "tokens": 30}]}  # fmt: skip


def test_traces_of_three_formats_are_read(tmp_path: Path) -> None:
    ours, mooncake, azure = (tmp_path / name for name in ("ours.jsonl", "mooncake.jsonl", "azure.csv"))
    ours.write_text("\n".join(json.dumps(each) for each in (OWN, {"at_s": 1, "text": 5, "output": 1})) + "\n\n")
    mooncake.write_text('{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48]}\n')
    azure.write_text(
        "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"
        "2024-10-15 00:00:01.5000000,2,128,16\n2024-10-15 00:00:03,0,64,0\n"
    )
    plain, rich = read(ours)
    assert (plain.at_s, plain.workload.images, rich.at_s) == (0.0, (), 2.5)
    assert [(each.width, each.height) for each in rich.workload.images] == [(640, 480), (32, 32)]
    assert (rich.images, rich.prefix, rich.workload.output_tokens) == (("", "logo"), (("rules", 30),), 9)
    (one,) = read(mooncake)
    assert (one.workload.text_tokens, one.prefix) == (6955, (("46", 512), ("47", 512), ("48", 512)))
    with_images, without = read(azure, image_size="320x200")
    assert (with_images.workload.images[0].count, with_images.workload.images[0].width) == (2, 320)
    assert (without.at_s, without.workload.images, without.workload.output_tokens) == (1.5, (), 1)
    faster = list(scaled([with_images, without], 10.0))
    assert [each.at_s for each in faster] == pytest.approx([0, 0.1])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.jsonl", "{", "t.jsonl:1: is no JSON"),
        ("t.jsonl", "\n[1]", "t.jsonl:2: is [1]; write an object"),
        ("t.jsonl", json.dumps(OWN | {"text": 3}), "t.jsonl:1: has a prefix longer than its text of 3 tokens"),
        ("t.jsonl", json.dumps(OWN | {"image": []}), "t.jsonl:1: has an unknown key 'image'; use at_s, text"),
        ("t.jsonl", json.dumps(OWN | {"images": ["big"]}), "t.jsonl:1: image 'big' is no size"),
        ("t.jsonl", json.dumps(OWN | {"output": 0}), "t.jsonl:1: output is 0; give a whole number from 1"),
        ("t.jsonl", json.dumps(OWN | {"at_s": None}), "t.jsonl:1: at_s is None; give the time of arrival"),
        ("t.jsonl", json.dumps({"at_s": 0, "text": 0, "output": 1}), "t.jsonl:1: is empty"),
        ("t.jsonl", "", "t.jsonl: holds no request"),
        ("t.csv", "a,b\n1,2\n", "t.csv:1: has no column ContextTokens, GeneratedTokens, TIMESTAMP"),
        ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n", "t.csv:2: has 'now' where a number belongs"),
        ("t.jsonl", b"\x1f\x8b\xff", "t.jsonl: is no text in UTF-8; unpack it"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_the_line(tmp_path: Path, name: str, text, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AtlasError) as refused:
        read(path)
    assert said in str(refused.value)
