"""The dialects at native resolution by hand: positions, patches, counts, techniques that their mergers forbid."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas import load
from lvlm_atlas.lab.built import built
from lvlm_atlas.needs import unmet
from lvlm_atlas.reference.flow.request import Request, Result
from lvlm_atlas.reference.flow.states import close_up
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens, blocks_of, grid_places
from lvlm_atlas.reference.lvlm import LVLM, Refusal, Technique, random_request
from lvlm_atlas.reference.lvlm.mrope import in_order, positions
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.lvlm.windows import coordinates, to_frames, to_patches

TINY = PRESETS["tiny-window"]
TECHNIQUES = [technique for technique in load().atlas.techniques.values() if technique.reference]


@pytest.fixture(scope="module", params=["tiny-window", "tiny-deepstack"])
def lvlm(request: pytest.FixtureRequest, device: str) -> LVLM:
    return LVLM.random(request.param, device=device)


def stills(config, frames: int = 3, **more) -> Request:
    request = random_request(config, frames=frames, **more)
    prompt_N = request.prompt_N.masked_fill(request.prompt_N == request.image_token_id, config.image_token_id)
    return dataclasses.replace(request, prompt_N=prompt_N, image_token_id=config.image_token_id)


def picture(blocks: int, rows: int, columns: int, time_T: torch.Tensor | None = None) -> VisionTokens:
    tokens = torch.zeros(blocks, rows * columns, 1)
    return VisionTokens(
        blocks_of(tokens, grid_places(rows, columns).expand(len(tokens), -1, -1)), (rows, columns), time_T
    )


def test_positions_of_text_an_image_and_a_video_by_hand() -> None:
    image, video = picture(1, 2, 3), picture(2, 2, 1, torch.tensor([0.0, 3.9]))
    position_N3, following = positions([2, image, 1, video, 1])
    time, row, column = position_N3.T.tolist()
    assert following == 9
    assert time == [0, 1, *[2] * 6, 5, 6, 6, 9, 9, 8]
    assert row == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 6, 7, 8]
    assert column == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 6, 6, 6, 8]


def test_pictures_side_by_side_are_told_apart_and_half_a_picture_is_refused() -> None:
    one, two = picture(1, 1, 2), picture(1, 3, 1)
    assert list(in_order(torch.tensor([5, 9, 9, 9, 9, 9]), {9: iter([one, two])})) == [1, one, two]
    with pytest.raises(ValueError, match="the placeholders from token 1 on do not fit their picture, which has 3"):
        list(in_order(torch.tensor([5, 9, 9, 7]), {9: iter([two])}))


def test_patches_stand_in_squares_of_four() -> None:
    place_N2 = coordinates(4, 4, TINY.vision, torch.device("cpu"))
    assert place_N2[:8].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]


@given(times=st.integers(1, 3), rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_frames_come_back_from_their_patches(times: int, rows: int, columns: int) -> None:
    frames = torch.randn(2 * times, 3, 8 * rows, 8 * columns)
    patches = to_patches(frames, TINY.vision)
    assert patches.shape == (times, 4 * rows * columns, 96)
    assert torch.equal(to_frames(patches.flatten(0, 1), (times, 2 * rows, 2 * columns), TINY.vision), frames)


def test_the_trace_counts_patches_of_a_temporal_patch_and_tokens_of_all(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, frames=5)).trace
    assert trace.encoder_tokens == [120] * 5
    assert (trace.frames, trace.vision_tokens, trace.text_tokens) == (5, 3 * 30, 16)
    assert trace.llm_tokens == trace.kv_entries == [106] * 4


def test_stills_are_each_a_picture_and_frames_of_a_video_share_their_tokens(lvlm: LVLM) -> None:
    assert lvlm.run(stills(lvlm.config)).trace.vision_tokens == 3 * 30
    assert lvlm.run(random_request(lvlm.config, frames=3)).trace.vision_tokens == 2 * 30


def test_frames_of_any_size_are_brought_to_whole_tokens(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    odd = dataclasses.replace(request, frames_F3HW=torch.randn(2, 3, 45, 30))
    assert lvlm.run(odd).trace.encoder_tokens == [(48 // 4) * (32 // 4)] * 5


def test_closing_up_leaves_no_gap_that_was_not_there() -> None:
    assert close_up(torch.tensor([1, 4, 6]), None).tolist() == [0, 1, 2]
    origin = torch.tensor([[0, 0], [2, 1], [9, 3], [9, 9]])
    assert close_up(origin, origin).tolist() == origin.tolist()
    assert close_up(origin[[0, 2, 3]], origin).tolist() == [[0, 0], [7, 1], [7, 7]]


@contextmanager
def but_several_sizes_are_no_video(still: bool) -> Iterator[None]:
    """What a technique that gives frames different sizes may be refused for."""
    try:
        yield
    except Refusal as refusal:
        if still or "give them as images" not in str(refusal):
            raise


@cache
def asked(lvlm: LVLM, still: bool) -> tuple[Request, Result]:
    """A request, and its answer without a technique."""
    make = stills if still else random_request
    request = make(lvlm.config, max_new_tokens=5)
    return request, lvlm.run(request)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: technique.id)
@pytest.mark.parametrize("still", [False, True], ids=["video", "stills"])
def test_every_technique_works_or_is_refused_by_name(lvlm: LVLM, technique, still: bool) -> None:
    request, plain = asked(lvlm, still)
    make = pkgutil.resolve_name(technique.reference)
    if lacking := unmet(technique.needs, lvlm.dialect.offers):
        for setting in technique.trials:
            with pytest.raises(Refusal, match=f"^{make.__name__} needs `{lacking[0]}`"):
                lvlm.run(request, [make(**setting)])
        return
    # On videos all trials are held against their entries, too (`lab.settings.SHAPES`): one is enough here.
    for setting in technique.trials if still else technique.trials[:1]:
        with but_several_sizes_are_no_video(still):
            assert lvlm.run(request, [built(technique.reference, setting, lvlm)]).logits_NC.isfinite().all()
    if technique.neutral is None:
        return
    neutral = lvlm.run(request, [built(technique.reference, technique.neutral, lvlm)])
    assert torch.equal(neutral.tokens_N, plain.tokens_N)
    torch.testing.assert_close(neutral.logits_NC, plain.logits_NC, atol=1e-4, rtol=1e-4)


@cache
def window(device: str) -> LVLM:
    return LVLM.random("tiny-window", device=device)


@pytest.mark.parametrize(
    "technique",
    [each for each in TECHNIQUES if not unmet(each.needs, LVLM.empty(TINY).dialect.offers)],
    ids=lambda technique: technique.id,
)
def test_every_technique_answers_about_images_and_a_video_or_says_why_not(technique, device: str) -> None:
    lvlm = window(device)
    video, still = lvlm.config.placeholders
    sizes = [(40, 48), (16, 24), *[(40, 48)] * 4, (40, 48)]
    request = Request(
        frames_F3HW=tuple(torch.randn(3, *size, generator=torch.Generator().manual_seed(5)) for size in sizes),
        prompt_N=torch.tensor([1, still, 2, still, 3, *[video] * 4, 4, still, 5, 6, 7, 8]),
        image_token_id=still,
        video_token_id=video,
        max_new_tokens=3,
    )
    try:
        result = lvlm.run(request, [built(technique.reference, technique.trials[0], lvlm)])
    except Refusal as refusal:
        assert "frames" in str(refusal)  # noqa: PT017 - others answer
    else:
        assert result.logits_NC.isfinite().all()


class Halve(Technique):
    """Takes half of the patches."""

    acts_at = ("encoder-output",)

    def encoder_output(self, at):
        return dataclasses.replace(at.patches, hidden_FND=at.patches.hidden_FND[:, ::2])


class Resample(Technique):
    """Takes half of the vision tokens."""

    acts_at = ("adapter",)

    def adapt(self, at):
        return at.adapter(at.hidden_FND)[:, ::2]


@pytest.mark.parametrize("kind", [Halve, Resample])
def test_who_needs_free_patches_is_refused_before_anything_runs(lvlm: LVLM, kind: type[Technique]) -> None:
    honest = type(kind.__name__, (kind,), {"needs": ("free-patches",)})
    said = f"{kind.__name__} needs `free-patches`, but this model cannot give it: its adapter joins neighbours"
    with pytest.raises(Refusal, match=said):
        lvlm.begin(random_request(lvlm.config), [honest()])
    assert LVLM.random("tiny").run(random_request(PRESETS["tiny"]), [honest()]).trace.vision_tokens == 6 * 32


def test_what_breaks_the_grid_undeclared_is_a_fault_even_if_its_parts_would_merge(lvlm: LVLM) -> None:
    for broken, said in (
        (Halve(), "Halve leaves 60 of 120 patches, but this model's adapter joins neighbours"),
        (Resample(), "gives 15 vision tokens where the positions of this model need 5 × 6"),
    ):
        with pytest.raises(ValueError, match=said) as raised:
            lvlm.run(random_request(lvlm.config), [broken])
        assert not isinstance(raised.value, Refusal)


def test_spans_are_the_places_of_each_frames_tokens(lvlm: LVLM) -> None:
    for request, units in ((stills(lvlm.config), 3), (random_request(lvlm.config, frames=5), 3)):
        run = lvlm.begin(request)
        lvlm.prepare(run)
        spans = run.prompt.spans
        assert [len(span) for span in spans] == [30] * units
        assert torch.cat(spans).tolist() == run.prompt.vision_BN[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pixel_values": torch.zeros(8, 96)}, "come with their grid"),
        ({"pixel_values": torch.zeros(8, 95), "image_grid_thw": torch.tensor([[1, 2, 4]])}, r"must be \(P, 96\)"),
        ({"pixel_values": torch.zeros(8, 96), "image_grid_thw": torch.tensor([[1, 2, 2]])}, "grids hold 4 patches"),
    ],
)
def test_pixels_that_are_none_of_a_processors_are_refused(lvlm: LVLM, fields, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        lvlm(torch.tensor([[1, 2]]), **fields)


def test_a_placeholder_of_another_model_is_refused(lvlm: LVLM) -> None:
    request = dataclasses.replace(random_request(lvlm.config), image_token_id=5)
    with pytest.raises(ValueError, match="token 5, the model with 127 or 126"):
        lvlm.run(request)


@pytest.mark.parametrize("preset", ["tiny-window", "tiny-deepstack"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_runs_and_stays_finite(preset: str, dtype: torch.dtype, device: str) -> None:
    lvlm = LVLM.random(preset, dtype=dtype, device=device)
    assert lvlm.run(random_request(lvlm.config)).logits_NC.isfinite().all()


def test_text_alone_counts_alike_on_all_axes(lvlm: LVLM) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    prompt = lvlm.dialect.prompt(torch.full((2, 5), 7), mask.bool(), [])
    assert prompt.position_BN[..., 0].tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert torch.equal(prompt.position_BN[..., 1], prompt.position_BN[..., 2])
    logits = lvlm(torch.full((2, 5), 7), mask)
    torch.testing.assert_close(logits[0, 2:], logits[1, :3], atol=1e-4, rtol=1e-4)
