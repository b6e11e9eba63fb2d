"""Rotations: orthogonal, and spreading what one channel carries."""

from __future__ import annotations

import pytest
import torch

from lvlm_atlas.reference.ops.rotation import hadamard, random_rotation


@pytest.mark.parametrize("width", [1, 2, 4, 16, 128])
def test_a_hadamard_matrix_is_symmetric_and_undoes_itself(width: int, device: str) -> None:
    matrix = hadamard(width, torch.zeros(1, device=device))
    assert torch.equal(matrix, matrix.mT)
    torch.testing.assert_close(matrix @ matrix, torch.eye(width, device=device), atol=1e-5, rtol=0)
    assert matrix.abs().unique().tolist() == pytest.approx([width**-0.5])


def test_an_outlier_channel_comes_out_as_equal_parts(device: str) -> None:
    x = torch.zeros(64, device=device)
    x[5] = 8.0
    assert (x @ hadamard(64, x)).abs().unique().tolist() == [1.0]


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="a power of two as its width, got 12"):
        hadamard(12, torch.zeros(1))


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
