"""The attention primitives: rotary embedding, shared heads, rows on demand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.ops.attention import attend, causal_mask, rotate, share_heads


def test_rotation_makes_scores_depend_on_the_distance_alone(device: str) -> None:
    q, k = torch.randn(2, 1, 1, 1, 16, device=device).unbind()

    def score(at: int, to: int) -> float:
        place = lambda n: torch.tensor([[n]], device=device)  # noqa: E731
        return float((rotate(q, place(at), 10_000.0) * rotate(k, place(to), 10_000.0)).sum())

    assert abs(score(9, 4) - score(105, 100)) < 1e-4
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_rotation_at_position_zero_is_the_identity_and_keeps_lengths(device: str) -> None:
    x = torch.randn(1, 2, 3, 8, device=device)
    zero, far = torch.zeros(1, 3, dtype=torch.long, device=device), torch.tensor([[1, 50, 999]], device=device)
    assert torch.equal(rotate(x, zero, 10_000.0), x)
    torch.testing.assert_close(rotate(x, far, 10_000.0).norm(dim=-1), x.norm(dim=-1))


def test_rotation_by_hand_for_two_dimensions(device: str) -> None:
    x = torch.tensor([[[[1.0, 0.0]]]], device=device)
    turned = rotate(x, torch.tensor([[1]], device=device), 10_000.0)
    torch.testing.assert_close(turned.flatten().cpu(), torch.tensor([0.5403023, 0.8414710]))


def test_grouped_heads_attend_like_repeated_ones(device: str) -> None:
    q = torch.randn(1, 4, 5, 8, device=device)
    k, v = torch.randn(2, 1, 2, 5, 8, device=device).unbind()
    assert share_heads(k, 4)[:, 1].equal(k[:, 0])
    assert share_heads(k, 4)[:, 2].equal(k[:, 1])
    repeated = attend(q, share_heads(k, 4), share_heads(v, 4))
    torch.testing.assert_close(attend(q, k, v), repeated)


@given(seed=st.integers(0, 99), length=st.integers(1, 9), causal=st.booleans())
def test_a_probes_rows_times_the_values_are_what_the_layer_computed(device: str, seed: int, length: int, causal: bool):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(1, 4, length, 8, generator=generator).to(device)
    k, v = torch.randn(2, 1, 2, length, 8, generator=generator).to(device).unbind()
    out = attend(q, k, v, causal_mask(length, q.device) if causal else None)
    rows = Probe(q, k, causal=causal).rows()
    torch.testing.assert_close(rows @ share_heads(v, 4), out)
    torch.testing.assert_close(Probe(q, k, causal=causal).rows(slice(-1, None)), rows[:, :, -1:])


def test_a_probe_tells_what_its_reader_costs(device: str) -> None:
    told: list[int] = []
    q, k = torch.randn(1, 4, 6, 8, device=device), torch.randn(1, 2, 6, 8, device=device)
    probe = Probe(q, k, causal=True, on_read=told.append)
    probe.rows(slice(-1, None))
    probe.rows()
    assert told == [4 * 6, 4 * 21]


def test_a_probe_replays_pruning_on_its_columns_and_keeps_their_mass(device: str) -> None:
    q, k = torch.randn(1, 2, 6, 8, device=device), torch.randn(1, 2, 6, 8, device=device)
    probe = Probe(q, k, causal=False)
    kept = probe.then(lambda rows: rows[..., [0, 3]]).then(lambda rows: rows[..., [1]])
    torch.testing.assert_close(kept.rows(), probe.rows()[..., [3]])


def test_a_bias_of_log_two_makes_a_key_count_twice(device: str) -> None:
    q, k = torch.randn(1, 1, 3, 8, device=device), torch.randn(1, 1, 3, 8, device=device)
    twice = torch.cat([k, k[:, :, 2:]], dim=2)
    bias = torch.tensor([[1.0, 1.0, 2.0]], device=device).log()
    biased = Probe(q, k, causal=False, bias_BN=bias).rows()
    logits = (q @ twice.mT) * 8**-0.5
    expected = logits.softmax(-1)
    torch.testing.assert_close(biased[..., 2], expected[..., 2] + expected[..., 3])


def test_interleaved_axes_take_turns_until_one_has_no_frequencies_left(device: str) -> None:
    position = torch.tensor([[[3, 5, 7]]], device=device)
    x = torch.randn(1, 1, 1, 16, device=device)
    got = rotate(x, position, 100.0, (4, 3, 1), interleaved=True)
    alone = [rotate(x, position[..., axis], 100.0) for axis in range(3)]
    for frequency, axis in enumerate([0, 1, 2, 0, 1, 0, 0, 1]):
        for half in (0, 8):
            assert torch.equal(got[..., frequency + half], alone[axis][..., frequency + half])
