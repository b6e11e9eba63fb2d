"""VideoChat-Flash, clip level."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.techniques.encoding.videochat_flash import VideoChatFlash, merged, rounds


def test_rounds_halve_at_most() -> None:
    assert rounds(1024, 64) == [512, 256, 128, 64]
    assert rounds(64, 16) == [32, 16]
    assert rounds(50, 30) == [20]
    assert rounds(16, 16) == []


def shares(x: torch.Tensor, target: int) -> torch.Tensor:
    """What part each patch has in each token: a channel that is nothing beside the others tells it apart."""
    patches = x.shape[1]
    marks = torch.eye(patches, dtype=x.dtype).expand(len(x), -1, -1) * 1e-9
    return merged(torch.cat([x, marks], dim=2), target, heads=1)[..., x.shape[2] :] / 1e-9


@given(st.integers(2, 24), st.integers(1, 24))
def test_a_merged_token_is_the_mean_of_all_its_patches(patches: int, target: int) -> None:
    target = min(target, patches)
    x = torch.randn(2, patches, 6, dtype=torch.double)
    out = merged(x, target, heads=3)
    assert out.shape == (2, target, 6)
    share = shares(x, target)
    assert torch.allclose(share.sum(-1), torch.ones(2, target, dtype=torch.double))
    member = share > 1e-6
    assert member.sum(1).eq(1).all()
    assert torch.allclose(share * member.sum(-1, keepdim=True), member.double())


def test_alike_patches_are_merged_first() -> None:
    x = torch.eye(4)[[0, 0, 1, 2, 1, 3]][None]
    out = merged(x, 5, heads=1)
    assert out.shape == (1, 5, 4)
    assert sorted(out[0].argmax(-1).tolist()) == [0, 1, 1, 2, 3]


def test_frames_of_a_clip_share_their_tokens(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=6, max_new_tokens=1)
    trace = lvlm.run(request, VideoChatFlash(8, clip_frames=3)).trace
    assert trace.llm_vision_tokens[0] == 6 * 8
    clip = torch.randn(1, 2 * 16, 8, dtype=torch.double)
    part = shares(clip, 8)[0].unflatten(1, (2, 16)).sum(2)
    assert bool((part > 0).all(1).any())  # some token stands for patches of both frames


def test_frames_left_over_are_refused_and_small_ones_stay_whole(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=6)
    with pytest.raises(Refusal, match="clip_frames 4 joins frames of a video, and it does not divide 6 frames; give 1"):
        lvlm.run(request, VideoChatFlash())
    assert lvlm.run(request, VideoChatFlash(65, clip_frames=1)).trace.llm_vision_tokens[0] == 6 * 64
