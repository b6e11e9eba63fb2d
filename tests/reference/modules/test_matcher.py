"""The image-text matcher that frame selection scores with."""

import dataclasses

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.config import VisionConfig
from lvlm_atlas.reference.modules.kept import give
from lvlm_atlas.reference.modules.matcher import SMALL, ImageTextMatcher, _causal, matcher_of

WORDS = torch.tensor([3, 14, 15, 92])


@pytest.fixture
def matcher(device: str) -> ImageTextMatcher:
    return ImageTextMatcher.random(device=device)


def frames(number: int, side: int = 56) -> Tensor:
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(7))


def test_a_frame_and_a_text_are_scored_by_the_cosine_of_their_projections(matcher: ImageTextMatcher) -> None:
    image_FP, text_P = matcher.embed_frames(frames(3)), matcher.embed_text(WORDS)
    assert image_FP.shape == (3, SMALL.projection_dim)
    assert text_P.shape == (SMALL.projection_dim,)
    expected = (image_FP @ text_P) / (image_FP.norm(dim=1) * text_P.norm())
    torch.testing.assert_close(matcher.score(frames(3), WORDS), expected)


def test_a_frame_is_scored_alike_whatever_frames_are_beside_it(matcher: ImageTextMatcher) -> None:
    together = matcher.score(frames(4), WORDS)
    alone = torch.cat([matcher.score(frame[None], WORDS) for frame in frames(4)])
    torch.testing.assert_close(together, alone)
    assert together.unique().numel() == 4


def test_every_word_and_their_order_count(matcher: ImageTextMatcher) -> None:
    texts = [WORDS, WORDS.flip(0), WORDS[:-1], torch.tensor([4, 14, 15, 92]), torch.empty(0, dtype=torch.long)]
    scores = torch.stack([matcher.score(frames(1), text) for text in texts])
    assert scores.unique().numel() == len(texts)


def test_the_text_tower_is_causal(matcher: ImageTextMatcher, device: str) -> None:
    layer = matcher.text_model.encoder.layers[0]
    x_BND = torch.randn(1, 5, SMALL.vision.hidden_size, device=device)
    torch.testing.assert_close(_causal(layer, x_BND)[:, :3], _causal(layer, x_BND[:, :3]))


def test_the_image_tower_is_not_causal(matcher: ImageTextMatcher) -> None:
    changed = frames(1)
    changed[..., -1, -1] += 5  # the last patch; the class token stands before it
    assert not torch.equal(matcher.score(changed, WORDS), matcher.score(frames(1), WORDS))


def test_what_exceeds_the_longest_text_is_cut_off(matcher: ImageTextMatcher) -> None:
    long = torch.arange(200)
    room = SMALL.max_position_embeddings - 1  # one position is the end token's
    assert torch.equal(matcher.score(frames(1), long), matcher.score(frames(1), long[:room]))
    assert not torch.equal(matcher.score(frames(1), long), matcher.score(frames(1), long[: room - 1]))


def test_token_ids_of_any_size_have_a_row_and_none_is_the_end_token(matcher: ImageTextMatcher) -> None:
    beyond = torch.tensor([SMALL.vocab_size, 150_000])
    wrapped = beyond % SMALL.vocab_size
    assert torch.equal(matcher.score(frames(1), beyond), matcher.score(frames(1), wrapped))


def test_frames_of_any_size_are_scored(matcher: ImageTextMatcher) -> None:
    assert matcher.score(frames(2, side=33), WORDS).isfinite().all()


def test_a_seed_fixes_the_weights(matcher: ImageTextMatcher, device: str) -> None:
    again, other = (ImageTextMatcher.random(seed=seed, device=device) for seed in (0, 1))
    assert torch.equal(matcher.score(frames(3), WORDS), again.score(frames(3), WORDS))
    assert not torch.equal(matcher.score(frames(3), WORDS), other.score(frames(3), WORDS))


def test_the_towers_take_the_shapes_of_their_configuration(device: str) -> None:
    vision = VisionConfig(
        image_size=28,
        patch_size=14,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    config = type(SMALL)(vision=vision, vocab_size=10, max_position_embeddings=6, projection_dim=4)
    matcher = ImageTextMatcher.random(config, device=device)
    assert matcher.text_model.embeddings.token_embedding.weight.shape == (11, 8)
    assert matcher.score(frames(2), WORDS).shape == (2,)


def test_the_text_tower_may_have_layers_of_its_own(device: str) -> None:
    text = dataclasses.replace(SMALL.vision, hidden_size=16, num_hidden_layers=1)
    matcher = ImageTextMatcher.random(dataclasses.replace(SMALL, text=text), device=device)
    assert matcher.text_model.final_layer_norm.weight.shape == (16,)
    assert matcher.embed_text(WORDS).shape == matcher.embed_frames(frames(1))[0].shape == (SMALL.projection_dim,)


def test_patches_are_embedded_one_by_one_without_the_class_token(matcher: ImageTextMatcher) -> None:
    patch_FNP = matcher.embed_patches(frames(2))
    assert patch_FNP.shape == (2, SMALL.vision.patches, SMALL.projection_dim)
    changed = frames(2)
    changed[1] += 1
    assert torch.equal(matcher.embed_patches(changed)[0], patch_FNP[0])
    assert not torch.isclose(matcher.embed_frames(frames(2))[:, None], patch_FNP).all(-1).any()


def test_features_of_a_tower_alike_are_projected_as_its_own(matcher: ImageTextMatcher) -> None:
    hidden_FND = matcher._features(frames(2))
    assert torch.equal(matcher.project(hidden_FND)[:, 1:], matcher.embed_patches(frames(2)))
    assert torch.equal(matcher.project(hidden_FND[:, 0]), matcher.embed_frames(frames(2)))


def test_a_model_keeps_one_matcher_for_all_techniques(device: str) -> None:
    lvlm = LVLM.random(dtype=torch.bfloat16, device=device)
    run = lvlm.begin(random_request(lvlm.config))
    assert matcher_of(run) is matcher_of(lvlm.begin(random_request(lvlm.config)))
    assert matcher_of(run).text_projection.weight.dtype == torch.float32
    give(lvlm, SMALL, trained := ImageTextMatcher.random(seed=3, device=device))
    assert matcher_of(run) is trained
