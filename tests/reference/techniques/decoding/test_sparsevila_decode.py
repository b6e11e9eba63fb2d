"""SparseVILA while decoding."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.techniques.decoding.h2o import H2O
from lvlm_atlas.reference.techniques.decoding.sparsevila_decode import SparseVilaDecode, Turn, read_count, salience
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling

VISION = range(4, 388)
"""Places of the vision tokens in a random request of six frames."""


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def turn_of(run: Run) -> Turn:
    (acting,) = run.acts.at("cache-read")
    return cast("Turn", acting)


def test_every_token_of_the_question_has_one_vote() -> None:
    # The first row pays next to nothing to vision, all of it to entry 0; the second much, mostly to entry 1.
    weight = torch.tensor([[[[0.010, 0.0, 0.0], [0.3, 0.5, 0.0]], [[0.0, 0.02, 0.02], [0.0, 0.0, 0.8]]]])
    torch.testing.assert_close(salience(weight), torch.tensor([[(1 + 0.375) / 2, (0.625 + 0.5) / 2, 1.5 / 2]]))
    assert weight.sum(2).mean(1).argmax() == 2
    assert salience(torch.zeros(1, 1, 1, 2)).tolist() == [[0, 0]]


@given(st.integers(0, 400), st.floats(0, 0.999))
def test_what_is_read_is_a_share_and_one_at_least(entries: int, sparsity: float) -> None:
    count = read_count(entries, sparsity)
    assert min(1, entries) <= count <= entries
    assert abs(count - entries * (1 - sparsity)) <= 0.5 or count == 1


def by_hand(at: CacheTokens, rows: int, vision: list[int]) -> list[float]:
    """Salience of each vision token, from the definition, number by number."""
    query, key = at.probe.query_BHNd[0].double(), at.probe.key_BGNd[0].double()
    total = [0.0] * len(vision)
    for head in range(len(query)):
        for row in range(query.shape[1] - rows, query.shape[1]):
            logit = key[head * len(key) // len(query), vision] @ query[head, row] / query.shape[-1] ** 0.5
            total = [old + share / len(query) for old, share in zip(total, logit.softmax(-1).tolist(), strict=True)]
    return total


@torch.inference_mode()
def test_salience_is_that_of_the_definition(lvlm: LVLM, device: str) -> None:
    run = lvlm.begin(random_request(lvlm.config, frames=1, text_tokens=8), [SparseVilaDecode()])
    lvlm.prepare(run)  # two words, 64 vision tokens, six words
    generator = torch.Generator().manual_seed(3)
    query, key = (torch.randn(1, count, 72, 8, generator=generator).to(device) for count in (4, 2))
    place = torch.arange(72, device=device).expand(1, 2, 72)
    at = CacheTokens(0, 1, Entries(key, key, (place >= 2) & (place < 66), place), Probe(query, key, causal=True))
    turn = turn_of(run)
    turn.compress_cache(at)
    score, token = turn.scores[0]
    assert token[0].tolist() == [*range(2, 66)]
    torch.testing.assert_close(score[0].double().cpu(), torch.tensor(by_hand(at, 6, [*range(2, 66)])).double())


def test_the_cache_holds_everything_and_a_step_reads_its_share(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=2), [SparseVilaDecode(sparsity=0.75)]).trace
    assert trace.kv_entries == [400] * 4
    assert trace.kv_most_entries == [401] * 4
    assert trace.kv_read == pytest.approx([(16 + 96 + 1) / 401] * 4)
    assert trace.probe_entries == 4 * 4 * sum(range(389, 401))


@torch.inference_mode()
def test_text_and_what_is_generated_is_always_read(lvlm: LVLM, device: str) -> None:
    run = lvlm.begin(random_request(lvlm.config, max_new_tokens=9), [SparseVilaDecode(sparsity=0.9)])
    cache = lvlm.prefill(lvlm.prepare(run), run).cache
    for token in range(3):
        lvlm.step(torch.tensor([token]), cache)
        cache.retain(torch.tensor([0], device=device))
    for layer in range(4):
        reading = cache.read(layer, torch.zeros(1, 4, 1, 16, device=device))
        index = reading.held().index_BGS[0]
        assert reading.settled == 16 + 38 + 3
        for head in index.tolist():
            assert {*range(4), *range(388, 403)} <= {*head}
            assert head == sorted(head)


@torch.inference_mode()
def test_layers_choose_for_themselves_and_heads_alike(lvlm: LVLM, device: str) -> None:
    run = lvlm.begin(random_request(lvlm.config), [SparseVilaDecode()])
    cache = lvlm.prefill(lvlm.prepare(run), run).cache
    lvlm.step(torch.tensor([1]), cache)
    chosen = turn_of(run).chosen
    for layer, token_BGC in chosen.items():
        score, token = turn_of(run).scores[layer]
        best = token[0][score[0].argsort(descending=True)[:96]]
        assert token_BGC[0].tolist() == [sorted(best.tolist())] * 2
    assert any(not torch.equal(chosen[0], chosen[layer]) for layer in range(1, 4))


def test_reading_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    plain, read = lvlm.run(request), lvlm.run(request, [SparseVilaDecode(sparsity=0.0)])
    assert torch.equal(read.logits_NC, plain.logits_NC)
    assert read.trace.probe_entries == 0


def test_an_answer_is_that_of_a_cache_that_holds_only_what_is_read(lvlm: LVLM, device: str) -> None:
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config, frames=1), [SparseVilaDecode()])
        inputs = lvlm.prepare(run)
        cache, whole = lvlm.prefill(inputs, run).cache, lvlm.prefill(inputs).cache
        token = torch.tensor([5])
        logits = lvlm.step(token, cache)
        for layer in range(4):
            held, chosen = whole.held(layer), turn_of(run).chosen[layer]
            whole.evict(layer, ~held.vision_BGS | torch.isin(held.index_BGS, chosen[0, 0]))
        torch.testing.assert_close(logits, lvlm.step(token, whole), atol=1e-5, rtol=1e-5)


def conversation(lvlm: LVLM) -> tuple[Turn, list[Tensor]]:
    """A picture with a question, then two more questions; what layer 1 read for each."""
    stream, chosen = lvlm.stream([SparseVilaDecode(sparsity=0.9)]), []
    request = random_request(lvlm.config, frames=1)
    stream.ask(request.prompt_N, 3, frames=request.frames_F3HW)
    turn = turn_of(cast("Run", stream._run))
    chosen.append(turn.chosen[1])
    for words in ([7, 8, 9], [30, 20, 41, 77]):
        stream.ask(torch.tensor(words), 3)
        chosen.append(turn.chosen[1])
    return turn, chosen


def test_another_question_reads_other_entries(lvlm: LVLM) -> None:
    _, (first, second, third) = conversation(lvlm)
    assert first.shape == second.shape == third.shape == (1, 2, 6)
    assert {*second[0, 0].tolist()} - {*first[0, 0].tolist()}
    assert {*third[0, 0].tolist()} - {*second[0, 0].tolist()}


def test_pictures_of_earlier_turns_can_be_read_again(lvlm: LVLM) -> None:
    stream = lvlm.stream([SparseVilaDecode(sparsity=0.5)])
    for seed in range(2):
        request = random_request(lvlm.config, frames=1, seed=seed)
        stream.ask(request.prompt_N, 2, frames=request.frames_F3HW)
    chosen = turn_of(cast("Run", stream._run)).chosen[0][0, 0]
    assert len(chosen) == 64
    assert int((chosen < 80).sum()) > 0
    assert int((chosen >= 80).sum()) > 0


def test_drafted_tokens_are_read_besides(lvlm: LVLM, device: str) -> None:
    request, reading = random_request(lvlm.config, frames=1), SparseVilaDecode()
    draft = SpeculativeSampling(gamma=3, draft=LVLM.random(seed=1, device=device))
    alone, drafted = lvlm.run(request, [reading]), lvlm.run(request, [reading, draft])
    assert torch.equal(alone.tokens_N, drafted.tokens_N)


def test_heads_that_hold_different_numbers_are_refused(lvlm: LVLM) -> None:
    with pytest.raises(Refusal, match="hold different numbers; leave out what evicts some of one head"):
        lvlm.run(random_request(lvlm.config), [SparseVilaDecode(), H2O()])


def test_a_question_is_needed(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    with pytest.raises(Refusal, match="put text behind the pictures"):
        lvlm.stream([SparseVilaDecode()]).see(request.frames_F3HW)


def test_a_sparsity_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\), got 1"):
        SparseVilaDecode(sparsity=1.0)
