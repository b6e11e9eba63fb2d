"""The survey's numbers as the engine gives them, against figures worked out by hand from the models' shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.atlas.atlas import Atlas, UnknownIdError
from lvlm_atlas.survey import survey_numbers
from lvlm_atlas.survey.claim import Claim, Table


@pytest.fixture(scope="module")
def atlas(checkout: Path) -> Atlas:
    return load(checkout).atlas


@pytest.fixture(scope="module")
def claims(atlas: Atlas) -> Mapping[int, Claim]:
    return {claim.number: claim for claim in survey_numbers(atlas)}


def table(claims: Mapping[int, Claim], number: int) -> Table:
    return claims[number].tables[0]


def test_there_are_thirteen_claims_in_order(claims: Mapping[int, Claim]) -> None:
    assert list(claims) == list(range(1, 14))


def test_verdicts(claims: Mapping[int, Claim]) -> None:
    by_verdict: dict[str, list[int]] = {}
    for claim in claims.values():
        by_verdict.setdefault(claim.verdict, []).append(claim.number)
    assert by_verdict == {
        "holds": [3, 4],
        "holds if": [1, 2, 7, 9, 11, 13],
        "does not hold": [5, 6, 8, 12],
        "incomplete": [10],
    }


def test_each_claim_says_what_is_printed_what_comes_out_why_and_how(claims: Mapping[int, Claim]) -> None:
    for claim in claims.values():
        assert all((claim.where, claim.title, claim.printed, claim.ours, claim.rests_on, claim.arithmetic))
        for each in claim.tables:
            assert all(len(row) == 1 + len(each.columns) for row in each.texts)


def test_an_atlas_without_the_models_says_which_is_missing(root: Path) -> None:
    with pytest.raises(UnknownIdError, match=r"qwen2\.5-vl-72b"):
        survey_numbers(load(root).atlas)


def said(claims: Mapping[int, Claim], number: int) -> str:
    claim = claims[number]
    return " ".join((claim.ours, claim.rests_on, *claim.arithmetic))


@pytest.mark.parametrize(
    ("image", "each", "cache_gb"),
    [
        ("640×480", 391, 2.6),
        ("1024×1024", 1_369, 9.0),
        ("1280×720", 1_196, 7.8),
        ("1400×1120", 2_000, 13.1),
        ("1260×1260", 2_025, 13.3),
        ("1920×1080", 2_691, 17.6),
        ("1920×1080, cut at the class default", 1_222, 8.0),
    ],
)
def test_twenty_images(claims: Mapping[int, Claim], image: str, each: int, cache_gb: float) -> None:
    found = table(claims, 1)
    assert found.at(image, "Tokens each") == each
    assert found.at(image, "Tokens of 20") == 20 * each
    assert found.at(image, "Cache, GB") == 20 * each * 327_680 / 1e9
    assert found.at(image, "Cache, GB") == pytest.approx(cache_gb, abs=0.05)


def test_the_bytes_of_forty_thousand_tokens(claims: Mapping[int, Claim]) -> None:
    for figure in ("327,680 bytes", "13.107 GB", "12.2 GiB", "39,673 tokens", "105 GB", "6.55 GB", "1.57 megapixels"):
        assert figure in said(claims, 1)
    for figure in ("1,280 tokens", "25,600 tokens", "8.4 GB"):
        assert figure in said(claims, 1)


@pytest.mark.parametrize(
    ("fps", "frames", "tokens", "cache_gb", "uncut", "uncut_gb"),
    [
        ("2 (default)", 10, 3_600, 1.18, 5_980, 1.96),
        ("8", 40, 14_400, 4.72, 23_920, 7.84),
        ("24", 120, 43_200, 14.16, 71_760, 23.51),
        ("30", 150, 54_000, 17.69, 89_700, 29.39),
    ],
)
def test_five_seconds_of_video(
    claims: Mapping[int, Claim], fps: str, frames: int, tokens: int, cache_gb: float, uncut: int, uncut_gb: float
) -> None:
    row = table(claims, 2).rows[fps]
    assert row == pytest.approx(
        (frames, tokens, tokens * 327_680 / 1e9, uncut, uncut * 327_680 / 1e9), rel=1e-12
    )  # fmt: skip
    assert (row[2], row[4]) == pytest.approx((cache_gb, uncut_gb), abs=0.005)


def test_when_uncut_frames_pass_fifty_thousand_tokens(claims: Mapping[int, Claim]) -> None:
    for figure in ("84 frames", "17 a second", "14 times"):
        assert figure in said(claims, 2)


@pytest.mark.parametrize(
    ("device", "ridge"),
    [
        ("NVIDIA A100 SXM4 80 GB", 153.0),
        ("NVIDIA A100 SXM4 40 GB", 200.6),
        ("NVIDIA L40S", 419.0),
        ("NVIDIA H200 SXM 141 GB", 206.1),
    ],
)
def test_ridges(claims: Mapping[int, Claim], device: str, ridge: float) -> None:
    assert table(claims, 3).at(device, "Ridge, FLOP per byte") == pytest.approx(ridge, abs=0.05)


def test_weights_alone_have_an_intensity_of_one(claims: Mapping[int, Claim]) -> None:
    assert claims[4].ours == "1.0 FLOP per byte"


@pytest.mark.parametrize(
    ("cached", "row"),
    [
        ("0", (1.00, 1.00, 1.00)),
        ("4,000", (1.00, 1.10, 1.06)),
        ("40,000", (1.00, 1.84, 1.59)),
        ("100,000", (1.00, 2.73, 2.31)),
    ],
)
def test_the_cache_raises_the_intensity_of_decoding(
    claims: Mapping[int, Claim], cached: str, row: tuple[float, ...]
) -> None:
    found = table(claims, 5)
    assert found.rows[cached] == pytest.approx(row, abs=0.006)
    assert min(found.rows[cached]) > 0.9999
    assert "7 for Qwen2.5-7B" in said(claims, 5)
    assert "Weights of 4 bits give 4" in said(claims, 5)


PREFILL = {
    "160": (148, 157, 132, 139, 131, 137),
    "200": (185, 197, 161, 169, 159, 166),
    "512": (476, 507, 343, 358, 317, 321),
    "2,048": (1_950, 2_091, 765, 783, 442, 397),
    "8,192": (8_513, 9_361, 1_183, 1_218, 230, 190),
}
"""Weights only, fused, scores in memory; for each Qwen2.5-7B and LLaMA-7B."""


@pytest.mark.parametrize("tokens", PREFILL)
def test_intensities_of_prefilling(claims: Mapping[int, Claim], tokens: str) -> None:
    assert table(claims, 6).rows[tokens] == pytest.approx(PREFILL[tokens], abs=1)


def test_where_prefilling_has_160(claims: Mapping[int, Claim]) -> None:
    for figure in ("163 tokens by weights alone", "188 and 199", "10.5K and 13.9K", "410 FLOP per byte"):
        assert figure in said(claims, 6)


@pytest.mark.parametrize(
    ("encoder", "tokens", "weights", "fused", "in_memory"),
    [
        ("CLIP-L/14-336", 577, 631, 227, 141),
        ("SigLIP so400m", 729, 809, 266, 154),
        ("InternViT-300M, one tile", 1_025, 1_196, 287, 126),
        ("InternViT-300M, if 13 tiles were one sequence", 13_325, 42_224, 1_000, 45),
        # 25 heads; 16 of them in the score matrix would give 422.
        ("InternViT-6B, one tile", 1_025, 1_080, 536, 376),
        ("Qwen2-VL ViT, 640×360", 1_196, 1_382, 349, 160),
        # The gate of the MLP is read and written too; 630 and 977 leave that out.
        ("Qwen2.5-VL ViT, 1280×720, if attention were full", 4_784, 7_760, 605, 89),
        ("Qwen2.5-VL ViT, 1920×1080, if attention were full", 10_764, 25_831, 935, 64),
    ],
)
def test_intensities_of_encoding(
    claims: Mapping[int, Claim], encoder: str, tokens: int, weights: float, fused: float, in_memory: float
) -> None:
    assert table(claims, 7).rows[encoder] == pytest.approx((tokens, weights, fused, in_memory), abs=1)


def test_tiles_do_not_attend_to_each_other(claims: Mapping[int, Claim]) -> None:
    found = table(claims, 7)
    one, thirteen, joined = (
        found.at(name, "Fused attention")
        for name in (
            "InternViT-300M, one tile", "InternViT-300M, 13 tiles", "InternViT-300M, if 13 tiles were one sequence"
        )
    )  # fmt: skip
    assert one < thirteen < joined / 2


def test_windows_lower_the_intensity_of_encoding_and_spare_the_score_matrix(claims: Mapping[int, Claim]) -> None:
    found = table(claims, 7)
    for size in ("1280×720", "1920×1080"):
        name = f"Qwen2.5-VL ViT, {size}"
        assert found.at(name, "Fused attention") < found.at(f"{name}, if attention were full", "Fused attention")
        assert found.at(name, "Scores in memory") > found.at(f"{name}, if attention were full", "Scores in memory")


@pytest.mark.parametrize(
    ("tokens", "products", "attention", "share", "all_ms", "equation_ms", "write_ms"),
    [
        ("1,024", 13.4, 0.21, 1.6, 43.5, 0.7, 0.03),
        ("4,096", 53.5, 3.4, 5.9, 182, 10.8, 0.12),
        ("10,000", 131, 20.1, 13, 483, 64, 0.28),
        ("32,768", 428, 216, 34, 2_061, 691, 0.92),
        ("65,536", 855, 862, 50, 5_504, 2_763, 1.84),
    ],
)
def test_equation_4_against_all_operators(
    claims: Mapping[int, Claim], tokens: str, products: float, attention: float, share: float, all_ms: float,
    equation_ms: float, write_ms: float,
) -> None:  # fmt: skip
    row = table(claims, 8).rows[tokens]
    assert (*row[:2], row[3]) == pytest.approx((products, attention, all_ms), rel=0.01)
    assert row[2] == pytest.approx(share, abs=0.5)
    assert row[5:] == pytest.approx((equation_ms, write_ms), rel=0.02, abs=0.05)
    assert all_ms < row[4] < 1.1 * all_ms


def test_reading_the_weights_is_left_out_of_equation_4(claims: Mapping[int, Claim]) -> None:
    assert "6.4 ms" in said(claims, 8)
    assert "94 % of the operations" in said(claims, 8)


def test_models_whose_cache_equation_5_misses(claims: Mapping[int, Claim]) -> None:
    found = {name: tuple(row) for name, row in table(claims, 9).rows.items()}
    assert {name: row[:2] for name, row in found.items()}.items() >= {
        "DeepSeek-VL2": (5_120, 576),
        "DeepSeek-VL2-Small": (4_096, 576),
        "Gemma-3-12B": (2 * 1_920, 2 * 2_048),
        "Llama-3.2-11B-Vision": (2_048, 2_048),
        "Qwen3-VL-235B-A22B": (2 * 256, 2 * 512),
        "Qwen3-VL-30B-A3B": (2 * 256, 2 * 512),
        "Kimi-K2.5": (2 * 7_168, 576),
    }.items()
    assert not {"LLaVA-1.5-7B", "Qwen2.5-VL-72B", "GLM-4.1V-9B-Thinking"} & set(found)
    # A quarter of the layers keep anything, in heads of another width; the states of the others are small beside it.
    assert 0.9 < found["Qwen3.5-27B"][-1] / (4 * 5_120 / (24 * 256)) < 1
    assert found["Qwen3-VL-30B-A3B"][-1] == 0.5
    assert found["Llama-3.2-11B-Vision"][-1] == 40 / 32
    for figure in ("40 of 48 layers", "1,024 tokens at most", "text in 32 layers and vision in 8"):
        assert figure in said(claims, 9)


def test_where_attention_passes_the_rest(claims: Mapping[int, Claim]) -> None:
    found = table(claims, 10)
    head = "Patches at which attention equals the rest"
    assert found.at("CLIP-L", head) == pytest.approx(6 * 1_024)
    assert found.at("Qwen2.5-VL ViT, if attention were full", head) == pytest.approx((4 * 1_280 + 3 * 3_420) / 2)
    assert found.at("InternViT-6B", head) == pytest.approx(6 * 3_200)
    for figure in ("668,304 pairs", "115.9 million", "28 of 32 layers", "10,764 patches", "65K tokens"):
        assert figure in said(claims, 10)
    for figure in ("2,885 tokens for 1,948", "4,096 for 256"):
        assert figure in said(claims, 10)


def test_the_memory_of_table_8(claims: Mapping[int, Claim]) -> None:
    found = table(claims, 11)
    assert found.at("full", "Tokens") == pytest.approx(30_169, abs=0.5)
    assert found.at("20 %", "Share of the bytes, %") == pytest.approx(23.1, abs=0.05)
    assert found.at("10 %", "Share of the bytes, %") == pytest.approx(12.7, abs=0.05)
    for figure in ("57,344 bytes", "32,394", "101 s", "42 s", "1.80 GB", "0.04 GB", "1.84 GB", "30.2K"):
        assert figure in said(claims, 11)


@pytest.mark.parametrize(
    ("budget", "read", "bound", "slower"),
    [("full", 2.00, 18.4, 23.0), ("20 %", 0.46, 16.8, 21.0), ("10 %", 0.25, 16.6, 20.8)],
)
def test_the_latency_of_table_8(
    claims: Mapping[int, Claim], budget: str, read: float, bound: float, slower: float
) -> None:
    row = table(claims, 12).rows[budget]
    assert row[2:5] == pytest.approx((read, bound, slower), abs=0.06)
    assert row[5] == pytest.approx(row[1], rel=0.015)


def test_what_the_latencies_of_table_8_fit(claims: Mapping[int, Claim]) -> None:
    for figure in (
        "14.14 GB",
        "16.4 ms",
        "13.15 ms a GB",
        "12.7 and 19.1",
        "76 GB/s",
        "11.4 times",
        "(10 %)",
        "(34 %)",
    ):
        assert figure in said(claims, 12)


TABLE_10 = {
    "32B / 7B": ((2.43, 3.14, 0.790, 0.214, 1.38), (2.72, 3.21, 0.889, 0.221, 2.05), (2.84, 3.23, 0.945, 0.223, 2.64)),
    "32B / 3B": ((3.08, 4.11, 0.762, 0.311, 1.01), (3.23, 3.84, 0.880, 0.284, 1.59), (3.47, 3.95, 0.943, 0.295, 2.10)),
    "7B / 7B": ((4.21, 5.01, 0.881, 0.401, 1.23), (4.47, 5.09, 0.939, 0.409, 1.60), (4.69, 5.25, 0.969, 0.425, 1.85)),
}
"""Time of a round without and with the bonus token, acceptance, draft cost, speed-up from one cost a pair."""


@pytest.mark.parametrize("pair", TABLE_10)
def test_the_speed_ups_of_table_10(claims: Mapping[int, Claim], pair: str) -> None:
    for how, worked in zip(("strict", "50 %", "75 %"), TABLE_10[pair], strict=True):
        row = table(claims, 13).rows[f"{pair}, {how}"]
        assert (row[2], row[3], row[6]) == pytest.approx((worked[0], worked[1], worked[4]), abs=0.01)
        assert row[4:6] == pytest.approx(worked[2:4], abs=0.001)
        assert abs(row[7]) < 5
        assert row[8] == pytest.approx(row[1], rel=0.05)


def test_what_lies_behind_the_speed_ups_of_table_10(claims: Mapping[int, Claim]) -> None:
    for figure in ("2.6, 6.9 and 4.7 %", "3.19, 3.97, 5.12", "0.79", "c = 0.214", "0.221", "0.096", "36 against 28"):
        assert figure in said(claims, 13)
    for figure in ("0.99 at 4,000", "0.90 at 30,000", "would make the first speed-up 2.0"):
        assert figure in said(claims, 13)
