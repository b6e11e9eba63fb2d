"""LLaVA-NeXT's tiles: on equal weights and tiles the LLaVA dialect gives what the published class gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm import LVLM, Request
from lvlm_atlas.reference.lvlm.tiles import image_of, tiling_of, views_of

IMAGE, TOLERANCE, STEPS = 95, 1e-4, 12
CANVASES = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
SIZES = [(28, 28), (56, 40), (30, 80), (84, 29), (13, 11), (56, 56)]
"""Square, tall, wide, odd, small, exactly a canvas."""


@pytest.fixture
def pair(llava: Callable[..., nn.Module], save: Callable[..., Path], tmp_path: Path) -> tuple[Any, LVLM]:
    """The published model and ours, loaded from what it saved."""
    theirs = llava(image_grid_pinpoints=CANVASES)
    return theirs, LVLM.from_pretrained(save(theirs, tmp_path))


def inputs(ours: LVLM, sizes: list[tuple[int, int]]) -> tuple[Request, dict[str, Tensor]]:
    """A request of images of these sizes, and what the published processor would make of it."""
    generator = torch.Generator().manual_seed(len(sizes))
    images = tuple(torch.randn(3, *size, generator=generator) for size in sizes)
    words = torch.randint(1, IMAGE, (2 * len(sizes) + 5,), generator=generator)
    prompt = [token for i in range(len(sizes)) for token in (int(words[2 * i]), int(words[2 * i + 1]), IMAGE)]
    prompt += words[2 * len(sizes) :].tolist()
    request = Request(frames_F3HW=images, prompt_N=torch.tensor(prompt), image_token_id=IMAGE, max_new_tokens=STEPS)
    run = ours.begin(request)
    ours.prepare(run)
    assert run.prompt is not None
    (clip,) = ours.dialect.split(request)
    views = torch.split(clip.frames_F3HW, [tiling.views for tiling in clip.tilings])
    most = max(map(len, views))
    padded = [torch.cat([each, torch.zeros(most - len(each), *each.shape[1:])]) for each in views]
    return request, {
        "input_ids": run.prompt.ids_BN, "pixel_values": torch.stack(padded), "image_sizes": torch.tensor(sizes),
    }  # fmt: skip


@pytest.mark.parametrize("sizes", [[size] for size in SIZES] + [SIZES[:3], SIZES[3:]], ids=str)
def test_prefill_and_greedy_answers_are_those_of_the_published_class(
    pair: tuple[Any, LVLM], greedy: Callable[..., Tensor], sizes: list[tuple[int, int]]
) -> None:
    theirs, ours = pair
    request, processed = inputs(ours, sizes)
    with torch.inference_mode():
        expected, got = theirs(**processed).logits, ours(**processed)
    assert float((expected - got).abs().max()) < TOLERANCE
    result = ours.run(request)
    tokens, logits = greedy(theirs, STEPS, **processed)
    assert torch.equal(result.tokens_N, tokens[0])
    assert float((result.logits_NC - logits[0]).abs().max()) < TOLERANCE


def test_an_image_is_cut_as_the_published_processor_cuts_it(transformers: Any) -> None:
    processor = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=CANVASES, resample=3
    )
    for height, width in SIZES:
        ramps = [torch.arange(height)[:, None] * a + torch.arange(width) * b for a, b in ((2, 0), (0, 2), (1, 1))]
        image = (40 + torch.stack(ramps)).to(torch.uint8)
        processed = processor(images=[image.numpy()], input_data_format="channels_first", return_tensors="pt")
        expected = processed["pixel_values"][0]
        mean, std = (torch.tensor(x)[:, None, None] for x in (processor.image_mean, processor.image_std))
        views = views_of((image / 255 - mean) / std, tiling_of(height, width, 28, CANVASES), 28)
        assert views.shape == expected.shape
        level = 1 / 255 / float(std.min())  # theirs rounds to whole levels after each pass of resizing
        assert float((views - expected).abs().max()) < 1.5 * level, (height, width)


def test_the_tiles_of_an_image_give_it_back_at_the_size_of_its_canvas() -> None:
    image = torch.randn(3, 56, 40)
    tiling = tiling_of(56, 40, 28, [(56, 56)])
    assert torch.equal(image_of(views_of(image, tiling, 28), tiling), image)


def test_a_canvas_that_shows_more_wins_then_one_that_wastes_less() -> None:
    canvases = [(56, 56), (28, 84), (28, 56)]
    assert tiling_of(28, 84, 28, canvases).views == 1 + 3  # the others show less of it
    assert tiling_of(14, 28, 28, canvases).views == 1 + 2
    assert tiling_of(100, 100, 28, canvases).views == 1 + 4
