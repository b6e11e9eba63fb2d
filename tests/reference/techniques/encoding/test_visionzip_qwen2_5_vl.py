"""VisionZip for Qwen2.5-VL."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens, blocks_of
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, EncoderOutput
from lvlm_atlas.reference.techniques.encoding.evs import EVS
from lvlm_atlas.reference.techniques.encoding.visionzip_qwen2_5_vl import (
    VisionZipQwen25VL,
    Zipping,
    budget,
    compress,
    received,
)


def column(*values: float, device: str = "cpu") -> Tensor:
    """Tokens (1, N, 1) of one feature."""
    return torch.tensor(values, device=device)[None, :, None]


def angles(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, N, 2)."""
    angle = torch.tensor(degrees, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def test_a_token_is_scored_by_what_its_patches_receive_over_all_rows_and_heads(device: str) -> None:
    # Two tokens of two patches; every patch pays the last one most, in one head of two.
    even = torch.full((4, 4), 0.25, device=device)
    skewed = torch.tensor([0.1, 0.1, 0.1, 0.7], device=device).expand(4, 4)
    scores = received(torch.stack([even, skewed])[None], 2)
    first, last = 4 * (0.25 + 0.1) / 2, 4 * ((0.25 + 0.1) / 2 + (0.25 + 0.7) / 2) / 2
    torch.testing.assert_close(scores.cpu(), torch.tensor([[first, last]]))


@pytest.mark.parametrize(
    ("tokens", "dominant", "contextual", "want"),
    [
        (99, 0.65, 0.05, (64, 4)),
        (12, 0.65, 0.05, (7, 1)),  # 0.6 of a token is one
        (10, 1.0, 0.5, (10, 0)),
        (10, 0.8, 0.9, (8, 2)),  # no more than are left over
        (1, 0.65, 0.05, (0, 1)),
    ],
)
def test_shares_are_rounded_down_and_one_token_is_contextual_at_least(
    tokens: int, dominant: float, contextual: float, want: tuple[int, int]
) -> None:
    assert budget(tokens, dominant, contextual) == want


def test_contextual_tokens_stand_at_the_places_of_their_targets(device: str) -> None:
    # Left over are places 0, 1, 3, 4, 5, 6: ⌊6 / 2⌋ = 3, so that the targets are places 0 and 4.
    token = column(1.0, 2, 30, 4, 8, 16, 32, 50, device=device)
    score = torch.tensor([[0.1, 0.2, 0.9, 0.1, 0.2, 0.3, 0.4, 0.8]], device=device)
    metric = angles(0, 10, 0, 80, 90, 5, 70, 0, device=device)
    changed, place = compress(token, score, metric, dominant=2, contextual=2)
    assert place.tolist() == [[0, 2, 4, 7]]
    assert changed[0, place[0], 0].tolist() == [1 + (2 + 16) / 2, 30, 8 + (4 + 32) / 2, 50]


def test_what_stays_is_that_of_plain_loops(device: str) -> None:
    generator = torch.Generator().manual_seed(2)
    token, metric, score = (
        torch.randn(3, *shape, generator=generator, dtype=torch.float64).to(device)
        for shape in ((20, 6), (20, 4), (20,))
    )
    changed, place = compress(token, score, metric, dominant=9, contextual=3)
    for frame in range(3):
        ranked = sorted(range(20), key=lambda at: -float(score[frame, at]))
        rest = sorted(ranked[9:])
        targets = rest[::3][:3]
        members: dict[int, list[int]] = {target: [] for target in targets}
        for at in rest:
            if at not in targets:
                cosine = torch.cosine_similarity(metric[frame, at], metric[frame, targets], dim=-1)
                members[targets[int(cosine.argmax())]].append(at)
        assert place[frame].tolist() == sorted([*ranked[:9], *targets])
        want = token[frame].clone()
        for target, gone in members.items():
            want[target] += token[frame, gone].mean(0) if gone else 0
        torch.testing.assert_close(changed[frame, place[frame]], want[place[frame]])


def test_tokens_behind_the_merger_are_chosen_by_the_patches_that_they_were_joined_from(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    request = random_request(lvlm.config, frames=1)
    seen: dict[str, Patches | VisionTokens] = {}

    class Look(Zipping):
        def encoder_output(self, at: EncoderOutput) -> Patches:
            seen["patches"] = at.patches
            return super().encoder_output(at)

        def adapter_output(self, at: AdapterOutput) -> VisionTokens:
            seen["before"] = at.tokens
            seen["after"] = super().adapter_output(at)
            return seen["after"]

    class Looking(VisionZipQwen25VL):
        def begin(self, run: object) -> Look:
            return Look(self)

    lvlm.prepare(lvlm.begin(request, [Looking(dominant=0.3, contextual=0.1)]))
    patches, before, after = seen["patches"], seen["before"], seen["after"]
    assert isinstance(patches, Patches)
    assert isinstance(before, VisionTokens)
    assert isinstance(after, VisionTokens)
    attention = patches.attention.rows()[0]
    squares = patches.place_FN2[0] // 2  # row and column of the token that each patch goes into
    columns = before.grid[1]
    token_P = (squares[:, 0] * columns + squares[:, 1]).tolist()
    count = before.blocks[0].length
    score, metric = torch.zeros(count, device=device), torch.zeros(count, patches.key_FHNd.shape[-1], device=device)
    for patch, token in enumerate(token_P):
        score[token] += attention[:, :, patch].mean(0).sum() / 4
        metric[token] += patches.key_FHNd[0, :, patch].mean(0) / 4
    dominant, contextual = budget(count, 0.3, 0.1)
    changed, place = compress(before.blocks[0].token_ND[None], score[None], metric[None], dominant, contextual)
    torch.testing.assert_close(after.blocks[0].token_ND, changed[0, place[0]])
    assert torch.equal(after.blocks[0].place_N2, before.blocks[0].place_N2[place[0].cpu()])


def test_each_image_keeps_its_own_share(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    still = lvlm.config.placeholders[1]
    images = (torch.randn(3, 48, 40), torch.randn(3, 32, 32), torch.randn(3, 32, 32))
    prompt = torch.tensor([still, 5, 6, still, still, 7])
    request = replace(random_request(lvlm.config), frames_F3HW=images, prompt_N=prompt, image_token_id=still)
    plain = lvlm.begin(request)
    lvlm.prepare(plain)
    run = lvlm.begin(request, [VisionZipQwen25VL(0.45, 0.05)])
    lvlm.prepare(run)
    assert plain.prompt is not None
    assert run.prompt is not None
    assert run.prompt.span_lengths == tuple(sum(budget(n, 0.45, 0.05)) for n in plain.prompt.span_lengths)
    assert len({*run.prompt.span_lengths}) == 2


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_videos_and_images_of_every_dialect_are_compressed_frame_by_frame(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config)
    plain = lvlm.run(request).trace.vision_tokens
    blocks = len(request.frames_F3HW) // lvlm.config.frames_a_patch
    trace = lvlm.run(request, VisionZipQwen25VL()).trace
    assert trace.vision_tokens == blocks * sum(budget(plain // blocks, 0.65, 0.05))
    assert trace.llm_tokens[0] == trace.vision_tokens + trace.text_tokens


def test_with_all_dominant_nothing_changes(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, VisionZipQwen25VL(1.0))
    assert torch.equal(neutral.logits_NC, lvlm.run(request).logits_NC)
    assert neutral.trace.probe_entries == 0


def test_the_row_and_column_of_a_class_token_take_no_part(device: str) -> None:
    hidden, query, key = (torch.randn(1, *shape, device=device) for shape in ((7, 8), (2, 7, 5), (2, 7, 5)))
    zipping = Zipping(VisionZipQwen25VL(), Patches(hidden, 1, Probe(query, key, causal=False), key))
    score, metric = zipping.rated(1, 6)
    weight = (query @ key.mT * 5**-0.5).softmax(-1)
    torch.testing.assert_close(score, weight[:, :, 1:, 1:].mean(1).sum(1))
    torch.testing.assert_close(metric, key[:, :, 1:].mean(1))


def test_tiled_images_are_left_as_they_are() -> None:
    tiles = LVLM.random("tiny-tiles")
    request = random_request(tiles.config, frames=1)
    result = tiles.run(request, VisionZipQwen25VL())
    assert torch.equal(result.logits_NC, tiles.run(request).logits_NC)
    assert result.trace.probe_entries == 0


def test_patches_without_attention_and_tokens_of_other_patches_are_refused() -> None:
    hidden, heads = torch.ones(1, 9, 3), torch.ones(1, 1, 9, 3)
    other = Zipping(VisionZipQwen25VL(), Patches(hidden, 0, Probe(heads, heads, causal=False), heads))
    with pytest.raises(Refusal, match="1 frames of 4 tokens for 1 of 9 patches"):
        other.rated(1, 4)
    zipping = Zipping(VisionZipQwen25VL(), Patches(torch.ones(1, 9, 3), prefix=0))
    with pytest.raises(Refusal, match="earlier technique left out"):
        zipping.adapter_output(AdapterOutput(VisionTokens(blocks_of(torch.ones(1, 9, 3)))))


def test_frames_of_different_lengths_are_refused() -> None:
    lvlm = LVLM.random("tiny-window")
    with pytest.raises(Exception, match="EVS"):
        lvlm.run(random_request(lvlm.config), [EVS(0.5), VisionZipQwen25VL()])
    uneven = VisionTokens((*blocks_of(torch.ones(1, 9, 3)), *blocks_of(torch.ones(1, 4, 3))))
    with pytest.raises(Refusal, match="equally many tokens"):
        Zipping(VisionZipQwen25VL()).adapter_output(AdapterOutput(uneven))


@pytest.mark.parametrize("wrong", [{"dominant": 1.1}, {"contextual": -0.1}])
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        VisionZipQwen25VL(**wrong)
