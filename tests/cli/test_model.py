"""`lvlm-atlas model add`: a draft that `check` names the gaps of, and that never replaces a record."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

CONFIG = {
    "model_type": "qwen2_5_vl", "torch_dtype": "bfloat16", "hidden_size": 3584, "intermediate_size": 18944,
    "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    "tie_word_embeddings": False,
    "vision_config": {
        "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2, "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31], "temporal_patch_size": 2,
    },
}  # fmt: skip
"""The shapes in the published config.json of Qwen2.5-VL-7B."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    return path


def test_a_draft_is_written_and_every_gap_is_named(run, root: Path, config: Path) -> None:
    said = run("model", "add", "--from-config", config, "--id", "mine", "--root", root)
    assert said.code == 0
    assert "wrote catalog/models/mine.yaml" in said.out
    assert "left open: tokens.image.params.max_pixels" in said.err
    text = (root / "catalog/models/mine.yaml").read_text(encoding="utf-8")
    assert "total: 8292166656" in text
    assert [path.name for path in (root / "catalog/models").iterdir() if path.name.startswith(".")] == []


def test_check_names_the_line_of_each_gap_until_all_are_filled(run, root: Path, config: Path) -> None:
    run("model", "add", "--from-config", config, "--id", "mine", "--root", root)
    path = root / "catalog/models/mine.yaml"
    said = run("check", "--root", root)
    assert said.code == 1
    assert {line.split(": ")[1] for line in said.out.splitlines()} == {"placeholder"}
    text = path.read_text(encoding="utf-8")
    for field in ("hf_id", "year", "examples"):
        line = next(n for n, row in enumerate(text.splitlines(), 1) if row.strip().startswith(f"{field}:"))
        assert re.search(rf"catalog/models/mine.yaml:{line}:\d+: placeholder", said.out)
    example = "[{image: [336, 336], vit_tokens: 576, window_pairs: 36864, llm_tokens: 144}]"
    for field, value in (("hf_id", "Qwen/Mine"), ("year", "2025"), ("examples", example)):
        row = next(row for row in text.splitlines() if row.strip().startswith(f"{field}:"))
        text = text.replace(row, f"{row.partition(':')[0]}: {value}")
    path.write_text(text, encoding="utf-8")
    said = run("check", "--root", root)
    assert "catalog/models/mine.yaml:3:7: placeholder" in said.out
    assert "FILL IN the name of the encoder" in said.out


def test_a_complete_draft_passes_check(run, root: Path, config: Path, tmp_path: Path) -> None:
    processor = tmp_path / "preprocessor_config.json"
    processor.write_text(json.dumps({"min_pixels": 3136, "max_pixels": 12845056}), encoding="utf-8")
    run("model", "add", "--from-config", config, "--preprocessor", processor, "--id", "mine", "--root", root)
    path = root / "catalog/models/mine.yaml"
    text = path.read_text(encoding="utf-8")
    for what, value in (
        ("FILL IN its name", "Mine"),
        ("FILL IN its repository on the hub, such as owner/name", "Qwen/Mine"),
        ("FILL IN its year of release", "2025"),
        ("FILL IN the name of the encoder", "ViT"),
        ("FILL IN the name of the language model", "Qwen2.5-7B"),
        (
            "FILL IN worked examples from a source other than this",
            "[{image: [1280, 720], vit_tokens: 4784, window_pairs: 288000, llm_tokens: 1196}]",
        ),
        ("verified: config", "verified: code"),  # the only term of the sample's vocabulary
    ):
        assert what in text
        text = text.replace(what, value)
    assert "FILL IN" not in text
    path.write_text(text, encoding="utf-8")
    said = run("check", "--root", root)
    assert (said.code, said.out) == (0, "")


def test_a_record_is_never_replaced(run, root: Path, config: Path) -> None:
    before = (root / "catalog/models/gamma.yaml").read_text(encoding="utf-8")
    said = run("model", "add", "--from-config", config, "--id", "gamma", "--root", root)
    assert said.code == 2
    assert "exists already" in said.err
    assert (root / "catalog/models/gamma.yaml").read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n 'a': 1}", "config.json:2:2: this is no JSON"),
        ('{"model_type": "bert"}', "known families: "),
    ],
)
def test_a_bad_file_is_one_line(run, root: Path, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    said = run("model", "add", "--from-config", path, "--id", "mine", "--root", root)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (root / "catalog/models/mine.yaml").exists()
