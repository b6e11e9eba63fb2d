"""Q-Frame: frames drawn by relevance, and sizes by rank."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, Refusal, Request, random_request
from lvlm_atlas.reference.lvlm.contexts import Frames
from lvlm_atlas.reference.ops.sampling import gumbel
from lvlm_atlas.reference.techniques.encoding.q_frame import Chooser, QFrame, rank, shrunk_size
from lvlm_atlas.reference.techniques.encoding.uniform import Uniform
from lvlm_atlas.roofline.tokens.smart_resize import token_grid

NATIVE = ["tiny-window", "tiny-deepstack"]


class Fixed:
    """A matcher whose products with the text are those that the first pixels of the frames say."""

    def __init__(self) -> None:
        self.text: list[Tensor] = []
        self.frames: list[Tensor] = []

    def embed_frames(self, frames_F3HW: Tensor) -> Tensor:
        self.frames.append(frames_F3HW)
        return frames_F3HW[:, 0, 0, :1]

    def embed_text(self, text_N: Tensor) -> Tensor:
        self.text.append(text_N)
        return torch.ones(1)


def marked(lvlm: LVLM, *relevance: float) -> Request:
    """A request of frames whose first pixels say how relevant they are."""
    request = random_request(lvlm.config, frames=len(relevance))
    pixels = request.frames_F3HW.clone()
    pixels[:, 0, 0, 0] = torch.tensor(relevance)
    return replace(request, frames_F3HW=pixels)


def as_images(lvlm: LVLM, request: Request) -> Request:
    image = lvlm.config.placeholders[-1]
    prompt_N = request.prompt_N.masked_fill(request.prompt_N == request.image_token_id, image)
    return replace(request, prompt_N=prompt_N, image_token_id=image)


def fixed(**setting: float) -> QFrame:
    """A setting that takes the best, noise or not."""
    return QFrame(**{"temperature": 1e-6, **setting}, matcher=Fixed())  # type: ignore[arg-type]


def test_the_best_frames_are_those_of_the_softmax_and_the_noise() -> None:
    logits, noise = torch.tensor([1.0, 3.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    assert rank(logits, 1.0, noise).tolist() == [2, 1, 3, 0]
    assert rank(logits, 100.0, noise).tolist() == [2, 3, 1, 0]
    assert rank(logits, 0.4, noise).tolist() == [1, 2, 0, 3]  # 2.5, 7.5, 7, 2
    assert rank(torch.ones(4), 0.4, noise.zero_()).tolist() == [0, 1, 2, 3]  # of equals the first


def test_ranks_are_draws_without_replacement() -> None:
    logits = torch.tensor([0.0, 0.8, 1.6])
    generator = torch.Generator().manual_seed(0)
    firsts, rounds = Counter[int](), 3000
    for _ in range(rounds):
        firsts[rank(logits, 0.8, gumbel(3, generator)).tolist()[0]] += 1
    weights = [math.exp(each) for each in (0, 1, 2)]
    for place, weight in enumerate(weights):
        assert firsts[place] / rounds == pytest.approx(weight / sum(weights), abs=0.03)


@given(
    height=st.integers(8, 900), width=st.integers(8, 900), factor=st.sampled_from([1, 8, 28]), scale=st.integers(2, 8)
)
def test_the_planner_resizes_a_frame_to_the_same_size(height: int, width: int, factor: int, scale: int) -> None:
    rows, columns = (max(1, round(side / factor)) for side in (height, width))
    pixels = rows * columns * factor**2 / scale**2
    grid = token_grid(width, height, factor=factor, min_pixels=pixels, max_pixels=pixels, kind="image")
    size = shrunk_size(height, width, factor, scale)
    assert size == (grid[1] * factor, grid[0] * factor)


def test_no_frame_shrinks_to_less_than_a_token() -> None:
    assert shrunk_size(56, 84, 28, 8) == (28, 28)
    assert shrunk_size(4, 4, 1, 8) == (1, 1)
    assert shrunk_size(448, 672, 28, 4) == (112, 168)
    assert shrunk_size(450, 680, 28, 1) == (448, 672)


@pytest.mark.parametrize("preset", NATIVE)
def test_each_level_costs_a_quarter_of_the_one_above(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    f = lvlm.config.vision.factor
    request = as_images(lvlm, marked(lvlm, 1, 5, 2, 4, 3, 0))
    request = replace(
        request, frames_F3HW=functional.pad(request.frames_F3HW, (0, 8 * f - 48, 0, 16 * f - 40))
        if preset == "tiny-window" else functional.interpolate(request.frames_F3HW, (16 * f, 8 * f), mode="nearest"),
    )  # fmt: skip
    technique = fixed(high_frames=1, mid_frames=2, low_frames=2)
    run = lvlm.begin(request, [technique])
    lvlm.prepare(run)
    assert run.prompt is not None
    # The best is the second, then come the fourth and fifth, the third and the first.
    assert run.trace.frame_index.tolist() == [0, 1, 2, 3, 4]
    assert [len(span) for span in run.prompt.spans] == [2, 32, 2, 8, 8]
    assert run.trace.pixels / (f * f) == 32 + 2 * 8 + 2 * 2


def test_frames_go_on_in_their_order_in_time() -> None:
    lvlm = LVLM.random()
    request = marked(lvlm, 0, 9, 1, 8, 2, 7)
    chooser = fixed(high_frames=1, mid_frames=1, low_frames=1).begin(lvlm.begin(request))
    assert chooser.select_frames(Frames(request)).tolist() == [1, 3, 5]
    assert chooser.ranks == {1: 0, 3: 1, 5: 2}


def test_the_size_is_that_of_the_rank_among_the_frames_that_are_left(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = marked(lvlm, 1, 9, 2, 8, 3, 7)
    sizes: list[list[int]] = []
    kept = [1, 3, 4, 5], [1, 5]
    for stack in ([fixed(high_frames=1, mid_frames=1, low_frames=2)],) * 2:
        more = [Uniform(max_frames=2)] if sizes else []
        run = lvlm.begin(request, [*stack, *more])
        lvlm.prepare(run)
        assert run.trace.frame_index.tolist() == kept[len(sizes)]
        sizes.append([run.trace.pixels])
    side = 56
    assert sizes[0] == [(side // 2) ** 2 + (side // 4) ** 2 + 2 * (side // 8) ** 2]
    assert sizes[1] == [(side // 2) ** 2 + (side // 4) ** 2]  # the third best is now the second


def test_a_technique_before_it_does_not_shift_the_ranks(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = marked(lvlm, 9, 0, 1, 0, 8)  # uniform sampling leaves 0, 2 and 4
    technique = fixed(high_frames=1, mid_frames=1, low_frames=0, high_scale=1, mid_scale=2)
    run = lvlm.begin(request, [Uniform(max_frames=3), technique])
    lvlm.prepare(run)
    assert run.trace.frame_index.tolist() == [0, 4]
    chooser = run.acts.at("pixels")[0]
    assert isinstance(chooser, Chooser)
    assert chooser.ranks == {0: 0, 4: 1}
    assert run.trace.pixels == 56**2 + 28**2


def test_candidates_lie_evenly() -> None:
    lvlm = LVLM.random()
    request = marked(lvlm, 0, 9, 1, 9, 9, 9, 9, 9, 2)
    technique = fixed(candidates=3, high_frames=1, mid_frames=1, low_frames=0)
    chooser = technique.begin(lvlm.begin(request))
    assert chooser.select_frames(Frames(request)).tolist() == [4, 8]  # of 0, 4 and 8
    assert len(technique.matcher.frames[0]) == 3  # type: ignore[union-attr]


def test_products_with_the_text_are_not_normalised() -> None:
    lvlm = LVLM.random()
    request = marked(lvlm, 30, 10, 20)
    chooser = QFrame(temperature=1e-3, high_frames=1, mid_frames=1, low_frames=0, matcher=Fixed()).begin(  # type: ignore[arg-type]
        lvlm.begin(request)
    )
    assert chooser.select_frames(Frames(request)).tolist() == [0, 2]  # all have cosine 1
    assert chooser._logits(Frames(request), torch.arange(3)).tolist() == [30, 10, 20]


def test_the_matcher_reads_the_text_without_placeholders() -> None:
    lvlm = LVLM.random()
    request = marked(lvlm, 1, 2, 3)
    technique = fixed(high_frames=1, mid_frames=0, low_frames=0)
    technique.begin(lvlm.begin(request)).select_frames(Frames(request))
    assert torch.equal(technique.matcher.text[0], request.text_N)  # type: ignore[union-attr]


def test_the_seed_is_that_of_the_request(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=9, max_new_tokens=1)
    technique = QFrame(temperature=100.0, high_frames=2, mid_frames=1, low_frames=0)
    draws = [lvlm.run(replace(request, seed=seed), [technique]).trace.frame_index.tolist() for seed in (1, 1, 2, 3, 4)]
    assert draws[0] == draws[1]
    assert len({*map(tuple, draws)}) > 1


@pytest.mark.parametrize("preset", NATIVE)
def test_frames_of_several_sizes_are_images_and_no_video(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=1)
    technique = QFrame(high_frames=1, mid_frames=3, high_scale=1)
    with pytest.raises(Refusal, match="give them as images"):
        lvlm.run(request, [technique])
    assert lvlm.run(as_images(lvlm, request), [technique]).trace.frames == 4
    assert lvlm.run(request, [QFrame(high_frames=2, mid_frames=0, low_frames=0)]).trace.frames == 2  # of one size


def test_a_tower_of_one_size_resizes_the_frames_back(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=4)
    before, after = (lvlm.run(request, stack) for stack in ([], [QFrame(high_frames=2, mid_frames=2)]))
    assert after.trace.pixels * 4 < before.trace.pixels
    assert after.trace.llm_tokens == before.trace.llm_tokens
    assert not torch.equal(after.logits_NC, before.logits_NC)


def test_as_few_frames_as_the_first_level_holds_are_not_scored(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=4)
    technique = QFrame(high_frames=4, high_scale=1, matcher=Fixed())  # type: ignore[arg-type]
    assert torch.equal(lvlm.run(request, [technique]).logits_NC, lvlm.run(request).logits_NC)
    assert not technique.matcher.text  # type: ignore[union-attr]


def test_the_published_setting_costs_two_frames_of_full_size() -> None:
    chosen, factor = QFrame(), 28
    sizes = [(chosen.high_frames, chosen.high_scale), (chosen.mid_frames, chosen.mid_scale), (chosen.low_frames, 8)]
    tokens = [
        count * math.prod(shrunk_size(16 * factor, 32 * factor, factor, scale)) // factor**2 for count, scale in sizes
    ]
    assert tokens == [4 * 128, 8 * 32, 32 * 8]
    assert sum(tokens) == 2 * 16 * 32


@pytest.mark.parametrize(
    "wrong",
    [
        {"candidates": 0}, {"temperature": 0.0}, {"high_frames": 0}, {"mid_frames": -1}, {"low_frames": -1},
        {"high_scale": 0}, {"mid_scale": 9}, {"low_scale": 0},
    ],
)  # fmt: skip
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QFrame(**wrong)  # type: ignore[arg-type]
