"""Qwen2.5-VL's window attention."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderAttention
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.lvlm.windows import coordinates, windows_of
from lvlm_atlas.reference.ops.attention import attend, attend_inside
from lvlm_atlas.reference.techniques.encoding.qwen2_5_vl_window_attention import (
    Qwen25VLWindowAttention,
    attend_in_windows,
    bands,
    off_grid,
    on_grid,
)

sides = st.integers(1, 7)


def masked(heads: list[torch.Tensor], place_N2: torch.Tensor, window: int, prefix: int) -> torch.Tensor:
    """Attention by a mask: patches see those of their window, tokens in front see all and are seen by all."""
    window_N2 = place_N2 // window
    same_NN = (window_N2[:, None] == window_N2[None]).all(-1)
    mask = torch.ones(prefix + len(place_N2), prefix + len(place_N2), dtype=torch.bool)
    mask[prefix:, prefix:] = same_NN
    return attend(*heads, mask)


@given(sides, sides, st.integers(1, 5), st.integers(0, 2))
def test_each_patch_attends_to_its_own_window_alone(rows: int, columns: int, window: int, prefix: int) -> None:
    heads = [torch.randn(2, 3, prefix + rows * columns, 4) for _ in range(3)]
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).reshape(-1, 2)
    out = attend_in_windows(*heads, (rows, columns), window, prefix=prefix)
    assert torch.allclose(out, masked(heads, place, window, prefix), atol=1e-5)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 5))
def test_windows_are_cut_from_the_grid_and_not_from_the_order_of_merging(rows: int, columns: int, window: int) -> None:
    config = PRESETS["tiny-window"].vision
    place = coordinates(2 * rows, 2 * columns, config, torch.device("cpu"))  # square after square
    heads = [torch.randn(1, 2, len(place), 4) for _ in range(3)]
    out = attend_in_windows(*heads, (2 * rows, 2 * columns), window, merge=2)
    assert torch.allclose(out, masked(heads, place, window, 0), atol=1e-5)


def test_windows_are_those_of_the_model_that_has_them(device: str) -> None:
    config = PRESETS["tiny-window"].vision  # windows of 16 pixels, patches of 4
    place = coordinates(10, 12, config, torch.device(device))
    heads = [torch.randn(2, 2, 120, 4, device=device) for _ in range(3)]
    expected = attend_inside(*heads, windows_of(place, config).groups)
    assert torch.allclose(attend_in_windows(*heads, (10, 12), 4, merge=2), expected, atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 12))
def test_no_window_is_empty(length: int, window: int) -> None:
    cut = [(places, size) for places, size in bands(length, window)]
    assert [place for places, _ in cut for place in range(length)[places]] == [*range(length)]
    assert all(0 < size <= window and len(range(length)[places]) % size == 0 for places, size in cut)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_the_order_of_merging_comes_back(rows: int, columns: int, merge: int) -> None:
    x = torch.randn(2, 2, rows * columns * merge**2, 3)
    assert torch.equal(off_grid(on_grid(x, rows * merge, columns * merge, merge), merge), x)


def test_squares_become_rows() -> None:
    """Squares of 2 × 2, two beside each other: 0 1 / 2 3 and 4 5 / 6 7."""
    x = torch.arange(8.0).reshape(1, 1, 8, 1)
    assert on_grid(x, 2, 4, 2)[0, 0, :, :, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_full_layers_are_counted_from_0(device: str) -> None:
    lvlm = LVLM.random(device=device)  # three layers run
    trace = lvlm.run(random_request(lvlm.config), [Qwen25VLWindowAttention(2, (0, 2))]).trace
    shares = [
        flop / own for flop, own in zip(trace.encoder_attention_flop, trace.encoder_own_attention_flop, strict=True)
    ]
    assert shares[0] == shares[2] == 1
    assert shares[1] == (16 * 4 * 4 + 2 * 64 + 1) / 65**2  # windows of four, and the class token's row and column


@pytest.mark.parametrize(
    ("preset", "window", "scores"), [("tiny-deepstack", 4, 36 * 48), ("tiny-deepstack", 5, 50 * 54)]
)
def test_only_scores_are_saved(device: str, preset: str, window: int, scores: int) -> None:
    """10 × 12 patches: rows of windows of 4, 4 and 2, or 5 and 5; columns of 4, 4 and 4, or 5, 5 and 2."""
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2)
    before, after = (lvlm.run(request, stack).trace for stack in ([], [Qwen25VLWindowAttention(window, ())]))
    assert after.llm_vision_tokens == before.llm_vision_tokens
    assert after.encoder_tokens == before.encoder_tokens
    shares = [
        flop / own for flop, own in zip(after.encoder_attention_flop, after.encoder_own_attention_flop, strict=True)
    ]
    assert shares == pytest.approx([scores / 120**2] * 4)


def test_a_change_stays_in_its_window_until_a_full_layer(device: str) -> None:
    lvlm = LVLM.random("tiny-deepstack", device=device)
    frames = random_request(lvlm.config, frames=2).frames_F3HW.to(device)
    changed = frames.clone()
    changed[:, :, :4, :4] += 1  # the first patch

    def reached(full_layers: tuple[int, ...]) -> int:
        out = []
        for each in (frames, changed):
            run = lvlm.begin(random_request(lvlm.config, frames=2), [Qwen25VLWindowAttention(4, full_layers)])
            acting = run.acts.owner("encoder-attention")

            def attending(layer, layers, patches, heads, own, _scores, acting=acting):
                return acting.attend_patches(EncoderAttention(layer, layers, patches, *heads, own))

            out.append(
                lvlm.dialect.patches(each, run.trace, lambda _layer, _layers, patches: patches, attending).hidden_FND
            )
        return int((out[0] != out[1]).any(-1).sum())

    assert reached(()) == 16
    assert reached((1,)) == 120


def test_one_window_of_all_is_the_models_own_attention(device: str) -> None:
    for preset in ("tiny", "tiny-deepstack"):
        lvlm = LVLM.random(preset, device=device)
        request = random_request(lvlm.config, frames=2)
        own, wide = (lvlm.run(request, stack).logits_NC for stack in ([], [Qwen25VLWindowAttention(12, ())]))
        assert torch.equal(own, wide)
        near = lvlm.run(request, [Qwen25VLWindowAttention(2, ())]).logits_NC
        assert not torch.allclose(own, near, atol=1e-3)


def test_an_encoder_that_has_windows_is_refused(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    with pytest.raises(Refusal, match="its encoder attends inside windows already"):
        lvlm.run(random_request(lvlm.config), [Qwen25VLWindowAttention()])


def test_the_published_share_of_the_scores() -> None:
    """28 of 32 layers in windows of 64 patches: 1/8 + 56 / N of full attention."""
    side = 32
    full, near = side**4, (side // 8) ** 2 * 64**2
    assert math.isclose((4 * full + 28 * near) / (32 * full), 1 / 8 + 56 / side**2)


@pytest.mark.parametrize(
    ("wrong", "said"), [({"window": 1}, "at least 2, got 1"), ({"full_layers": (-1, 2)}, "full_layers are at least 0")]
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Qwen25VLWindowAttention(**wrong)  # type: ignore[arg-type]
