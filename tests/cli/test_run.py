"""`lvlm-atlas run`: a published checkpoint answers with techniques and without."""

# ruff: noqa: S106 - special tokens are no passwords

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # transformers leaves its config files open

WORDS = [
    *("<unk>", "<s>", "</s>", "<pad>", "<image>", "what", "is", "this", "a", "cat", "dog"),
    *(f"word{index}" for index in range(53)),
]
SIDE, PATCH = 56, 7


def tokenizer_of(words: list[str], special: list[str]) -> Any:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    plain = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=special,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny published LLaVA with its tokenizer and processor."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = tokenizer_of(WORDS, ["<image>"])
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE,
            patch_size=PATCH, projection_dim=16,
        ),
        text_config=transformers.LlamaConfig(
            vocab_size=len(WORDS), hidden_size=64, intermediate_size=80, num_hidden_layers=4, num_attention_heads=2,
            num_key_value_heads=1, eos_token_id=None,
        ),
        image_token_index=WORDS.index("<image>"),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = transformers.CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        )
        transformers.LlavaProcessor(
            pixels, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
        ).save_pretrained(folder)
        transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["Qwen2_5_VL", "Qwen3VL"])
def qwen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny published Qwen2.5-VL or Qwen3-VL with its tokenizer and processor."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    folder = tmp_path_factory.mktemp("qwen")
    words = [*WORDS, "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    own = {
        "Qwen2_5_VL": {"window_size": 16, "fullatt_block_indexes": [1]},
        "Qwen3VL": {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    }[request.param]
    config = getattr(transformers, f"{request.param}Config")(
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4,
            "out_hidden_size": 48, **own,
        },
        text_config={
            "vocab_size": len(words), "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 4,
            "num_attention_heads": 3, "num_key_value_heads": 1, "bos_token_id": None, "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        }
        | ({"head_dim": 16} if request.param == "Qwen3VL" else {}),
        image_token_id=words.index("<|image_pad|>"),
        video_token_id=words.index("<|video_pad|>"),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer_of(words, words[-4:]).save_pretrained(folder)
        Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 64 * 40}).save_pretrained(
            folder
        )
        getattr(transformers, f"{request.param}ForConditionalGeneration")(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("images") / "gradient.png"
    Image.linear_gradient("L").convert("RGB").resize((90, 60)).save(path)
    return path


def ask(checkpoint: Path, image: Path, *more: object) -> tuple[object, ...]:
    asked = ("run", "--checkpoint", checkpoint, "--image", image, "--prompt", "what is this", "--max-new-tokens", 5)
    return (*asked, *more)


def rows(said: Any) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in json.loads(said.out)}


def test_a_checkpoint_answers_with_a_stack_and_without(run: Any, checkpoint: Path, image: Path) -> None:
    stack = ("--stack", "fastv:layer=2,keep_ratio=0.5", "--stack", "kivi:residual_length=32")
    said = run(*ask(checkpoint, image, *stack, "-f", "json"))
    assert said.code == 0, said.err
    got = rows(said)
    assert got["vision tokens"] == {"id": "vision tokens", "without": "64", "with": "64"}
    assert got["tokens per LLM layer"]["without"] == "67 x 4"
    assert got["tokens per LLM layer"]["with"] == "67 x 2, 35 x 2"
    assert int(got["KV bytes at the end"]["with"]) < int(got["KV bytes at the end"]["without"])
    assert got["output tokens"]["without"] == "5"
    assert set(got["answer"]["without"].split()) <= set(WORDS)


def test_the_answer_is_that_of_the_published_class(run: Any, checkpoint: Path, image: Path) -> None:
    import torch
    import transformers
    from PIL import Image

    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(checkpoint).eval()
    with Image.open(image) as picture, torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        processed = processor(images=[picture.convert("RGB")], text="<image>\nwhat is this", return_tensors="pt")
        told = model.generate(**processed, do_sample=False, max_new_tokens=5, pad_token_id=3)
    words = processor.decode(told[0, processed["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert rows(run(*ask(checkpoint, image, "-f", "json")))["answer"]["without"] == words


def test_the_table_shows_both_runs_beside_each_other(run: Any, checkpoint: Path, image: Path) -> None:
    said = run(*ask(checkpoint, image, "--image", image, "--stack", "fastv"))
    assert said.code == 0, said.err
    assert said.out.startswith("without: ")
    assert "\nwith: " in said.out
    assert "131 x 2, 67 x 2" in said.out


def test_what_was_counted_is_drawn_into_a_file(run: Any, checkpoint: Path, image: Path, tmp_path: Path) -> None:
    stack = ("--stack", "fastv:layer=2,keep_ratio=0.5", "--plot", tmp_path / "counts.svg")
    assert run(*ask(checkpoint, image, *stack)).code == 0
    drawn = (tmp_path / "counts.svg").read_text("utf-8")
    assert drawn.startswith("<svg")
    assert "tokens that enter" in drawn
    assert "round 0 to 4" in drawn  # the prompt, then a step for each further token
    assert "drafted tokens accepted" not in drawn
    said = run(*ask(checkpoint, image, *stack[:2], "--plot", tmp_path / "nowhere" / "counts.svg"))
    assert (said.code, "cannot write" in said.err) == (2, True)


def test_drafted_tokens_are_drawn_round_by_round(run: Any, checkpoint: Path, image: Path, tmp_path: Path) -> None:
    stack = ("--stack", "relaxed-verification:relaxation=1,gamma=1", "--plot", tmp_path / "counts.svg")
    assert run(*ask(checkpoint, image, *stack)).code == 0
    drawn = (tmp_path / "counts.svg").read_text("utf-8")
    assert "drafted tokens accepted: 2 against 0" in drawn  # five tokens: the prompt's, two rounds of two


def test_the_chat_form_of_the_checkpoint_is_used_where_it_has_one(
    run: Any, checkpoint: Path, image: Path, tmp_path: Path
) -> None:
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}<s> {% for part in message['content'] %}"
        "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %} dog"
    )
    assert rows(run(*ask(folder, image, "-f", "json")))["text tokens"]["without"] == "5"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("fastvv", "did you mean 'fastv'?"),
        ("fastv:keep_ration=0.5", "fastv has no parameter 'keep_ration'; did you mean 'keep_ratio'?"),
        ("fastv:keep_ratio=2", "keep_ratio: 2 lies outside [0, 1]"),
        ("fastv:keep_ratio=half", "keep_ratio: 'half' is not of type float"),
        ("fastv:layer=1.5", "layer: 1.5 is not of type int"),
        ("fastv:layer", "'layer' sets nothing; write name=value"),
        ("fastv:layer=2,layer=3", "layer is set twice"),
        ("fastv:layer=40", "layer must be in 1..3 for an LLM of 4 layers, got 40"),
        ("look-m:merge=mean", "merge: 'mean' is not one of"),
    ],
)
def test_a_bad_stack_is_one_line_that_says_what_to_write(
    run: Any, checkpoint: Path, image: Path, spec: str, said: str
) -> None:
    got = run(*ask(checkpoint, image, "--stack", spec))
    assert got.code == 2
    assert said in got.err
    assert got.err.count("\n") == 1


def test_techniques_that_exclude_each_other_are_refused(run: Any, checkpoint: Path, image: Path) -> None:
    got = run(*ask(checkpoint, image, "--stack", "look-m", "--stack", "xattention"))
    assert (got.code, got.err.count("\n")) == (2, 1)
    assert "LookM needs `attention-map`, which nobody can read once XAttention acts at 'attention'" in got.err


def test_a_bad_folder_or_image_is_one_line(run: Any, checkpoint: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no image")
    for broken, picture, said in (
        (tmp_path / "nowhere", image, "cannot be read: No such file or directory"),
        (checkpoint, tmp_path / "words.png", "words.png: is no image that can be read"),
        (checkpoint, tmp_path / "gone.png", "gone.png: is no image that can be read"),
    ):
        got = run(*ask(broken, picture))
        assert (got.code, got.err.count("\n")) == (2, 1)
        assert said in got.err


def test_a_folder_without_a_processor_says_so(run: Any, checkpoint: Path, image: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("config.json", "model.safetensors"):
        shutil.copy(checkpoint / name, tmp_path / name)
    got = run(*ask(tmp_path, image))
    assert (got.code, got.err.count("\n")) == (2, 1)
    assert "holds no processor that can be read" in got.err


@pytest.mark.parametrize("missing", ["transformers", "safetensors", "PIL"])
def test_without_the_extra_it_says_what_to_install(
    run: Any, checkpoint: Path, image: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    got = run(*ask(checkpoint, image))
    assert got.code == 2
    assert "pip install 'lvlm-atlas[transformers]'" in got.err
    assert got.err.count("\n") == 1


def test_qwen_answers_with_a_stack_and_refuses_what_breaks_its_grid(run: Any, qwen: Path, image: Path) -> None:
    said = run(*ask(qwen, image, "--image", image, "--stack", "fastv", "-f", "json"))
    assert said.code == 0, said.err
    got = rows(said)
    tokens = int(got["vision tokens"]["without"])
    assert tokens > 0
    assert tokens % 2 == 0
    assert got["tokens per LLM layer"]["with"] == f"{tokens + 3} x 2, {tokens // 2 + 3} x 2"
    refused = run(*ask(qwen, image, "--stack", "tome"))
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "ToMe needs `free-patches`, but this model cannot give it" in refused.err


def test_images_of_two_sizes_are_read_by_qwen_each_at_its_own(
    run: Any, qwen: Path, image: Path, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (30, 90)).save(tmp_path / "tall.png")
    got = run(*ask(qwen, image, "--image", tmp_path / "tall.png", "-f", "json"))
    assert got.code == 0
    one, two = (int(rows(said)["vision tokens"]["without"]) for said in (run(*ask(qwen, image, "-f", "json")), got))
    tall = int(rows(run(*ask(qwen, tmp_path / "tall.png", "-f", "json")))["vision tokens"]["without"])
    assert two == one + tall
