"""Checkpoints: published folders load in every spelling, and what is wrong with one is said once and clearly."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lvlm_atlas.reference.lvlm import LVLM
from lvlm_atlas.reference.lvlm.checkpoint import read_config, require_layers
from lvlm_atlas.reference.lvlm.formats import FORMATS


@pytest.fixture
def folder(llava: Callable[..., nn.Module], save: Callable[..., Path], tmp_path: Path) -> Path:
    """A published folder in many shards."""
    return save(llava(), tmp_path / "model", max_shard_size="20KB")


@pytest.fixture
def rewritten(folder: Path) -> Callable[[Callable[[dict[str, torch.Tensor]], None]], Path]:
    """The folder with its tensors changed by a function, in one file."""
    from safetensors.torch import load_file, save_file

    def rewrite(change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
        tensors: dict[str, torch.Tensor] = {}
        for shard in folder.glob("*.safetensors"):
            tensors |= load_file(shard)
            shard.unlink()
        (folder / "model.safetensors.index.json").unlink()
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder

    return rewrite


def configured(folder: Path, **changes: Any) -> Path:
    raw = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        part, _, leaf = key.rpartition("__")
        (raw[part] if part else raw)[leaf] = value
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def same(one: LVLM, two: LVLM) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def renamed(rules: dict[str, str]) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            theirs = next(prefix for prefix in rules if name.startswith(prefix))
            tensors[rules[theirs] + name.removeprefix(theirs)] = tensors.pop(name)

    return change


AS_FIRST_PUBLISHED = {
    "vision_tower.": "vision_tower.vision_model.",
    "multi_modal_projector.": "multi_modal_projector.",
    "language_model.": "language_model.",
}
AS_IN_LATER_CLASSES = {
    "vision_tower.": "model.vision_tower.vision_model.",
    "multi_modal_projector.": "model.multi_modal_projector.",
    "language_model.lm_head.": "lm_head.",
    "language_model.model.": "model.language_model.",
}


@pytest.mark.parametrize("spelling", [AS_FIRST_PUBLISHED, AS_IN_LATER_CLASSES])
def test_every_spelling_of_the_names_gives_the_same_model(folder: Path, rewritten: Any, spelling: Any) -> None:
    sharded = LVLM.from_pretrained(folder)
    assert same(sharded, LVLM.from_pretrained(rewritten(renamed(spelling))))


def test_tensors_that_are_computed_may_be_there(folder: Path, rewritten: Any) -> None:
    sharded = LVLM.from_pretrained(folder)

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)

    assert same(sharded, LVLM.from_pretrained(rewritten(add)))


def test_a_published_configuration_may_leave_defaults_out(tmp_path: Path) -> None:
    """As llava-hf/llava-1.5-7b-hf has it."""
    raw = {
        "model_type": "llava",
        "image_token_index": 32000,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {"model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 32064},
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(raw))
    from lvlm_atlas.reference.lvlm.presets import PRESETS

    assert read_config(tmp_path) == PRESETS["llava-1.5-7b"]


def test_end_tokens_come_from_the_generation_config_where_it_names_them(folder: Path) -> None:
    assert read_config(folder).eos_token_ids == ()
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert read_config(folder).eos_token_ids == (7, 9)


def test_weights_take_the_type_asked_for(folder: Path) -> None:
    lvlm = LVLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert {weight.dtype for weight in lvlm.parameters()} == {torch.bfloat16}


def test_a_tied_head_is_one_tensor(llava: Any, save: Any, tmp_path: Path) -> None:
    folder = save(llava(text={"tie_word_embeddings": True}, tie_word_embeddings=True), tmp_path)
    lvlm = LVLM.from_pretrained(folder)
    assert lvlm.language_model.lm_head.weight is lvlm.language_model.model.embed_tokens.weight


def test_missing_and_unexpected_tensors_are_one_error(rewritten: Any) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["language_model.model.norm.weight"]
        for index in range(7):
            tensors[f"extra.{index}"] = torch.ones(1)

    with pytest.raises(ValueError, match="the tensors do not fit") as error:
        LVLM.from_pretrained(rewritten(change))
    said = str(error.value)
    assert "1 missing: language_model.model.norm.weight" in said
    assert "7 unexpected: extra.0, extra.1, extra.2, extra.3, extra.4, …" in said
    assert "\n" not in said


def test_a_tensor_of_another_shape_is_named_with_both_shapes(rewritten: Any) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["language_model.model.norm.weight"] = torch.ones(47)

    with pytest.raises(
        ValueError, match=r"1 of another shape: language_model\.model\.norm\.weight \(47,\), not \(48,\)"
    ):
        LVLM.from_pretrained(rewritten(change))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model_type": "blip"},
            "model_type 'blip' is not supported; supported: llava, llava_next, qwen2_5_vl, qwen3_vl",
        ),
        ({"text_config__model_type": "mistral"}, "model_type 'mistral' is not supported; supported: llama"),
        ({"vision_config__hidden_act": "mish"}, "hidden_act 'mish' is not supported; supported: quick_gelu, gelu"),
        ({"text_config__rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type 'linear' is not"),
        ({"vision_feature_layer": [-2, -5]}, "vision_feature_layer [-2, -5] is not supported; supported: one layer"),
        ({"text_config": [1]}, "a value is missing or of the wrong kind"),
    ],
)
def test_a_configuration_that_asks_for_more_is_refused_with_what_there_is(
    folder: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match="config") as error:
        LVLM.from_pretrained(configured(folder, **changes))
    assert said in str(error.value)
    assert str(folder / "config.json") in str(error.value)


def test_a_folder_that_is_none_or_holds_no_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: cannot be read: No such file or directory"):
        LVLM.from_pretrained(tmp_path / "nowhere")
    for file in folder.glob("model*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"holds neither model\.safetensors nor model\.safetensors\.index\.json"):
        LVLM.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        LVLM.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        LVLM.from_pretrained(folder)


def test_one_shard_is_open_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors

    class Counted:
        now = most = opened = 0

        def __init__(self, *arguments: Any, **more: Any) -> None:
            self.file = safe_open(*arguments, **more)

        def __enter__(self) -> Any:
            Counted.now, Counted.opened = Counted.now + 1, Counted.opened + 1
            Counted.most = max(Counted.most, Counted.now)
            return self.file.__enter__()

        def __exit__(self, *error: Any) -> Any:
            Counted.now -= 1
            return self.file.__exit__(*error)

    safe_open = safetensors.safe_open
    monkeypatch.setattr(safetensors, "safe_open", Counted)
    LVLM.from_pretrained(folder)
    assert (Counted.now, Counted.most) == (0, 1)
    assert Counted.opened == len(list(folder.glob("model-*"))) > 5


def test_a_shard_that_is_gone_is_named(folder: Path) -> None:
    gone = sorted(folder.glob("model-*"))[1]
    gone.unlink()
    with pytest.raises(ValueError, match=gone.name):
        LVLM.from_pretrained(folder)


def test_qwen_loads_in_both_spellings_and_from_an_older_configuration(qwen: Any, save: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(qwen(), tmp_path)
    first = LVLM.from_pretrained(folder)
    spelling = {
        "visual.": "model.visual.",
        "model.": "model.language_model.",
        "lm_head.": "lm_head.",
    }
    tensors = load_file(folder / "model.safetensors")
    renamed(spelling)(tensors)
    assert any(name.startswith("model.visual.merger.") for name in tensors)
    save_file(tensors, folder / "model.safetensors")
    assert same(first, LVLM.from_pretrained(folder))

    raw = json.loads((folder / "config.json").read_text())
    rope = raw["text_config"].pop("rope_parameters")
    raw |= {key: value for key, value in raw.pop("text_config").items() if key != "model_type"}
    raw |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    raw["vision_config"]["in_chans"] = raw["vision_config"].pop("in_channels")
    del raw["vision_config"]["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(raw))
    assert read_config(folder) == first.config


def test_a_published_qwen_configuration_is_read(tmp_path: Path) -> None:
    """As Qwen/Qwen2.5-VL-7B-Instruct has it."""
    raw = {
        "model_type": "qwen2_5_vl",
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": 3584,
        "image_token_id": 151655,
        "intermediate_size": 18944,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "video_token_id": 151656,
        "vision_config": {
            "depth": 32,
            "hidden_act": "silu",
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "in_chans": 3,
            "out_hidden_size": 3584,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
        "vocab_size": 152064,
    }
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [151645, 151643]}')
    from lvlm_atlas.reference.lvlm.presets import PRESETS

    assert read_config(tmp_path) == PRESETS["qwen2.5-vl-7b"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text_config__use_sliding_window": True}, "use_sliding_window True is not supported; supported: False"),
        ({"vision_config__out_hidden_size": 47}, "out_hidden_size 47 is not supported; supported: 48"),
        ({"vision_config__in_channels": 1}, "in_channels 1 is not supported; supported: 3"),
    ],
)
def test_a_qwen_that_asks_for_more_is_refused(
    qwen: Any, save: Any, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        LVLM.from_pretrained(configured(save(qwen(), tmp_path), **changes))


def test_a_published_qwen3_configuration_is_read(tmp_path: Path) -> None:
    """As Qwen/Qwen3-VL-8B-Instruct has it."""
    raw = {
        "model_type": "qwen3_vl",
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "dtype": "bfloat16",
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "max_position_embeddings": 262144,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
            "rope_theta": 5000000,
            "vocab_size": 151936,
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "deepstack_visual_indexes": [8, 16, 24],
            "depth": 27,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "in_channels": 3,
            "intermediate_size": 4304,
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": 4096,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [151645, 151643]}')
    from lvlm_atlas.reference.lvlm.presets import PRESETS

    assert read_config(tmp_path) == PRESETS["qwen3-vl-8b"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"text_config__rope_parameters": {"rope_type": "default", "mrope_interleaved": False}},
            "mrope_interleaved False is not supported; supported: True",
        ),
        ({"text_config__rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type 'yarn' is not supported"),
        ({"vision_config__out_hidden_size": 47}, "out_hidden_size 47 is not supported; supported: 48"),
        ({"vision_config__in_channels": 1}, "in_channels 1 is not supported; supported: 3"),
        ({"vision_config__num_position_embeddings": 50}, "num_position_embeddings 50 is not supported"),
    ],
)
def test_a_qwen3_that_asks_for_more_is_refused(
    qwen3: Any, save: Any, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        LVLM.from_pretrained(configured(save(qwen3(), tmp_path), **changes))


def test_qwen3_tensors_are_all_wanted_and_none_is_missing(qwen3: Any, save: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(qwen3(), tmp_path)
    names = load_file(folder / "model.safetensors")
    assert any(name.startswith("model.visual.deepstack_merger_list.1.") for name in names)
    del names["model.visual.deepstack_merger_list.1.norm.weight"], names["model.visual.pos_embed.weight"]
    save_file(names, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"2 missing: dialect\.vision_tower\.deepstack_merger_list\.1\.norm\.weight"):
        LVLM.from_pretrained(folder)


class Recording(dict[str, Any]):
    """An empty part of a config.json that notes what it is asked for; what it holds are its parts."""

    def __init__(self, **parts: Recording) -> None:
        super().__init__(parts)
        self.asked: set[str] = set()

    def __bool__(self) -> bool:
        return True

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self.asked.add(key)
        return super().get(key, default)


def keys_of(kind: str) -> dict[str, set[str]]:
    """The keys that a format reads, of the whole and of its two parts."""
    parts = {"vision_config": Recording(), "text_config": Recording()}
    whole = Recording(**parts)
    FORMATS[kind].config(whole)
    return {"": whole.asked, **{name: part.asked for name, part in parts.items()}}


@pytest.mark.parametrize("kind", FORMATS)
def test_whatever_stands_in_a_configuration_it_is_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    """Every key that is read, with every kind of wrong value."""
    keys = keys_of(kind)
    assert all(keys.values())
    for part, key in [(part, key) for part, asked in keys.items() for key in sorted(asked)]:
        for value in ("32", -1, 0, 1e18, 10**18, True, [], ["x"], [10**18], {}, {"a": []}, [[0, "x"]], float("nan")):
            raw: dict[str, Any] = {"model_type": kind, "vision_config": {}, "text_config": {}}
            (raw[part] if part else raw)[key] = value
            (tmp_path / "config.json").write_text(json.dumps(raw))
            with suppress(ValueError):
                assert read_config(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", "", '"x"', "\x00", '{"model_type": ' + "[" * 5000])
def test_what_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: "):
        read_config(tmp_path)


@pytest.mark.parametrize("names", [5, [], {}, {"a": 5}, {"a": "../b.safetensors"}, {"a": "/passwd"}, {"a": "b.bin"}])
def test_an_index_names_plain_files_in_the_folder(names: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ValueError, match=r"weight_map"):
        require_layers(read_config(tmp_path), tmp_path)


def test_layers_are_counted_by_the_names_of_tensors_before_a_model_is_built(tmp_path: Path) -> None:
    names = [f"language_model.model.layers.{layer}.mlp.up_proj.weight" for layer in range(2)]
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": {"num_hidden_layers": 3}}))
    with pytest.raises(ValueError, match=r"3 layers of the language model, but the tensors are of 2"):
        require_layers(read_config(tmp_path), tmp_path)
