"""Requests as people make them: images of different sizes, tiles, and frames that keep different numbers of tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from tests.lab.made_up import HalvesSides
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens, blocks_of
from lvlm_atlas.reference.lvlm import LVLM, Request, Technique, random_request
from lvlm_atlas.reference.lvlm.tiles import some_patches, tiling_of, unpadded
from lvlm_atlas.reference.lvlm.windows import to_patches

NATIVE, ALL = ["tiny-window", "tiny-deepstack"], ["tiny", "tiny-tiles", "tiny-window", "tiny-deepstack"]


def lvlm_of(preset: str, device: str) -> LVLM:
    return LVLM.random(preset, device=device)


def images(lvlm: LVLM, sizes: list[tuple[int, int]], seed: int = 0) -> Request:
    """Text, an image, text, an image, …, text."""
    generator = torch.Generator().manual_seed(seed)
    token = lvlm.config.image_token_id
    words = torch.randint(0, 100, (3 * len(sizes) + 4,), generator=generator).tolist()
    prompt = [piece for i in range(len(sizes)) for piece in (*words[3 * i : 3 * i + 3], token)]
    pixels = tuple(torch.randn(3, *size, generator=generator) for size in sizes)
    return Request(
        frames_F3HW=pixels,
        prompt_N=torch.tensor([*prompt, *words[-4:]]),
        image_token_id=token,
        max_new_tokens=3,
    )


@pytest.mark.parametrize("preset", NATIVE)
def test_images_of_different_sizes_are_read_as_the_processor_hands_them_over(preset: str, device: str) -> None:
    lvlm = lvlm_of(preset, device)
    f, p = lvlm.config.vision.factor, lvlm.config.vision.patch_size
    sizes = [(2 * f, 3 * f), (4 * f, f), (4 * f, f), (f, f)]
    request = images(lvlm, sizes)
    pixels = [to_patches(image[None].repeat(2, 1, 1, 1), lvlm.config.vision)[0] for image in request.frames_F3HW]
    grids = torch.tensor([[1, height // p, width // p] for height, width in sizes])
    run = lvlm.begin(request)
    lvlm.prepare(run)
    assert run.prompt is not None
    with torch.inference_mode():
        logits = lvlm(run.prompt.ids_BN, pixel_values=torch.cat(pixels), image_grid_thw=grids)
    torch.testing.assert_close(lvlm.run(request).logits_NC[0], logits[0, -1], atol=1e-4, rtol=1e-4)
    assert [len(span) for span in run.prompt.spans] == [6, 4, 4, 1]


@pytest.mark.parametrize("preset", NATIVE)
def test_the_trace_counts_each_size(preset: str, device: str) -> None:
    lvlm = lvlm_of(preset, device)
    f, layers = lvlm.config.vision.factor, lvlm.config.encoder_layers
    trace = lvlm.run(images(lvlm, [(2 * f, 3 * f), (4 * f, f), (4 * f, f)])).trace
    assert trace.encoder_tokens == [24] * (layers + 1) + [16] * (layers + 1)
    assert (trace.frames, trace.vision_tokens, trace.text_tokens) == (3, 14, 13)
    assert trace.pixels == trace.pixels_in == (6 + 4 + 4) * f * f


def test_llava_resizes_images_to_its_own_size(device: str) -> None:
    lvlm = lvlm_of("tiny", device)
    request = images(lvlm, [(30, 80), (56, 56)])
    trace = lvlm.run(request).trace
    assert trace.encoder_tokens == [65] * (lvlm.config.encoder_layers + 1)
    assert trace.vision_tokens == 2 * 64
    square = replace(request, frames_F3HW=torch.stack([request.frames_F3HW[1]] * 2))
    both = replace(request, frames_F3HW=(request.frames_F3HW[1],) * 2)
    assert torch.equal(lvlm.run(square).logits_NC, lvlm.run(both).logits_NC)


def test_tiles_are_encoder_sequences_and_images_are_frames(device: str) -> None:
    lvlm = lvlm_of("tiny-tiles", device)
    trace = lvlm.run(images(lvlm, [(28, 84), (56, 56)])).trace
    assert trace.encoder_tokens == [17] * (lvlm.config.encoder_layers + 1)
    # A view of 4 × 4 patches; then 3 × 1 and 2 × 2 tiles, a newline a row.
    assert trace.vision_tokens == (16 + 4 * (12 + 1)) + (16 + 8 * (8 + 1))
    assert trace.frames == 2


@pytest.mark.parametrize("preset", ALL)
def test_techniques_resize_images_of_each_size(preset: str, device: str) -> None:
    lvlm = lvlm_of(preset, device)
    trace = lvlm.run(images(lvlm, [(56, 64), (32, 64)]), [HalvesSides()]).trace
    assert (trace.pixels_in, trace.pixels) == (88 * 64, 88 * 16)


@dataclass(frozen=True)
class Keeps(Technique):
    """Of each block the tokens at these places."""

    places: tuple[tuple[int, ...], ...]
    acts_at: ClassVar = ("adapter-output",)

    def adapter_output(self, at: Any) -> VisionTokens:
        return at.tokens.keep([torch.tensor(places, dtype=torch.long) for places in self.places])


@pytest.mark.parametrize("preset", [*NATIVE, "tiny"])
@pytest.mark.parametrize("video", [True, False])
def test_frames_keep_different_numbers_of_tokens_and_those_their_positions(
    preset: str, video: bool, device: str
) -> None:
    lvlm = lvlm_of(preset, device)
    one = preset == "tiny"  # a token a frame, no temporal patches
    request = random_request(lvlm.config, frames=3 if one or not video else 6)
    if not video:
        token = lvlm.config.image_token_id
        prompt_N = request.prompt_N.masked_fill(request.prompt_N == request.image_token_id, token)
        request = replace(request, prompt_N=prompt_N, image_token_id=token)
    places = ((0, 7, 29), (), (3, 4, 5, 6, 28))
    whole, cut = lvlm.begin(request), lvlm.begin(request, [Keeps(places)])
    full, some = lvlm.prepare(whole), lvlm.prepare(cut)
    spans = whole.prompt.spans
    kept = torch.cat([span[list(each)] for span, each in zip(spans, places, strict=True) if each])
    is_kept = ~full.vision_BN[0]
    is_kept[kept] = True
    assert torch.equal(some.hidden_BND, full.hidden_BND[:, is_kept])
    assert (cut.trace.vision_tokens, cut.trace.frames) == (8, whole.trace.frames)
    assert [len(span) for span in cut.prompt.spans if len(span)] == [3, 5]
    if one:
        assert some.position_BN[0].tolist() == list(range(some.length))
        return
    if preset == "tiny-window" and video:  # all of a video stands together
        assert torch.equal(some.position_BN, full.position_BN[:, is_kept])
        return
    # A frame without tokens has no place either: what follows moves up by its longer side.
    side, later = 6, torch.arange(full.length, device=full.hidden_BND.device) > spans[1][-1]
    expected = full.position_BN - side * later[None, :, None]
    assert torch.equal(some.position_BN, expected[:, is_kept])


@pytest.mark.parametrize("preset", ALL)
def test_a_run_with_uneven_frames_is_answered(preset: str, device: str) -> None:
    lvlm = lvlm_of(preset, device)

    class Ramp(Technique):
        acts_at = ("adapter-output",)

        def adapter_output(self, at: Any) -> VisionTokens:
            return at.tokens.keep([torch.arange(1 + 2 * i) for i in range(len(at.tokens.blocks))])

    result = lvlm.run(random_request(lvlm.config, frames=4), [Ramp()])
    assert result.logits_NC.isfinite().all()
    blocks = 4 // lvlm.config.frames_a_patch
    assert result.trace.vision_tokens == blocks**2
    assert set(result.trace.kv_entries[:1]) == {16 + blocks**2}


class MeanOverFrames(Technique):
    """One block for all frames, the mean of theirs."""

    acts_at = ("adapter-output",)

    def adapter_output(self, at: Any) -> VisionTokens:
        blocks = at.tokens.blocks
        deepstack = None
        if blocks[0].deepstack_NLD is not None:
            deepstack = torch.stack([block.deepstack_NLD for block in blocks]).mean(0)
        mean = Block(torch.stack([block.token_ND for block in blocks]).mean(0), blocks[0].place_N2, deepstack)
        time_T = None if at.tokens.time_T is None else at.tokens.time_T[:1]
        return VisionTokens((mean,), at.tokens.grid, time_T)


@pytest.mark.parametrize("preset", ALL)
def test_frames_are_merged_into_one_block(preset: str, device: str) -> None:
    lvlm = lvlm_of(preset, device)
    request = random_request(lvlm.config, frames=2)
    same = request.frames_F3HW[:1].repeat(2, 1, 1, 1)  # type: ignore[union-attr]
    twice = replace(request, frames_F3HW=same)
    result, alone = lvlm.run(twice, [MeanOverFrames()]), lvlm.run(twice.keep_frames(torch.tensor([0])))
    torch.testing.assert_close(result.logits_NC, alone.logits_NC, atol=1e-4, rtol=1e-4)
    assert result.trace.vision_tokens == alone.trace.vision_tokens
    assert lvlm.run(request, [MeanOverFrames()]).logits_NC.isfinite().all()


def test_on_free_patches_an_encoder_reducer_may_merge_frames(device: str) -> None:
    lvlm = lvlm_of("tiny", device)

    class FirstHalf(Technique):
        acts_at, needs = ("encoder-output",), ("free-patches",)

        def encoder_output(self, at: Any) -> Patches:
            hidden = at.patches.hidden_FND
            return Patches(hidden.reshape(-1, 2, *hidden.shape[1:]).mean(1), prefix=1)

    trace = lvlm.run(random_request(lvlm.config, frames=6), [FirstHalf()]).trace
    assert (trace.frames, trace.vision_tokens) == (6, 3 * 64)


def test_more_blocks_than_frames_have_no_placeholder(device: str) -> None:
    lvlm = lvlm_of("tiny", device)

    class Twice(Technique):
        acts_at = ("adapter-output",)

        def adapter_output(self, at: Any) -> VisionTokens:
            return VisionTokens(at.tokens.blocks * 2)

    with pytest.raises(ValueError, match="there are 4 blocks of vision tokens for 2 frames"):
        lvlm.run(random_request(lvlm.config, frames=2), [Twice()])


def test_vision_tokens_that_say_half_are_refused() -> None:
    tokens = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match="give a time for each of 2 blocks of a video, got 1"):
        VisionTokens(blocks_of(tokens), time_T=torch.zeros(1))
    with pytest.raises(ValueError, match="some blocks have DeepStack features and others none"):
        VisionTokens((Block(tokens[0], deepstack_NLD=torch.zeros(3, 1, 4)), Block(tokens[1])))
    with pytest.raises(ValueError, match="give the places to keep in each of 2 blocks, got 1"):
        VisionTokens(blocks_of(tokens)).keep([torch.tensor([0])])


def test_positions_want_the_place_of_each_token(device: str) -> None:
    lvlm = lvlm_of("tiny-window", device)

    class Placeless(Technique):
        acts_at = ("adapter-output",)

        def adapter_output(self, at: Any) -> VisionTokens:
            return replace(at.tokens, blocks=tuple(Block(block.token_ND) for block in at.tokens.blocks))

    with pytest.raises(ValueError, match="positions need row and column of each vision token"):
        lvlm.run(random_request(lvlm.config), [Placeless()])


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 8, 8)])
def test_frames_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a frame must be \(3, H, W\)"):
        Request(frames_F3HW=torch.zeros(shape), prompt_N=torch.zeros(1, dtype=torch.long), image_token_id=0)


def test_the_frames_of_a_video_are_of_one_size(device: str) -> None:
    lvlm = lvlm_of("tiny-window", device)
    request = random_request(lvlm.config, frames=2)
    uneven = replace(request, frames_F3HW=(torch.zeros(3, 40, 48), torch.zeros(3, 48, 40)))
    with pytest.raises(ValueError, match="the frames of a video must be of one size"):
        lvlm.run(uneven)


def both(lvlm: LVLM) -> Request:
    """Two stills, a video of three frames and a still, all of one size."""
    video, still = lvlm.config.placeholders
    return Request(
        frames_F3HW=torch.randn(6, 3, *lvlm.config.frame_size, generator=torch.Generator().manual_seed(3)),
        prompt_N=torch.tensor([1, still, 2, still, 3, video, video, video, 4, still, 5]),
        image_token_id=still,
        video_token_id=video,
        max_new_tokens=2,
    )


@pytest.mark.parametrize("preset", NATIVE)
def test_a_still_ends_a_video_whose_times_begin_anew(preset: str, device: str) -> None:
    request = both(lvlm_of(preset, device))
    assert [len(run) for run in request.runs] == [2, 3, 1]  # none of stills and video, though they are of one size
    assert request.seconds_F.tolist() == [0, 0.5, 0, 0.5, 1, 0]
    assert request.text_N.tolist() == [1, 2, 3, 4, 5]
    some = request.keep_frames(torch.tensor([1, 3, 4]))
    assert [len(run) for run in some.runs] == [1, 2]
    assert some.seconds_F.tolist() == [0.5, 0.5, 1]
    assert [some.is_video(clip) for clip in some.clips] == [False, True]


@pytest.mark.parametrize("preset", NATIVE)
def test_stills_and_a_video_fill_temporal_patches_apart(preset: str, device: str) -> None:
    lvlm = lvlm_of(preset, device)
    trace = lvlm.run(both(lvlm)).trace
    tokens = lvlm.config.vision.patches // lvlm.config.patches_a_token
    assert trace.vision_tokens == (2 + 2 + 1) * tokens  # three frames are two temporal patches
    assert trace.frames == 6


@pytest.mark.parametrize("preset", NATIVE)
def test_a_session_reads_stills_and_a_video_in_one_round(preset: str, device: str) -> None:
    lvlm = lvlm_of(preset, device)
    request = both(lvlm)
    answer = lvlm.stream().ask(
        request.prompt_N,
        2,
        frames=request.frames_F3HW,
        image_token_id=request.image_token_id,
        video_token_id=request.video_token_id,
    )
    torch.testing.assert_close(answer.logits_NC, lvlm.run(request).logits_NC)


def test_what_marks_stills_and_videos_must_be_what_the_model_marks_them_with(device: str) -> None:
    window, llava = lvlm_of("tiny-window", device), lvlm_of("tiny", device)
    request = both(window)
    swapped = replace(request, image_token_id=request.video_token_id, video_token_id=request.image_token_id)
    with pytest.raises(ValueError, match=r"videos with token 126 and stills with 127, the model with 127 and 126"):
        window.run(swapped)
    with pytest.raises(ValueError, match="the model both with 127; leave the former out"):
        llava.run(replace(request, image_token_id=127, video_token_id=126))
    with pytest.raises(ValueError, match="7 image placeholders for 6 frames; give one a frame"):
        window.run(replace(request, prompt_N=torch.cat([request.prompt_N, torch.tensor([request.image_token_id])])))


def test_frames_of_several_sizes_are_kept_by_index() -> None:
    sizes = [(8, 8), (8, 16), (8, 8), (8, 8)]
    request = images(LVLM.random("tiny"), sizes)
    assert [tuple(run.shape) for run in request.runs] == [(1, 3, 8, 8), (1, 3, 8, 16), (2, 3, 8, 8)]
    kept = request.keep_frames(torch.tensor([1, 3]))
    assert [tuple(frame.shape[1:]) for frame in kept.frames_F3HW] == [(8, 16), (8, 8)]
    assert int((kept.prompt_N == request.image_token_id).sum()) == 2


@pytest.mark.parametrize("preset", NATIVE)
def test_a_technique_is_told_which_frames_it_has_and_may_give_each_a_size(preset: str, device: str) -> None:
    lvlm = lvlm_of(preset, device)
    f = lvlm.config.vision.factor
    request = images(lvlm, [(2 * f, 2 * f), (2 * f, 2 * f), (4 * f, 2 * f), (2 * f, 2 * f)])
    seen: list[list[int]] = []

    @dataclass(frozen=True)
    class DropsOne(Technique):
        acts_at = ("frames",)
        index: int

        def select_frames(self, at: Any) -> Tensor:
            seen.append(at.index_F.tolist())
            return torch.tensor([place for place in range(len(at.index_F)) if place != self.index])

    @dataclass(frozen=True)
    class HalvesTheLast(Technique):
        acts_at = ("pixels",)

        def resize(self, at: Any) -> tuple[Tensor, ...]:
            seen.append(at.index_F.tolist())
            return (*at.frames_F3HW[:-1], at.frames_F3HW[-1][:, : at.frames_F3HW.shape[-2] // 2])

    run = lvlm.begin(request, [DropsOne(0), DropsOne(2), HalvesTheLast()])
    lvlm.prepare(run)
    assert seen[:2] == [[0, 1, 2, 3], [1, 2, 3]]
    assert seen[2:] == [[1], [2]]  # two sizes, two runs
    assert run.prompt is not None
    assert [len(span) for span in run.prompt.spans] == [2, 4]  # of 2 × 2 and 4 × 2 tokens, rows halved once


@pytest.mark.parametrize("preset", ["tiny", "tiny-window"])
def test_frames_that_become_one_size_are_a_video_again(preset: str, device: str) -> None:
    lvlm = lvlm_of(preset, device)
    request = random_request(lvlm.config, frames=4)

    @dataclass(frozen=True)
    class Cuts(Technique):
        acts_at = ("pixels",)
        halves: tuple[int, ...]

        def resize(self, at: Any) -> tuple[Tensor, ...]:
            places = zip(at.frames_F3HW, at.index_F.tolist(), strict=True)
            return tuple(
                frame[:, :, : frame.shape[-1] // (2 if place in self.halves else 1)] for frame, place in places
            )

    cut = replace(request, frames_F3HW=request.frames_F3HW[..., : request.frames_F3HW.shape[-1] // 2])
    apart = [Cuts((0, 3)), Cuts((1, 2))]
    assert torch.equal(lvlm.run(request, apart).logits_NC, lvlm.run(cut).logits_NC)
    assert lvlm.run(request, apart).trace.pixels * 2 == lvlm.run(request).trace.pixels


def grid_ids(views: int, side: int) -> Tensor:
    """Tokens that are numbers: view, row, column."""
    view, row, column = torch.meshgrid(torch.arange(views), torch.arange(side), torch.arange(side), indexing="ij")
    return (100 * view + 10 * row + column).reshape(views, side * side, 1).float()


def test_a_canvas_is_read_row_by_row_without_its_padding() -> None:
    tiling = tiling_of(2, 3, 2, [(2, 4)])  # three of four columns are covered: an odd rest stays
    assert unpadded(grid_ids(3, 2), tiling, torch.tensor([-1.0]))[:, 0].tolist() == [
        0, 1, 10, 11, 100, 101, 200, 201, -1, 110, 111, 210, 211, -1,
    ]  # fmt: skip
    narrow = tiling_of(4, 2, 2, [(2, 4)])
    assert unpadded(grid_ids(3, 2), narrow, torch.tensor([-1.0]))[4:, 0].tolist() == [101, 200, -1, 111, 210, -1]


def test_patches_that_are_left_stand_in_the_order_of_the_canvas_behind_them_what_has_no_place() -> None:
    tiling = tiling_of(2, 4, 2, [(2, 4)])
    token_VN1 = torch.tensor([[9, 9, 9, 9], [70, 11, 3, 80], [71, 5, 2, 81]])[..., None].float()
    place_VN2 = torch.tensor(
        [[[-1, -1]] * 4, [[-1, -1], [0, 1], [1, 0], [-1, -1]], [[-1, -1], [0, 0], [1, 1], [-1, -1]]]
    )
    order = some_patches(token_VN1, place_VN2, tiling, 2)[:, 0].tolist()
    assert order == [9, 9, 9, 9, 11, 5, 3, 2, 70, 71, 80, 81]
    assert some_patches(token_VN1, None, tiling, 2)[4:, 0].tolist() == [70, 11, 3, 80, 71, 5, 2, 81]
