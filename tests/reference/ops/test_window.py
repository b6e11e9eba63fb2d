"""Attention in a window: against full attention, and against a loop over queries."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.reference.ops.attention import Rotary, attend, share_heads
from lvlm_atlas.reference.ops.window import Window, window_attention

ROTARY = Rotary(10_000.0)


def qkv(length: int, keys: int, seed: int = 0, heads: int = 4, groups: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(1, heads, length, 8, generator=generator)
    key, value = torch.randn(2, 1, groups, keys, 8, generator=generator)
    return query, key, value


def windowed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: Window) -> tuple[torch.Tensor, int]:
    """Queries and keys are not rotated yet; the queries are the last tokens."""
    position = torch.arange(key.shape[2])[None]
    last = position[:, key.shape[2] - query.shape[2] :]
    return window_attention(ROTARY(query, last), ROTARY(key, position), value, last, position, window, ROTARY)


def test_a_window_over_everything_is_full_attention(device: str) -> None:
    query, key, value = (x.to(device) for x in qkv(600, 600))
    position = torch.arange(600, device=device)[None]
    query, key = ROTARY(query, position), ROTARY(key, position)
    out, scores = window_attention(query, key, value, position, position, Window(600, 3, 599), ROTARY)
    torch.testing.assert_close(out, attend(query, key, value, causal=True), atol=1e-4, rtol=1e-4)
    assert scores == 4 * 600 * 601 // 2


@given(
    length=st.integers(1, 40),
    cached=st.integers(0, 20),
    size=st.integers(1, 30),
    first=st.integers(0, 6),
    fixed=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_it_is_what_a_loop_over_queries_gives(
    length: int, cached: int, size: int, first: int, fixed: bool, seed: int
) -> None:
    query, key, value = qkv(length, cached + length, seed)
    distance = size - 1 if fixed else None
    out, scores = windowed(query, key, value, Window(size, first, distance))
    key, value, seen = share_heads(key, 4), share_heads(value, 4), 0
    for row in range(length):
        at = cached + row
        logits, used = [], []
        for place in range(at + 1):
            near = at - place < size
            if not near and place >= first:
                continue
            away = at - place if near or distance is None else distance
            turned = ROTARY(query[:, :, row : row + 1], torch.tensor([[away]]))
            logits.append((turned * key[:, :, place : place + 1]).sum(-1) / 8**0.5)
            used.append(value[:, :, place])
        weight = torch.cat(logits, dim=-1).softmax(-1)
        expected = (weight[..., None] * torch.stack(used, dim=2)).sum(2)
        torch.testing.assert_close(out[:, :, row], expected, atol=1e-5, rtol=1e-4)
        seen += len(used) * 4
    assert scores == seen
