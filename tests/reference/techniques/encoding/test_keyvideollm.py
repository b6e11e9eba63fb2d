"""KeyVideoLLM: coarse frames, then the best of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import Frames
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher
from lvlm_atlas.reference.techniques.encoding.keyvideollm import KeyVideoLLM, segment_middles


class Fixed:
    """A matcher that gives fixed scores and remembers what it was asked."""

    def __init__(self, *scores: float) -> None:
        self.scores = torch.tensor(scores)
        self.asked: list[tuple[Tensor, Tensor]] = []

    def score(self, frames_F3HW: Tensor, text_N: Tensor) -> Tensor:
        self.asked.append((frames_F3HW, text_N))
        return self.scores


def kept(frames: int, matcher: Fixed, coarse: int = 32, most: int = 8) -> list[int]:
    """The frames that are kept of a video with random pixels."""
    request = random_request(LVLM.random().config, frames=frames)
    technique = KeyVideoLLM(coarse, most, matcher=matcher)  # type: ignore[arg-type]
    return technique.select_frames(Frames(request)).tolist()


def test_a_candidate_is_the_middle_of_its_stretch() -> None:
    assert segment_middles(9, 3).tolist() == [1, 4, 7]
    assert segment_middles(10, 1).tolist() == [4]  # of 0 … 9, the earlier of two middles
    assert segment_middles(10, 4).tolist() == [0, 3, 5, 8]  # borders 0, 2, 5, 7, 10


def test_a_stretch_of_one_frame_is_that_frame() -> None:
    assert segment_middles(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert segment_middles(1, 32).tolist() == [0]


@given(st.integers(1, 400), st.integers(1, 64))
def test_a_candidate_is_as_far_from_both_ends_of_its_stretch_as_can_be(total: int, segments: int) -> None:
    count = min(total, segments)
    places = segment_middles(total, segments).tolist()
    assert len(places) == count
    for index, place in enumerate(places):
        first, last = index * total // count, (index + 1) * total // count - 1
        assert place - first in (last - place, last - place - 1)


def test_a_short_video_gives_no_frame_twice() -> None:
    places = segment_middles(5, 32).tolist()
    assert len(set(places)) == len(places) == 5


def test_borders_are_those_of_exact_arithmetic() -> None:
    # Border 21 of 49 is 21 · 119 / 49 = 51; in floating point the step times 21 is cut to 50.
    places = segment_middles(119, 49).tolist()
    assert places[20] == (48 + 51 - 1) // 2 == 49
    assert places[21] == (51 + 53 - 1) // 2 == 51


def test_the_best_of_the_candidates_are_kept_in_the_order_of_the_video() -> None:
    # Of 9 frames the candidates are 1, 4 and 7.
    assert kept(9, Fixed(0.1, 0.3, 0.2), coarse=3, most=2) == [4, 7]
    assert kept(9, Fixed(0.3, 0.1, 0.2), coarse=3, most=2) == [1, 7]
    assert kept(9, Fixed(0.1, 0.2, 0.3), coarse=3, most=1) == [7]


def test_the_earlier_of_two_equal_frames_is_kept() -> None:
    assert kept(5, Fixed(0.2, 0.5, 0.5, 0.5, 0.1), most=2) == [1, 2]


def test_only_candidates_are_scored_and_against_the_text_without_placeholders() -> None:
    request = random_request(LVLM.random().config, frames=9)
    matcher = Fixed(0.1, 0.3, 0.2)
    KeyVideoLLM(3, 2, matcher=matcher).select_frames(Frames(request))  # type: ignore[arg-type]
    ((frames, text),) = matcher.asked
    assert torch.equal(frames, request.frames_F3HW[[1, 4, 7]])
    assert torch.equal(text, request.text_N)
    assert request.image_token_id not in text.tolist()


def test_nothing_is_scored_where_all_candidates_are_kept() -> None:
    matcher = Fixed()
    assert kept(6, matcher, most=6) == [0, 1, 2, 3, 4, 5]
    assert kept(6, matcher, coarse=2, most=8) == [1, 4]
    assert matcher.asked == []


def test_scores_are_cosines_so_that_longer_embeddings_win_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    matcher = ImageTextMatcher.random(device=device)
    before = KeyVideoLLM(6, 2, matcher).select_frames(Frames(request))
    text = matcher.embed_text(request.text_N)
    frames = matcher.embed_frames(request.frames_F3HW.to(device))
    cosine = [float(frame @ text / (frame.norm() * text.norm())) for frame in frames]
    assert before.tolist() == sorted(sorted(range(6), key=lambda index: -cosine[index])[:2])


def test_a_run_encodes_only_what_is_kept(device: str) -> None:
    lvlm = LVLM.random(device=device)
    result = lvlm.run(random_request(lvlm.config), [KeyVideoLLM(5, 3)])
    assert result.trace.frames_in == 6
    assert result.trace.frames == 3
    assert result.trace.llm_vision_tokens[0] == 3 * 64


def test_a_technique_that_never_began_says_what_it_lacks() -> None:
    request = random_request(LVLM.random().config)
    with pytest.raises(ValueError, match="needs a matcher"):
        KeyVideoLLM(6, 2).select_frames(Frames(request))


@pytest.mark.parametrize("name", ["coarse_frames", "max_frames"])
def test_parameters_outside_their_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        KeyVideoLLM(**{name: 0})
