"""Uniform sampling of frames and of vision tokens."""

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.ops.places import even_places
from lvlm_atlas.reference.techniques.encoding.uniform import Uniform

counts = st.integers(1, 700)


@given(st.integers(2, 700), st.integers(2, 700))
def test_first_and_last_are_kept(total: int, keep: int) -> None:
    places = even_places(total, keep).tolist()
    assert (places[0], places[-1]) == (0, total - 1)


@given(counts, counts)
def test_no_place_comes_twice(total: int, keep: int) -> None:
    places = even_places(total, keep).tolist()
    assert len(set(places)) == len(places) == min(total, keep)


@given(counts, counts)
def test_places_are_those_of_exact_arithmetic(total: int, keep: int) -> None:
    kept = min(total, keep)
    step = Fraction(total - 1, max(1, kept - 1))
    assert even_places(total, keep).tolist() == [floor(i * step) for i in range(kept)]


def test_one_alone_is_the_first() -> None:
    assert even_places(9, 1).tolist() == even_places(1, 5).tolist() == [0]
    assert even_places(10, 4).tolist() == [0, 3, 6, 9]
    assert even_places(11, 4).tolist() == [0, 3, 6, 10]


@given(counts, counts)
def test_gaps_differ_by_one_at_most(total: int, keep: int) -> None:
    gaps = even_places(total, keep).diff()
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_the_prompt_keeps_all_text_and_is_numbered_anew(device: str) -> None:
    vision = torch.tensor([[False, True, True, True, True, False]], device=device)
    place = torch.arange(6, device=device)[None]
    hidden = torch.arange(6.0, device=device)[None, :, None].expand(1, 6, 3)
    out = Uniform(keep_ratio=0.5).llm_input(LlmInput(Sequence(hidden, place, vision, place)))
    assert out.index_BN.tolist() == [[0, 1, 4, 5]]
    assert out.position_BN.tolist() == [[0, 1, 2, 3]]
    assert out.hidden_BND[0, :, 0].tolist() == [0.0, 1.0, 4.0, 5.0]


def test_frames_are_dropped_before_the_encoder(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, frames=9), [Uniform(max_frames=3)]).trace
    assert trace.frame_index.tolist() == [0, 4, 8]
    assert trace.vision_tokens == 3 * 64


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_keeping_everything_changes_nothing(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config)
    assert torch.equal(lvlm.run(request, [Uniform()]).logits_NC, lvlm.run(request).logits_NC)


@pytest.mark.parametrize("setting", [{"max_frames": 0}, {"keep_ratio": 0.0}, {"keep_ratio": 1.01}])
def test_parameters_outside_their_range_are_refused(setting: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        Uniform(**setting)
