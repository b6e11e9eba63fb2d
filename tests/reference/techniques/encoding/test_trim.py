"""TRIM."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.modules.kept import give
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher, matcher_of
from lvlm_atlas.reference.ops.outliers import outlier_ratio
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.tome import ToMe
from lvlm_atlas.reference.techniques.encoding.trim import Trim, matcher_config, reduce, relevance
from lvlm_atlas.reference.techniques.encoding.visionzip import VisionZip


def column(*values: float, device: str = "cpu") -> Tensor:
    """Tokens (1, N, 1) of one feature."""
    return torch.tensor(values, device=device)[None, :, None]


def run_of(lvlm: LVLM, text_tokens: int = 16) -> Run:
    return lvlm.begin(random_request(lvlm.config, text_tokens=text_tokens))


def test_patches_least_like_the_text_score_highest(device: str) -> None:
    score = relevance(column(3.0, -1.0, 0.5, device=device), torch.tensor([2.0], device=device))
    assert score.argsort(descending=True).tolist() == [[1, 2, 0]]
    torch.testing.assert_close(score, torch.tensor([[-6.0, 2.0, -1.0]], device=device).softmax(-1))


def test_similarity_is_a_dot_product_and_lengths_count(device: str) -> None:
    # By angle the second patch is less like the text, by dot product the first is.
    patches = torch.tensor([[[-4.0, 4.0], [-1.0, 0.0]]], device=device)
    assert relevance(patches, torch.tensor([1.0, 0.0], device=device)).argmax().item() == 0


def test_the_softmax_is_over_the_patches_of_a_frame(device: str) -> None:
    score = relevance(torch.randn(3, 7, 4, device=device), torch.randn(4, device=device))
    torch.testing.assert_close(score.sum(-1), torch.ones(3, device=device))


def test_outliers_are_counted_after_the_softmax(device: str) -> None:
    # Dot products at even steps have no outlier, their exponentials do.
    patches, text = torch.arange(20.0, device=device)[None, :, None], torch.ones(1, device=device)
    assert outlier_ratio(patches) == 0
    assert outlier_ratio(relevance(patches, text)) == 4 / 20


def test_a_wider_fence_has_fewer_outliers(device: str) -> None:
    value = torch.tensor([0.0, 1, 2, 3, 4, 8, 12], device=device)
    low, high = np.percentile(value.tolist(), [25, 75])
    assert (low, high) == (1.5, 6)
    assert outlier_ratio(value, 0.0) == 2 / 7
    assert outlier_ratio(value, 1.3) == 1 / 7
    assert outlier_ratio(value, 4 / 3) == 0  # the fence itself is no outlier


def test_a_video_has_one_share_for_all_its_frames(device: str) -> None:
    score = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)) ** 9
    low, high = np.percentile(score.double().numpy(), [25, 75])
    expected = (score.double() > high + 1.5 * (high - low)).double().mean()
    assert outlier_ratio(score.to(device)) == float(expected)
    assert len({outlier_ratio(frame) for frame in score}) > 1


def test_kept_patches_stand_in_the_order_of_the_image_and_the_mean_of_the_others_is_last(device: str) -> None:
    score = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]], device=device)
    assert reduce(column(1, 10, 2, 20, 6, device=device), score, 2).flatten().tolist() == [10, 20, 3]


def test_the_mean_is_plain_and_of_the_rest_alone(device: str) -> None:
    hidden = torch.randn(2, 9, 5, device=device)
    score = torch.rand(2, 9, device=device)
    out = reduce(hidden, score, 4)
    for frame in range(2):
        rest = score[frame].argsort(descending=True)[4:]
        torch.testing.assert_close(out[frame, -1], hidden[frame, rest].mean(0))


def test_without_any_kept_the_mean_of_all_is_left(device: str) -> None:
    hidden = torch.randn(2, 9, 5, device=device)
    torch.testing.assert_close(reduce(hidden, torch.rand(2, 9, device=device), 0), hidden.mean(1, keepdim=True))


def test_of_equal_scores_the_earlier_patch_is_kept(device: str) -> None:
    assert reduce(column(1, 2, 3, 5, device=device), torch.ones(1, 4, device=device), 2).flatten().tolist() == [1, 2, 4]


@settings(max_examples=40)
@given(st.integers(2, 30), st.floats(0.1, 30), st.integers(0, 10**6))
def test_the_scale_of_the_text_does_not_change_which_patches_are_kept(patches: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    patch, text = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((2, patches, 3), (3,)))
    keep = patches // 2
    hidden = torch.randn(2, patches, 4, generator=generator, dtype=torch.float64)
    one, other = (reduce(hidden, relevance(patch, factor * text), keep) for factor in (1.0, scale))
    torch.testing.assert_close(one, other)


def test_one_patch_at_least_must_be_averaged() -> None:
    with pytest.raises(ValueError, match=r"keep must be in 0\.\.2"):
        reduce(torch.ones(1, 3, 2), torch.ones(1, 3), 3)


def test_the_tokens_are_encoder_features_chosen_in_the_shared_space(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = run_of(lvlm)
    hidden = torch.randn(2, 65, 32, generator=torch.Generator().manual_seed(1)).to(device)
    out = Trim(adaptive=False, ratio=0.25).begin(run).encoder_output(EncoderOutput(Patches(hidden, prefix=1)))
    matcher = matcher_of(run, matcher_config(lvlm.config.vision))
    normed = torch.nn.functional.layer_norm(hidden[:, 1:], (32,))  # random norms are 1 and 0
    score = relevance(normed @ matcher.visual_projection.weight.T, matcher.embed_text(run.request.text_N))
    assert out.prefix == 0  # the class token is gone, and nothing else is cut off on the way to the adapter
    torch.testing.assert_close(out.hidden_FND, reduce(hidden[:, 1:], score, 16))


def test_another_question_keeps_other_patches(device: str) -> None:
    lvlm = LVLM.random(device=device)
    hidden = torch.randn(1, 65, 32, generator=torch.Generator().manual_seed(1)).to(device)
    patches = EncoderOutput(Patches(hidden, prefix=1))
    one, other = (
        Trim(adaptive=False).begin(run_of(lvlm, tokens)).encoder_output(patches).hidden_FND for tokens in (7, 12)
    )
    assert not torch.equal(one, other)


def test_text_beyond_the_towers_positions_is_not_read(device: str) -> None:
    matcher = ImageTextMatcher.random(device=device)
    text = torch.arange(100, device=device)
    assert torch.equal(matcher.embed_text(text), matcher.embed_text(text[:76]))
    assert not torch.equal(matcher.embed_text(text), matcher.embed_text(text[:75]))


def test_given_weights_decide(device: str) -> None:
    lvlm = LVLM.random(device=device)
    config = matcher_config(lvlm.config.vision)
    request = random_request(lvlm.config)
    drawn = lvlm.run(request, [Trim(adaptive=False)]).logits_NC
    give(lvlm, config, ImageTextMatcher.random(config, seed=5, device=device))
    assert not torch.equal(lvlm.run(request, [Trim(adaptive=False)]).logits_NC, drawn)


@pytest.mark.parametrize("ratio", [0.01, 0.21, 0.5, 0.99])
def test_each_frame_keeps_a_share_and_one_token_more(device: str, ratio: float) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [Trim(adaptive=False, ratio=ratio)]).trace
    assert trace.encoder_tokens == [65] * 4  # it saves nothing in the encoder
    assert trace.vision_tokens == 6 * (int(64 * ratio) + 1)
    assert trace.probe_entries == 0  # no attention is read


def test_as_many_patches_stay_as_are_outliers(device: str) -> None:
    lvlm = LVLM.random(device=device)
    seen: list[Patches] = []

    class Look(Trim):
        def begin(self, run: Run):  # type: ignore[no-untyped-def]
            inner = super().begin(run)

            class Spy:
                def encoder_output(self, at: EncoderOutput) -> Patches:
                    seen.append(at.patches)
                    return inner.encoder_output(at)

            return Spy()

    run = lvlm.begin(random_request(lvlm.config), [Look()])
    lvlm.prepare(run)
    matcher = matcher_of(run, matcher_config(lvlm.config.vision))
    patch_FNP = matcher.project(seen[0].hidden_FND[:, 1:])
    outliers = outlier_ratio(relevance(patch_FNP, matcher.embed_text(run.request.text_N)))
    assert outliers > 0
    assert run.trace.vision_tokens == 6 * (int(64 * outliers) + 1)


def test_the_mean_stands_behind_the_patches_of_its_frame_and_on_no_grid(device: str) -> None:
    lvlm = LVLM.random(device=device)
    hidden = torch.randn(2, 65, 32, device=device)
    side = torch.arange(8, device=device)
    place = torch.nn.functional.pad(torch.cartesian_prod(side, side), (0, 0, 1, 0), value=-1).expand(2, -1, -1)
    out = (
        Trim(adaptive=False)
        .begin(run_of(lvlm))
        .encoder_output(EncoderOutput(Patches(hidden, prefix=1, place_FN2=place)))
    )
    assert out.place_FN2 is not None
    assert out.place_FN2[:, -1].tolist() == [[-1, -1]] * 2
    number = out.place_FN2[:, :-1, 0] * 8 + out.place_FN2[:, :-1, 1]
    assert bool((number.diff(dim=1) > 0).all())
    for frame in range(2):
        assert torch.equal(out.hidden_FND[frame, :-1], hidden[frame, 1 + number[frame]])


def test_keeping_everything_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, [Trim(adaptive=False, ratio=1.0)])
    assert torch.equal(neutral.logits_NC, lvlm.run(request).logits_NC)


def test_it_takes_what_merging_or_summing_up_left(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request, half = random_request(lvlm.config), Trim(adaptive=False, ratio=0.5)
    assert lvlm.run(request, [ToMe(r=8), half]).trace.vision_tokens == 6 * (40 // 2 + 1)
    assert lvlm.run(request, [VisionZip(20, 5), half]).trace.vision_tokens == 6 * (25 // 2 + 1)


def test_frames_that_come_before_the_question_are_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    stream = lvlm.stream([Trim()])
    with pytest.raises(Refusal, match="chooses by the question"):
        stream.see(random_request(lvlm.config).frames_F3HW[:1])


@pytest.mark.parametrize(("wrong", "says"), [({"ratio": 0.0}, "ratio must lie"), ({"iqr_factor": -1.0}, "iqr_factor")])
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Trim(**wrong)  # type: ignore[arg-type]
