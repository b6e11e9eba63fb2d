"""Trees that grow where the draft is sure: against brute force, and in their order."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.drafting.draft import Draft
from lvlm_atlas.reference.drafting.rounds import ancestors
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter, best_of, children_of, grow, grow_and_prune
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.refusal import Refusal

Path = tuple[int, ...]


def table(vocabulary: int, depth: int, seed: int) -> dict[Path, Tensor]:
    """Logits after each path of up to `depth` − 1 tokens."""
    generator = torch.Generator().manual_seed(seed)
    paths = [path for n in range(depth) for path in product(range(vocabulary), repeat=n)]
    return {path: torch.randn(vocabulary, generator=generator) * 2 for path in paths}


def expander(logits: dict[Path, Tensor], passes: list[list[Path]]) -> Callable[[Tensor, Tensor], Tensor]:
    """A draft that looks its logits up, and notes which paths it read in each pass."""
    read: list[Path] = []

    def expand(token_K: Tensor, follows_K: Tensor) -> Tensor:
        new = [
            (*(read[follows] if follows >= 0 else ()), token)
            for token, follows in zip(token_K.tolist(), follows_K.tolist(), strict=True)
        ]
        read.extend(new)
        passes.append(new)
        return torch.stack([logits[path] for path in new])

    return expand


def paths_of(token_M: Tensor, parent_M: Tensor) -> list[Path]:
    paths: list[Path] = []
    for token, parent in zip(token_M.tolist(), parent_M.tolist(), strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    return paths


def score(logits: dict[Path, Tensor], path: Path) -> float:
    return sum(float(logits[path[:i]].log_softmax(-1)[token]) for i, token in enumerate(path))


@given(
    vocabulary=st.integers(2, 5), depth=st.integers(1, 4), top_k=st.integers(1, 3), nodes=st.integers(1, 40),
    seed=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_tree_is_the_best_of_all_candidates(vocabulary: int, depth: int, top_k: int, nodes: int, seed: int) -> None:
    """Against a search that knows paths alone: expand the best k of a level, keep the best N of all."""
    top_k = min(top_k, vocabulary)
    logits = table(vocabulary, depth, seed)
    level: list[Path] = [()]
    candidates: list[Path] = []
    for _ in range(depth):
        children = [(*path, int(token)) for path in level for token in logits[path].topk(top_k).indices]
        candidates += children
        level = sorted(children, key=lambda path: -score(logits, path))[:top_k]
    expected = sorted(candidates, key=lambda path: -score(logits, path))[:nodes]
    passes: list[list[Path]] = []
    grown = grow(logits[()], expander(logits, passes), nodes=nodes, depth=depth, top_k=top_k)
    paths = paths_of(*grown)
    assert sorted(paths) == sorted(expected)
    assert len(paths) == min(nodes, top_k + (depth - 1) * top_k**2)
    assert [len(each) for each in passes] == [top_k] * (depth - 1)
    assert [len(path) for path in paths] == sorted(map(len, paths)), "level by level"
    assert all(parent < node for node, parent in enumerate(grown[1].tolist()))


@given(
    vocabulary=st.integers(2, 5), depth=st.integers(1, 4), top_k=st.integers(1, 3), nodes=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_tree_is_cut_back_each_time_that_it_has_grown(
    vocabulary: int, depth: int, top_k: int, nodes: int, seed: int
) -> None:
    """Against a search that knows paths alone, each of which is read once."""
    top_k = min(top_k, vocabulary)
    logits = table(vocabulary, depth, seed)

    def best(paths: list[Path]) -> list[Path]:
        return sorted(paths, key=lambda path: -score(logits, path))[:nodes]

    kept = best([(token,) for token in range(vocabulary)])
    read: list[list[Path]] = []
    for _ in range(depth - 1):
        new = [path for path in kept if not any(path in each for each in read)]
        if not new:
            break
        read.append(new)
        kept = best([*kept, *((*path, int(token)) for path in new for token in logits[path].topk(top_k).indices)])
    passes: list[list[Path]] = []
    grown = grow_and_prune(logits[()], expander(logits, passes), nodes=nodes, depth=depth, top_k=top_k)
    paths = paths_of(*grown)
    assert sorted(paths) == sorted(kept)
    assert [sorted(each) for each in passes] == [sorted(each) for each in read]
    assert all(parent < node for node, parent in enumerate(grown[1].tolist()))


def test_children_stand_likeliest_first_and_differ() -> None:
    logits = table(5, 3, seed=1)
    token, parent = grow(logits[()], expander(logits, []), nodes=30, depth=3, top_k=3)
    paths = paths_of(token, parent)
    for node in {*parent.tolist()}:
        scores = [score(logits, paths[child]) for child in range(len(paths)) if parent[child] == node]
        assert scores == sorted(scores, reverse=True)
    assert len({*paths}) == len(paths)


def test_a_sure_draft_grows_a_chain_and_an_unsure_one_a_bush() -> None:
    sure = {path: torch.tensor([20.0, 0.0, 0.0, 0.0]) for path in table(4, 4, 0)}
    token, parent = grow(sure[()], expander(sure, []), nodes=4, depth=4, top_k=2)
    assert (token.tolist(), parent.tolist()) == ([0, 0, 0, 0], [-1, 0, 1, 2])
    unsure = {path: torch.zeros(4) for path in sure}
    _, parent = grow(unsure[()], expander(unsure, []), nodes=2, depth=4, top_k=2)
    assert parent.tolist() == [-1, -1]


def test_a_node_never_stands_without_its_parent_where_scores_tie() -> None:
    """A child of which the draft is certain has its parent's very score."""
    certain = {path: torch.tensor([400.0, 0.0, 0.0]) for path in table(3, 4, 0)}
    for nodes in range(1, 7):
        token, parent = grow(certain[()], expander(certain, []), nodes=nodes, depth=4, top_k=2)
        paths = paths_of(token, parent)
        assert all(path[:-1] == () or path[:-1] in paths for path in paths)
        assert paths[: min(nodes, 4)] == [(0,) * n for n in range(1, min(nodes, 4) + 1)] or nodes > 4


def test_of_equal_scores_the_earliest_are_best() -> None:
    assert best_of(torch.tensor([1.0, 3.0, 1.0, 3.0, 1.0]), 3).tolist() == [1, 3, 0]


def test_scores_are_sums_of_log_probabilities_from_the_root(device: str) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 0.0]], device=device)
    token, scores = children_of(logits, torch.tensor([-1.0, -2.0], device=device), 2)
    assert token.tolist() == [[2, 1], [0, 1]]
    expected = logits.log_softmax(-1).gather(1, token) + torch.tensor([[-1.0], [-2.0]], device=device)
    torch.testing.assert_close(scores, expected)


def test_a_draft_model_is_asked_after_each_nodes_own_path(device: str) -> None:
    """Against a fresh pass a node: a wrong mask, position or parent shows."""
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        prompt = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1)))
        proposal = GrowingTreeDrafter(Draft(lvlm, prompt, Trace()), 14, 3, 3).propose([5, 6])
        paths = paths_of(proposal.token_M, proposal.parent_M)
        seen = ancestors(proposal.parent_M)[1:, 1:]
        for node in [-1, *range(len(paths))]:
            children = proposal.token_M[proposal.parent_M == node]
            path = proposal.token_M[seen[node]].tolist() if node >= 0 else []
            logits = Draft(lvlm, prompt, Trace()).read([5, 6, *path])
            assert torch.equal(children, logits.cpu().topk(3).indices[: len(children)])
    assert len(paths) == 14
    assert torch.equal(proposal.probability_MC.argmax(-1), proposal.token_M)


def test_a_vocabulary_smaller_than_the_branches_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        prompt = lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1)))
        with pytest.raises(Refusal, match="a node gets 200 children, of a vocabulary of 128; lower the number"):
            GrowingTreeDrafter(Draft(lvlm, prompt, Trace()), 14, 3, 200).propose([5])
