"""The Qwen2.5-VL dialect gives what the published class gives on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm import LVLM, Request
from lvlm_atlas.reference.lvlm.windows import to_frames, to_patches

IMAGE, VIDEO, TOLERANCE, STEPS = 95, 94, 1e-4, 32

CONFIGS: dict[str, dict[str, Any]] = {
    "one group": {},
    "two groups, deep, all windows": {
        "text": {
            "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4, "hidden_size": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
        },
        "vision": {"fullatt_block_indexes": [], "out_hidden_size": 64, "window_size": 24},
    },
    "multi-head, tied head, no windows": {
        "text": {"num_key_value_heads": 3, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
        "vision": {"fullatt_block_indexes": [0, 1], "depth": 2, "num_heads": 2, "tokens_per_second": 4},
        "tie_word_embeddings": True,
    },
}  # fmt: skip

REQUESTS: dict[str, list[Any]] = {
    # Pictures by (placeholder, temporal patches, rows, columns of patches, seconds a temporal patch).
    "one image": [[(IMAGE, 1, 8, 6, None)]],
    "three images of different sizes": [[(IMAGE, 1, 6, 8, None), (IMAGE, 1, 10, 4, None), (IMAGE, 1, 2, 2, None)]],
    "a video": [[(VIDEO, 3, 6, 10, 0.7)]],
    "a long video, its time ahead of its sides": [[(VIDEO, 9, 4, 4, 1.6)]],
    "an image, a video, an image": [[(IMAGE, 1, 6, 4, None), (VIDEO, 2, 4, 10, 1.0), (IMAGE, 1, 4, 4, None)]],
    "a batch": [[(IMAGE, 1, 6, 4, None), (IMAGE, 1, 4, 4, None)], [(VIDEO, 2, 4, 6, 0.5)]],
}


def inputs(name: str, patch: int = 4) -> dict[str, Tensor]:
    """What a processor returns, rows padded on the left."""
    generator = torch.Generator().manual_seed(len(name))
    rows = []
    for row in REQUESTS[name]:
        parts = [torch.randint(1, 90, (3,), generator=generator)]
        for placeholder, times, height, width, _ in row:
            tokens = torch.full((times * height * width // 4,), placeholder)
            parts += [torch.tensor([92]), tokens, torch.tensor([93]), torch.randint(1, 90, (4,), generator=generator)]
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
            fields[grid] = torch.tensor([picture[1:4] for picture in pictures])
            patches = int(fields[grid].prod(1).sum())
            fields[pixels] = torch.randn(patches, 3 * 2 * patch**2, generator=generator)
        if pictures and placeholder == VIDEO:
            fields["second_per_grid_ts"] = torch.tensor([picture[4] for picture in pictures])
    return fields


@pytest.fixture(params=CONFIGS)
def pair(
    request: pytest.FixtureRequest, qwen: Callable[..., nn.Module], save: Callable[..., Path], tmp_path: Path
) -> tuple[Any, LVLM]:
    """The published model and ours, loaded from what it saved."""
    theirs = qwen(**CONFIGS[request.param])
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


def frames_of(lvlm: LVLM, pixels: Tensor, grid: Tensor) -> Tensor:
    """Frames of pictures of one size; of stills one frame each."""
    each = [to_frames(x, tuple(grid[0].tolist()), lvlm.config.vision) for x in pixels.chunk(len(grid))]
    return torch.cat(each)


def test_a_run_on_a_video_decodes_the_same(pair: tuple[Any, LVLM], greedy: Callable[..., Any]) -> None:
    theirs, ours = pair
    processed = inputs("a video")
    ids_N = processed["input_ids"][0]
    words = [ids_N[:4], torch.full((6,), VIDEO), ids_N[-5:]]
    result = ours.run(
        Request(
            frames_F3HW=frames_of(ours, processed["pixel_values_videos"], processed["video_grid_thw"]),
            prompt_N=torch.cat(words),
            image_token_id=VIDEO,
            max_new_tokens=STEPS,
            second_F=torch.arange(6) * 0.35,
        )
    )
    tokens, logits = greedy(theirs, STEPS, **processed)
    assert torch.equal(result.tokens_N, tokens[0])
    assert float((result.logits_NC - logits[0]).abs().max()) < TOLERANCE
    assert result.trace.encoder_tokens == [60] * (ours.config.encoder_layers + 1)
    assert result.trace.vision_tokens == 3 * 15


def test_a_run_on_images_and_videos_decodes_the_same(pair: tuple[Any, LVLM], greedy: Callable[..., Any]) -> None:
    theirs, ours = pair
    processed = inputs("an image, a video, an image")
    ids_N, marks = processed["input_ids"][0], []
    for token in ids_N.tolist():  # a placeholder a picture, and of the video one for each of its four frames
        if token not in (IMAGE, VIDEO) or token != marks[-1]:
            marks += [VIDEO] * 4 if token == VIDEO else [token]
    generator = torch.Generator().manual_seed(5)
    first, last = (torch.randn(1, 3, *size, generator=generator) for size in ((24, 16), (16, 16)))
    patches = [to_patches(still.repeat_interleave(2, dim=0), ours.config.vision)[0] for still in (first, last)]
    processed["pixel_values"] = torch.cat(patches)
    video = frames_of(ours, processed["pixel_values_videos"], processed["video_grid_thw"])
    request = Request(
        frames_F3HW=(first[0], *video, last[0]),
        prompt_N=torch.tensor(marks),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        max_new_tokens=STEPS,
    )
    result = ours.run(request)
    tokens, logits = greedy(theirs, STEPS, **processed)
    assert torch.equal(result.tokens_N, tokens[0])
    assert float((result.logits_NC - logits[0]).abs().max()) < TOLERANCE
    assert result.trace.vision_tokens == 6 + 2 * 10 + 4
    assert request.seconds_F.tolist() == [0, 0, 0.5, 1, 1.5, 0]


def test_a_run_on_stills_of_one_size_decodes_the_same(pair: tuple[Any, LVLM], greedy: Callable[..., Any]) -> None:
    theirs, ours = pair
    generator = torch.Generator().manual_seed(5)
    stills = torch.randn(2, 3, 24, 16, generator=generator)
    prompt_N = torch.tensor([3, 92, IMAGE, 93, 7, 92, IMAGE, 93, 8, 9])
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


def test_patches_are_those_of_the_published_image_processor(transformers: Any) -> None:
    numpy = pytest.importorskip("numpy")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from lvlm_atlas.reference.lvlm.presets import PRESETS

    config = PRESETS["tiny-window"].vision
    still = torch.randn(3, 24, 40)
    theirs, rows, columns = Qwen2VLImageProcessorPil().patchify(
        still.numpy(), patch_size=4, merge_size=2, temporal_patch_size=2
    )
    ours = to_patches(still.expand(2, 3, 24, 40), config)[0]
    assert numpy.array_equal(theirs, ours.numpy())
    back = to_frames(ours, (1, rows, columns), config)
    assert torch.equal(back, still.expand(2, 3, 24, 40))
