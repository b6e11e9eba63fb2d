"""Verification of drafted tokens by their distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import one_hot

from lvlm_atlas.reference.ops.verification import accept, verify, verify_tree


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def test_a_token_that_the_draft_underrates_is_always_accepted() -> None:
    accepted, _ = verify(tensor([0.9, 0.1], [0.5, 0.5]), tensor([0.4, 0.6]), torch.tensor([0]), torch.tensor([1.0]))
    assert accepted == 1


@given(seed=st.integers(0, 10**6), uniform=st.lists(st.floats(1e-9, 1), min_size=3, max_size=3))
@settings(max_examples=20)
def test_a_draft_that_equals_the_target_is_always_accepted(seed: int, uniform: list[float]) -> None:
    p = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    accepted, after = verify(p, p[:3], torch.tensor([0, 5, 2]), torch.tensor(uniform, dtype=torch.float64))
    assert accepted == 3
    assert torch.equal(after, p[3].double())


def threshold(accepts: Callable[[float], bool]) -> float:
    """The largest number of the verifier with which a child is still accepted, by bisection."""
    low, high = 0.0, 1.0
    if accepts(high):
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if accepts(middle) else (low, middle)
    return low


Draws = Iterator[tuple[float, tuple[int, int], Tensor]]


def independent(q: Tensor) -> Draws:
    """Two children drawn independently: how likely, which, and what each was drawn from."""
    for one, two in product(range(len(q)), repeat=2):
        yield float(q[one] * q[two]), (one, two), torch.stack([q, q])


def without_replacement(q: Tensor) -> Draws:
    for one, two in permutations(range(len(q)), 2):
        left = q.clone()
        left[one] = 0
        left = left / left.sum()
        yield float(q[one] * left[two]), (one, two), torch.stack([q, left])


def not_drawn(q: Tensor) -> Draws:
    best = q.topk(2).indices
    yield 1.0, (int(best[0]), int(best[1])), one_hot(best, len(q)).double()


@pytest.mark.parametrize("draws", [independent, without_replacement, not_drawn])
@pytest.mark.parametrize("seed", range(4))
def test_a_tree_keeps_the_targets_distribution_however_siblings_were_drawn(
    draws: Callable[[Tensor], Draws], seed: int
) -> None:
    """All drafts and both thresholds: what follows the root is distributed as p."""
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(4, generator=generator).mul(2).double().softmax(-1) for _ in range(2))
    target, parent = torch.stack([p, p, p]), torch.tensor([-1, -1])
    first = torch.zeros(4, dtype=torch.float64)
    for chance, tokens, drawn in draws(q):
        token = torch.tensor(tokens)

        def path(one: float, two: float, token: Tensor = token, drawn: Tensor = drawn) -> tuple[int, ...]:
            uniform = torch.tensor([one, two], dtype=torch.float64)
            return verify_tree(target, drawn, token, parent, uniform)[0]

        keep = threshold(lambda u, path=path: path(u, 1.0)[:1] == (0,))  # type: ignore[misc]
        first[tokens[0]] += chance * keep
        if keep < 1:
            second = threshold(lambda u, path=path: path(1.0, u)[:1] == (1,))  # type: ignore[misc]
            first[tokens[1]] += chance * (1 - keep) * second
            if second < 1:
                ones = torch.ones(2, dtype=torch.float64)
                _, rest = verify_tree(target, drawn, token, parent, ones)
                first += chance * (1 - keep) * (1 - second) * rest
    torch.testing.assert_close(first, p, rtol=0, atol=1e-9)


@pytest.mark.parametrize("relaxation", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_relaxed_chain_mixes_target_and_draft(relaxation: float, seed: int) -> None:
    """Distance of the distribution: exactly ρ·TV(p, q), which lossless acceptance has at ρ = 0 alone."""
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(5, generator=generator).mul(2).double().softmax(-1) for _ in range(2))
    first = torch.zeros(5, dtype=torch.float64)
    for token in range(5):

        def judged(u: float, token: int = token) -> tuple[int, Tensor]:
            uniform, relaxing = torch.tensor([[u], [relaxation]], dtype=torch.float64)
            return verify(torch.stack([p, p]), q[None], torch.tensor([token]), uniform, relaxing)

        keep = threshold(lambda u, judged=judged: judged(u)[0] == 1)  # type: ignore[misc]
        first[token] += q[token] * keep
        if keep < 1:
            first += q[token] * (1 - keep) * judged(1.0)[1]
    torch.testing.assert_close(first, (1 - relaxation) * p + relaxation * q, rtol=0, atol=1e-9)


@given(seed=st.integers(0, 10**6), length=st.integers(1, 5), relaxation=st.sampled_from([0.0, 0.25]))
@settings(max_examples=40)
def test_on_a_chain_the_tree_is_the_chain(seed: int, length: int, relaxation: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(length + 1, 4, generator=generator).softmax(-1) for _ in range(2))
    token = torch.multinomial(q[:-1], 1, generator=generator)[:, 0]
    uniform = 1 - torch.rand(length, generator=generator, dtype=torch.float64)
    given = (uniform, torch.full((length,), relaxation))
    accepted, after = verify(p, q[:-1], token, *given)
    path, tree_after = verify_tree(p, q[:-1], token, torch.arange(length) - 1, *given)
    assert path == tuple(range(accepted))
    assert torch.equal(after, tree_after)


@given(seed=st.integers(0, 10**6), nodes=st.integers(1, 9))
@settings(max_examples=40)
def test_one_hot_targets_walk_the_greedy_path(seed: int, nodes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parent = torch.tensor([int(torch.randint(-1, node, (1,), generator=generator)) for node in range(nodes)])
    siblings = [int((parent[:node] == parent[node]).sum()) for node in range(nodes)]
    token = torch.tensor(siblings)  # children of one node differ
    choice = torch.randint(0, 3, (nodes + 1,), generator=generator)
    uniform = 1 - torch.rand(nodes, generator=generator, dtype=torch.float64)
    vocabulary = nodes + 3
    path, after = verify_tree(one_hot(choice, vocabulary), one_hot(token, vocabulary), token, parent, uniform)
    assert (path, int(after.argmax())) == accept(token, parent, choice)
