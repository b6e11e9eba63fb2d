"""VisionZip."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.tome import ToMe
from lvlm_atlas.reference.techniques.encoding.visionzip import VisionZip, compress, contextual_tokens, dominant_mask
from lvlm_atlas.roofline.workload import Image, Workload


def row(*weights: float, device: str = "cpu") -> Tensor:
    """The class token's attention (1, 1, N) of one head."""
    return torch.tensor(weights, device=device)[None, None]


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2) at these angles."""
    angle = torch.tensor(degrees, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def column(*values: float, device: str = "cpu") -> Tensor:
    """Tokens (1, N, 1) of one feature."""
    return torch.tensor(values, device=device)[None, :, None]


def test_the_class_token_counts_as_dominant(device: str) -> None:
    attention = row(0.0, 0.1, 0.5, 0.1, 0.3, device=device)
    assert dominant_mask(attention, 3).tolist() == [[True, False, True, False, True]]
    assert dominant_mask(attention, 1).tolist() == [[True, False, False, False, False]]


def test_attention_is_added_over_heads(device: str) -> None:
    heads = torch.cat([row(0.0, 0.6, 0.0, 0.4, device=device), row(0.0, 0.0, 0.5, 0.4, device=device)], dim=1)
    assert dominant_mask(heads, 2).tolist() == [[True, False, False, True]]


def test_what_the_class_token_pays_itself_is_no_score(device: str) -> None:
    assert dominant_mask(row(0.9, 0.06, 0.04, device=device), 2).tolist() == [[True, True, False]]


def test_a_contextual_token_is_its_target_plus_the_mean_of_its_members(device: str) -> None:
    # Targets are places 0 and 3; 1 and 2 are closer to the first, 4 to the second, 5 to the first.
    metric = directions(0, 10, 20, 90, 80, 30, device=device)
    hidden = column(1.0, 2, 4, 10, 20, 6, device=device)
    assert contextual_tokens(hidden, metric, 2).flatten().tolist() == [1 + (2 + 4 + 6) / 3, 10 + 20]


def test_a_target_without_members_stays_itself(device: str) -> None:
    metric = directions(0, 10, 90, 5, device=device)
    hidden = column(1.0, 2, 4, 6, device=device)
    assert contextual_tokens(hidden, metric, 2).flatten().tolist() == [1 + (2 + 6) / 2, 4]


def test_tokens_behind_the_last_target_are_members(device: str) -> None:
    # ⌊8 / 3⌋ = 2: targets at 0, 2 and 4. Place 6 would be a fourth, and is a member with 1, 3, 5 and 7.
    metric = directions(0, 0, 40, 40, 80, 80, 80, 80, device=device)
    hidden = column(1.0, 2, 3, 4, 5, 6, 7, 11, device=device)
    assert contextual_tokens(hidden, metric, 3).flatten().tolist() == [1 + 2, 3 + 4, 5 + (6 + 7 + 11) / 3]


def test_metrics_are_compared_by_angle(device: str) -> None:
    metric = directions(0, 40, 50, 80, device=device) * torch.tensor([1.0, 1, 9, 1], device=device)[:, None]
    hidden = column(1.0, 2, 4, 6, device=device)
    assert contextual_tokens(hidden, metric, 2).flatten().tolist() == [1, 4 + (2 + 6) / 2]


def test_targets_are_counted_among_the_tokens_left_over(device: str) -> None:
    # The class token and places 1 and 2 are dominant; left over are 3, 4, 5, 6, with targets 3 and 5.
    attention = row(0.0, 0.5, 0.4, 0.01, 0.02, 0.03, 0.04, device=device)
    metric = directions(0, 0, 0, 10, 20, 90, 80, device=device)
    hidden = column(100.0, 200, 300, 1, 2, 10, 20, device=device)
    out = compress(hidden, attention, metric, dominant=3, contextual=2)
    assert out.flatten().tolist() == [100, 200, 300, 1 + 2, 10 + 20]


def test_dominant_tokens_keep_the_order_of_the_image(device: str) -> None:
    attention = row(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, device=device)
    hidden = column(0.0, 1, 2, 3, 4, 5, device=device)
    out = compress(hidden, attention, directions(0, 1, 2, 3, 4, 5, device=device), dominant=4, contextual=1)
    assert out.flatten().tolist()[:4] == [0, 3, 4, 5]


@settings(max_examples=50)
@given(st.data())
def test_the_result_is_that_of_plain_loops(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(2, 24))
    dominant = data.draw(st.integers(1, tokens - 1))
    contextual = data.draw(st.integers(1, tokens - dominant))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    hidden, metric, attention = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((2, tokens, 3), (2, tokens, 4), (2, 2, tokens))
    )
    out = compress(hidden, attention, metric, dominant, contextual)
    assert out.shape == (2, dominant + contextual, 3)
    for frame in range(2):
        score = attention[frame].sum(0).tolist()
        ranked = sorted(range(1, tokens), key=lambda place: -score[place])
        kept = [0, *sorted(ranked[: dominant - 1])]
        assert torch.equal(out[frame, :dominant], hidden[frame, kept])
        rest = [place for place in range(tokens) if place not in kept]
        targets = rest[:: max(1, len(rest) // contextual)][:contextual]
        members: dict[int, list[int]] = {target: [] for target in targets}
        for place in rest:
            if place not in targets:
                cosine = torch.cosine_similarity(metric[frame, place], metric[frame, targets], dim=-1)
                members[targets[int(cosine.argmax())]].append(place)
        for offset, target in enumerate(targets):
            mean = hidden[frame, members[target]].mean(0) if members[target] else 0
            torch.testing.assert_close(out[frame, dominant + offset], hidden[frame, target] + mean)


def test_if_every_token_left_over_is_a_target_all_tokens_survive(device: str) -> None:
    hidden = torch.randn(2, 9, 3, device=device)
    attention = torch.rand(2, 2, 9, device=device)
    out = compress(hidden, attention, torch.randn(2, 9, 4, device=device), dominant=5, contextual=4)
    kept = dominant_mask(attention, 5)
    for frame in range(2):
        assert torch.equal(out[frame], torch.cat([hidden[frame, kept[frame]], hidden[frame, ~kept[frame]]]))


def test_more_tokens_than_there_are_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match=r"at most 9, the tokens, got 5 \+ 5"):
        compress(torch.ones(1, 9, 3), torch.ones(1, 2, 9), torch.ones(1, 9, 4), dominant=5, contextual=5)


def test_every_frame_keeps_its_tokens_and_the_class_token_reaches_the_llm(device: str) -> None:
    lvlm = LVLM.random(device=device)
    result = lvlm.run(random_request(lvlm.config), [VisionZip(dominant=20, contextual=5)])
    trace = result.trace
    assert trace.encoder_tokens == [65] * 4  # it saves nothing in the encoder
    assert trace.vision_tokens == 6 * 25
    assert trace.llm_tokens == trace.kv_entries == [6 * 25 + 16] * 4
    assert trace.llm_vision_tokens == [6 * 25] * 4
    assert torch.equal(trace.kept[0][0].cpu(), torch.arange(6 * 25 + 16))


def test_only_the_class_tokens_row_of_attention_is_formed(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [VisionZip(dominant=20, contextual=5)]).trace
    heads, frames, tokens = 4, 6, 65
    assert trace.probe_entries == heads * frames * tokens


def test_attention_and_keys_of_the_layer_decide(device: str) -> None:
    hidden, query, key = (torch.randn(2, *shape, device=device) for shape in ((9, 8), (4, 9, 5), (4, 9, 5)))
    patches = Patches(hidden, 1, Probe(query, key, causal=False), key)
    out = VisionZip(dominant=4, contextual=2).encoder_output(EncoderOutput(patches))
    weight = (query @ key.mT * 5**-0.5).softmax(-1)
    torch.testing.assert_close(out.hidden_FND, compress(hidden, weight[:, :, 0], key.mean(1), 4, 2))
    assert out.prefix == 0  # nothing is cut off on the way to the adapter


def test_it_takes_the_tokens_that_merging_left(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [ToMe(r=8), VisionZip(dominant=20, contextual=5)]).trace
    assert trace.encoder_tokens == [65, 57, 49, 41]
    assert trace.vision_tokens == 6 * 25
    assert trace.probe_entries == 4 * 6 * 49  # the last layer's attention ran before its merge


def test_each_tile_of_an_image_is_compressed_and_what_is_left_stands_in_the_order_of_the_canvas(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config, frames=1)
    wide = replace(request, frames_F3HW=(torch.randn(3, 28, 84, generator=torch.Generator().manual_seed(1)),))
    seen: list[Patches] = []

    class Look(VisionZip):
        def encoder_output(self, at: EncoderOutput) -> Patches:
            seen.append(super().encoder_output(at))
            return seen[0]

    run = lvlm.begin(wide, [Look(dominant=5, contextual=2)])
    sequence = lvlm.prepare(run)
    assert run.trace.vision_tokens == 4 * 7  # the whole and three tiles; no newline, no padding
    token_VND = lvlm.dialect.adapter(seen[0].hidden_FND)
    place_VN2 = seen[0].place_FN2
    tiles = [(view, token) for view in (1, 2, 3) for token in range(7)]
    placed = {(view, token): place_VN2[view, token].tolist() for view, token in tiles if place_VN2[view, token, 0] >= 0}
    order = sorted(placed, key=lambda at: (placed[at][0], 4 * (at[0] - 1) + placed[at][1]))
    order += [(view, 0) for view in (1, 2, 3)] + [(view, token) for view in (1, 2, 3) for token in (5, 6)]
    expected = torch.cat([token_VND[0], torch.stack([token_VND[at] for at in order])])
    torch.testing.assert_close(sequence.hidden_BND[0, sequence.vision_BN[0]], expected)


def test_the_planner_counts_each_tile_too() -> None:
    planner = Planner(Path(__file__).resolve().parents[4])
    image = Workload(images=(Image(width=1008, height=336),), text_tokens=64, output_tokens=32)
    plain, kept, neutral = (
        planner.estimate("llava-next-7b-vicuna", "h200", image, stack=stack).state.vision
        for stack in ((), "visionzip:dominant=54,contextual=10", "visionzip:dominant=600,contextual=10")
    )
    assert kept == 4 * 64
    assert neutral == plain


@pytest.mark.parametrize(("dominant", "contextual"), [(191, 30), (60, 5)])
def test_with_nothing_to_compress_nothing_changes(device: str, dominant: int, contextual: int) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, [VisionZip(dominant, contextual)])
    assert torch.equal(neutral.logits_NC, lvlm.run(request).logits_NC)
    assert neutral.trace.probe_entries == 0


def test_an_encoder_without_class_token_is_refused() -> None:
    with pytest.raises(Refusal, match="the encoder has 0"):
        VisionZip().encoder_output(EncoderOutput(Patches(torch.ones(1, 9, 3), prefix=0)))


def test_patches_without_attention_are_refused() -> None:
    with pytest.raises(Refusal, match="without"):
        VisionZip(2, 2).encoder_output(EncoderOutput(Patches(torch.ones(1, 9, 3), prefix=1)))


@pytest.mark.parametrize("wrong", [{"dominant": 0}, {"contextual": 0}])
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        VisionZip(**wrong)
