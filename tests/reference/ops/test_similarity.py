"""Cosines: by the library's own, and where a vector is zero."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lvlm_atlas.reference.ops.similarity import cosine_distance, unit


def test_distances_equal_the_librarys_pair_by_pair() -> None:
    x = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    by_pairs = 1 - functional.cosine_similarity(x[:, :, None], x[:, None], dim=-1)
    torch.testing.assert_close(cosine_distance(x), by_pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_zero_vector_has_distance_one_to_all_and_no_nan(dtype: torch.dtype) -> None:
    x = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]], dtype=dtype)
    assert unit(x)[0, 0].tolist() == [0.0, 0.0]
    distance = cosine_distance(x)[0]
    assert distance[0].tolist() == [1.0, 1.0]
    assert distance[1, 0].item() == 1.0
