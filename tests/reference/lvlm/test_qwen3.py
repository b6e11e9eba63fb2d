"""The Qwen3-VL dialect by hand: learned positions, DeepStack, the written times of a video."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, Request, Technique, random_request
from lvlm_atlas.reference.lvlm.deepstack_vision import corners
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.lvlm.windows import coordinates

TINY = PRESETS["tiny-deepstack"]
IMAGE, VIDEO, START, END = TINY.image_token_id, TINY.video_token_id, 124, 125


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random("tiny-deepstack", device=device)


def characters(text: str) -> list[int]:
    return [ord(letter) - 32 for letter in text]


def video(frames: int, seconds: list[float] | None = None, **more) -> Request:
    return dataclasses.replace(
        random_request(TINY, frames=frames),
        prompt_N=torch.tensor([1, 2, *[VIDEO] * frames, 3]),
        second_F=None if seconds is None else torch.tensor(seconds, dtype=torch.float64),
        **more,
    )


@pytest.mark.parametrize(("rows", "columns", "side"), [(4, 6, 7), (2, 2, 7), (20, 8, 5), (6, 6, 6), (4, 2, 1)])
def test_learned_positions_are_stretched_over_the_grid_corner_on_corner(rows: int, columns: int, side: int) -> None:
    square = torch.randn(side * side, 3)
    place_N2 = coordinates(rows, columns, TINY.vision, torch.device("cpu"))
    index_N4, share_N4 = corners(place_N2, side)
    assert index_N4.min() >= 0
    assert index_N4.max() < side * side
    got_ND = (square[index_N4] * share_N4[..., None]).sum(1)
    stretched = functional.interpolate(
        square.T.reshape(1, 3, side, side), (rows, columns), mode="bilinear", align_corners=True
    )[0]
    torch.testing.assert_close(got_ND, stretched[:, place_N2[:, 0], place_N2[:, 1]].T)


def test_the_features_of_each_layer_pass_its_own_merger(lvlm: LVLM, device: str) -> None:
    after: list[torch.Tensor] = []

    class Look(Technique):
        acts_at = ("encoder-layer", "encoder-output")

        def encoder_layer(self, at):
            return at.patches

        def encoder_output(self, at):
            after.append(at.patches)
            return at.patches

    hooks = [block.register_forward_hook(lambda _block, _in, out: after.append(out)) for block in blocks(lvlm)]
    with torch.inference_mode():
        sequence = lvlm.prepare(lvlm.begin(random_request(TINY, frames=4), [Look()]))
    for hook in hooks:
        hook.remove()
    *layers, out = after
    assert len(layers) == 4
    vision = sequence.deepstack_BNLD[sequence.vision_BN]
    assert not sequence.deepstack_BNLD[~sequence.vision_BN].any()
    for place, (layer, merger) in enumerate(zip((0, 2), lvlm.dialect.vision_tower.deepstack_merger_list, strict=True)):
        merged = merger(layers[layer].hidden_FND)
        torch.testing.assert_close(out.deepstack_FNLD[:, :, place], merged)
        torch.testing.assert_close(vision[:, place], merged.flatten(0, 1))


def blocks(lvlm: LVLM) -> list[torch.nn.Module]:
    return list(lvlm.dialect.vision_tower.blocks)


def test_features_go_with_the_tokens_that_stay_and_are_added_once(lvlm: LVLM) -> None:
    with torch.inference_mode():
        sequence = lvlm.prepare(lvlm.begin(random_request(TINY, frames=2)))
        kept_K = torch.arange(0, sequence.length, 3, device=lvlm.device)
        fewer = sequence.keep(kept_K[None])
        one = fewer.add_deepstack(0)
        two = one.add_deepstack(1)
    torch.testing.assert_close(one.hidden_BND, (sequence.hidden_BND + sequence.deepstack_BNLD[:, :, 0])[:, kept_K])
    torch.testing.assert_close(two.hidden_BND - one.hidden_BND, sequence.deepstack_BNLD[:, kept_K, 1])
    assert two.deepstack_BNLD is None
    assert two.add_deepstack(2) is two


def test_each_pair_of_frames_stands_behind_the_middle_of_its_times(lvlm: LVLM) -> None:
    run = lvlm.begin(video(5, [0.0, 0.5, 1.0, 2.1, 7.0], tokenize=characters))
    with torch.inference_mode():
        lvlm.prepare(run)
    tokens, pairs = [VIDEO] * 30, []
    for time in ("0.2", "1.6", "7.0"):  # 0.25 and 1.55, written as Python rounds them
        pairs += [*characters(f"<{time} seconds>"), START, *tokens, END]
    assert run.prompt.ids_BN[0].tolist() == [1, 2, *pairs, 3]
    assert [len(span) for span in run.prompt.spans] == [30] * 3


def test_without_a_tokenizer_nothing_is_written(lvlm: LVLM) -> None:
    run = lvlm.begin(video(4))
    with torch.inference_mode():
        lvlm.prepare(run)
    assert run.prompt.ids_BN[0].tolist() == [1, 2, *[VIDEO] * 60, 3]


def test_a_pair_of_frames_has_the_positions_of_a_still(lvlm: LVLM) -> None:
    run = lvlm.begin(video(4, tokenize=lambda _text: [9]))
    with torch.inference_mode():
        lvlm.prepare(run)
    time_N, row_N, column_N = run.prompt.position_BN[0].T
    first, second = run.prompt.spans
    assert time_N[first].unique().tolist() == [4]
    assert (int(row_N[first].max()), int(column_N[first].max())) == (4 + 4, 4 + 5)
    # Behind the longer side, six columns, come the end mark, the time and the start mark.
    assert time_N[second].unique().tolist() == [4 + 6 + 3]
    assert time_N[-2:].tolist() == [13 + 6, 13 + 7]


def test_frames_that_are_dropped_take_their_times_along(lvlm: LVLM) -> None:
    class Some(Technique):
        acts_at = ("frames",)

        def select_frames(self, at) -> torch.Tensor:
            return torch.tensor([0, 1, 4, 5])

    written: list[str] = []
    request = video(6, tokenize=lambda text: written.append(text) or [9])
    with torch.inference_mode():
        lvlm.prepare(lvlm.begin(request, [Some()]))
    assert written == ["<0.2 seconds>", "<2.2 seconds>"]


def test_a_prompt_with_too_many_placeholders_is_refused(lvlm: LVLM) -> None:
    request = video(2, tokenize=characters)
    more = dataclasses.replace(request, prompt_N=torch.tensor([1, *[VIDEO] * 5]))
    with pytest.raises(ValueError, match="5 image placeholders for 2 frames"):
        lvlm.run(more)
