"""A random rotation: orthogonal, drawn evenly, the same for a seed."""

from __future__ import annotations

import pytest
import torch

from lvlm_atlas.reference.ops.rotation import random_rotation


@pytest.mark.parametrize("width", [1, 3, 16])
def test_a_random_rotation_is_orthogonal_and_its_seed_means_one(width: int, device: str) -> None:
    like = torch.zeros(1, device=device)
    matrix = random_rotation(width, 3, like)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(width, device=device), atol=1e-5, rtol=0)
    assert torch.equal(matrix, random_rotation(width, 3, like))
    assert width == 1 or not torch.equal(matrix, random_rotation(width, 4, like))


def test_rotations_are_drawn_evenly() -> None:
    drawn = torch.stack([random_rotation(2, seed, torch.zeros(1)) for seed in range(400)])
    angle = torch.atan2(drawn[:, 1, 0], drawn[:, 0, 0])
    assert abs(float(angle.cos().mean())) < 0.12
    assert abs(float(angle.sin().mean())) < 0.12
    assert 0.4 < float((torch.linalg.det(drawn) > 0).float().mean()) < 0.6
