"""The Qwen3-VL dialect gives what the published class gives on the same weights."""

# ruff: noqa: S106 - special tokens are no passwords

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm import LVLM, Request
from lvlm_atlas.reference.lvlm.windows import to_frames, to_patches

IMAGE, VIDEO, START, END, TOLERANCE, STEPS = 95, 94, 92, 93, 1e-4, 32

CONFIGS: dict[str, dict[str, Any]] = {
    "one group": {},
    "two groups, three DeepStack layers, out of step": {
        "text": {
            "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 5, "hidden_size": 64,
            "head_dim": 24, "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 5, 3]},
        },
        "vision": {"deepstack_visual_indexes": [0, 1, 3], "out_hidden_size": 64, "num_position_embeddings": 16},
    },
    "multi-head, tied head, features of the last layer": {
        "text": {"num_key_value_heads": 3, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
        "vision": {"deepstack_visual_indexes": [1], "depth": 2, "num_heads": 2, "hidden_act": "silu"},
        "tie_word_embeddings": True,
    },
    "no DeepStack": {"vision": {"deepstack_visual_indexes": []}},
}  # fmt: skip

REQUESTS: dict[str, list[Any]] = {
    # Pictures by (placeholder, temporal patches, rows, columns of patches).
    "one image": [[(IMAGE, 1, 8, 6)]],
    "three images of different sizes": [[(IMAGE, 1, 6, 8), (IMAGE, 1, 10, 4), (IMAGE, 1, 2, 2)]],
    "an image larger than the square of positions": [[(IMAGE, 1, 20, 16)]],
    "a video": [[(VIDEO, 3, 6, 10)]],
    "an image, a video, an image": [[(IMAGE, 1, 6, 4), (VIDEO, 2, 4, 10), (IMAGE, 1, 4, 4)]],
    "a batch": [[(IMAGE, 1, 6, 4), (IMAGE, 1, 4, 4)], [(VIDEO, 2, 4, 6)], [(VIDEO, 1, 2, 6), (IMAGE, 1, 4, 2)]],
    "a batch with a row of text": [[(IMAGE, 1, 6, 4)], []],
}


def tokenize(text: str) -> list[int]:
    """A token a character: what a prompt says of times is told apart."""
    return [1 + ord(letter) % 90 for letter in text]


def inputs(name: str, patch: int = 4) -> dict[str, Tensor]:
    """What a processor returns, rows padded on the left; each temporal patch of a video stands behind its time."""
    generator = torch.Generator().manual_seed(len(name))
    rows = []
    for row in REQUESTS[name]:
        parts = [torch.randint(1, 90, (5,), generator=generator)]
        for placeholder, times, height, width in row:
            for time in range(times):
                written = tokenize(f"<{time:.1f} seconds>") if placeholder == VIDEO else []
                tokens = [placeholder] * (height * width // 4)
                parts.append(torch.tensor([*written, START, *tokens, END]))
            parts.append(torch.randint(1, 90, (4,), generator=generator))
        rows.append(torch.cat(parts))
    length = max(map(len, rows))
    ids = torch.stack([nn.functional.pad(ids, (length - len(ids), 0)) for ids in rows])
    mask = torch.stack([nn.functional.pad(torch.ones_like(ids), (length - len(ids), 0)) for ids in rows])
    fields = {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int(),
    }
    for placeholder, pixels, grid in (
        (IMAGE, "pixel_values", "image_grid_thw"),
        (VIDEO, "pixel_values_videos", "video_grid_thw"),
    ):
        pictures = [picture for row in REQUESTS[name] for picture in row if picture[0] == placeholder]
        if pictures:
            fields[grid] = torch.tensor([picture[1:] for picture in pictures])
            patches = int(fields[grid].prod(1).sum())
            fields[pixels] = torch.randn(patches, 3 * 2 * patch**2, generator=generator)
    return fields


@pytest.fixture(params=CONFIGS)
def pair(
    request: pytest.FixtureRequest, qwen3: Callable[..., nn.Module], save: Callable[..., Path], tmp_path: Path
) -> tuple[Any, LVLM]:
    """The published model and ours, loaded from what it saved."""
    theirs = qwen3(**CONFIGS[request.param])
    return theirs, LVLM.from_pretrained(save(theirs, tmp_path))


@pytest.mark.parametrize("name", REQUESTS)
def test_prefill_and_greedy_answers_are_those_of_the_published_class(
    pair: tuple[Any, LVLM], greedy: Callable[..., Any], name: str
) -> None:
    theirs, ours = pair
    processed = inputs(name)
    real = processed["attention_mask"].bool()
    with torch.inference_mode():
        expected, got = theirs(**processed).logits, ours(**processed)
    assert got.shape == (*real.shape, 96)
    assert float((expected - got)[real].abs().max()) < TOLERANCE
    assert torch.equal(ours.generate(**processed, max_new_tokens=STEPS), greedy(theirs, STEPS, **processed)[0])


def test_a_run_on_a_video_writes_its_times_and_decodes_the_same(
    pair: tuple[Any, LVLM], greedy: Callable[..., Any]
) -> None:
    theirs, ours = pair
    processed = inputs("a video")
    ids_N, grid = processed["input_ids"][0], processed["video_grid_thw"]
    frames = to_frames(processed["pixel_values_videos"], tuple(grid[0].tolist()), ours.config.vision)
    result = ours.run(
        Request(
            frames_F3HW=frames,
            prompt_N=torch.cat([ids_N[:5], torch.full((6,), VIDEO), ids_N[-4:]]),
            image_token_id=VIDEO,
            max_new_tokens=STEPS,
            second_F=torch.tensor([-0.1, 0.1, 0.9, 1.1, 1.9, 2.1]),  # pairs around 0, 1, 2
            tokenize=tokenize,
        )
    )
    tokens, logits = greedy(theirs, STEPS, **processed)
    assert torch.equal(result.tokens_N, tokens[0])
    assert float((result.logits_NC - logits[0]).abs().max()) < TOLERANCE
    assert result.trace.encoder_tokens == [60] * (ours.config.encoder_layers + 1)
    assert result.trace.vision_tokens == 3 * 15


def test_a_run_on_images_and_videos_writes_the_times_of_each_video(
    pair: tuple[Any, LVLM], greedy: Callable[..., Any]
) -> None:
    theirs, ours = pair
    generator = torch.Generator().manual_seed(8)
    stills = [torch.randn(1, 3, *size, generator=generator) for size in ((24, 16), (16, 16))]
    videos = [torch.randn(frames, 3, 16, 40, generator=generator) for frames in (4, 2)]
    asked, ids = [3], [3]
    for still, video in zip(stills, videos, strict=True):
        asked += [START, IMAGE, END, 7, *[VIDEO] * len(video), 8, 9]
        ids += [START, *[IMAGE] * (still[0, 0].numel() // 64), END, 7]
        for time in range(len(video) // 2):
            ids += [*tokenize(f"<{time:.1f} seconds>"), START, *[VIDEO] * 10, END]
        ids += [8, 9]
    result = ours.run(
        Request(
            frames_F3HW=(stills[0][0], *videos[0], stills[1][0], *videos[1]),
            prompt_N=torch.tensor(asked),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            max_new_tokens=STEPS,
            second_F=torch.tensor([0, -0.1, 0.1, 0.9, 1.1, 0, -0.1, 0.1]),  # pairs around 0 and 1, then around 0
            tokenize=tokenize,
        )
    )
    config, ids_1N = ours.config.vision, torch.tensor(ids)[None]
    patches = [to_patches(still.repeat_interleave(2, dim=0), config).flatten(0, 1) for still in stills]
    processed = {
        "input_ids": ids_1N,
        "attention_mask": torch.ones_like(ids_1N),
        "mm_token_type_ids": (ids_1N == IMAGE).int() + 2 * (ids_1N == VIDEO).int(),
        "pixel_values": torch.cat(patches),
        "image_grid_thw": torch.tensor([[1, 6, 4], [1, 4, 4]]),
        "pixel_values_videos": torch.cat([to_patches(video, config).flatten(0, 1) for video in videos]),
        "video_grid_thw": torch.tensor([[2, 4, 10], [1, 4, 10]]),
    }
    tokens, logits = greedy(theirs, STEPS, **processed)
    assert torch.equal(result.tokens_N, tokens[0])
    assert float((result.logits_NC - logits[0]).abs().max()) < TOLERANCE


def test_a_run_on_stills_of_one_size_decodes_the_same(pair: tuple[Any, LVLM], greedy: Callable[..., Any]) -> None:
    theirs, ours = pair
    stills = torch.randn(2, 3, 24, 16, generator=torch.Generator().manual_seed(5))
    prompt_N = torch.tensor([3, START, IMAGE, END, 7, START, IMAGE, END, 8, 9])
    result = ours.run(Request(frames_F3HW=stills, prompt_N=prompt_N, image_token_id=IMAGE, max_new_tokens=STEPS))
    ids = prompt_N.repeat_interleave(torch.where(prompt_N == IMAGE, 6, 1))[None]
    processed = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": to_patches(stills.repeat_interleave(2, dim=0), ours.config.vision).flatten(0, 1),
        "image_grid_thw": torch.tensor([[1, 6, 4]] * 2),
    }
    tokens, logits = greedy(theirs, STEPS, **processed)
    assert torch.equal(result.tokens_N, tokens[0])
    assert float((result.logits_NC - logits[0]).abs().max()) < TOLERANCE


@pytest.mark.parametrize(("frames", "fps"), [(6, 2.0), (5, 3.0), (1, 24.0), (8, 7.0)])
def test_times_are_written_as_the_published_processor_writes_them(transformers: Any, frames: int, fps: float) -> None:
    from lvlm_atlas.reference.lvlm.presets import PRESETS

    config = PRESETS["tiny-deepstack"]
    kind = transformers.Qwen3VLProcessor
    self = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        vision_start_token="[", vision_end_token="]", video_token="v",
    )  # fmt: skip
    self._calculate_timestamps = lambda *given: kind._calculate_timestamps(self, *given)
    video = {
        "video_grid_thw": torch.tensor([[-(-frames // 2), 10, 12]]),
        "video_metadata": [SimpleNamespace(fps=fps, frames_indices=[3 * frame for frame in range(frames)])],
    }
    expected = kind.replace_video_token(self, video, 0)
    characters = {config.vision_start_token_id: "[", config.vision_end_token_id: "]", config.video_token_id: "v"}
    lvlm = LVLM.random("tiny-deepstack")
    run = lvlm.begin(
        Request(
            frames_F3HW=torch.randn(frames, 3, 40, 48),
            prompt_N=torch.full((frames,), config.video_token_id),
            image_token_id=config.video_token_id,
            second_F=torch.arange(frames, dtype=torch.float64) * 3 / fps,
            tokenize=lambda text: [ord(letter) for letter in text],
        )
    )
    with torch.inference_mode():
        lvlm.prepare(run)
    ids = run.prompt.ids_BN[0].tolist()
    assert "".join(characters.get(id_) or chr(id_) for id_ in ids) == expected
