"""DSTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.techniques.decoding.dstp import Dstp, Reading, among, keep_count, likeness, look
from lvlm_atlas.reference.techniques.decoding.h2o import H2O

VISION = range(4, 68)
"""Places of the vision tokens in a random request of one frame."""


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


@dataclass
class Answer:
    """An answer that is written step by step, with what each layer read."""

    lvlm: LVLM
    setting: Dstp
    read: list[list[list[int]]] = field(default_factory=list)
    """By step and layer, the vision tokens that were read."""
    run: Run = field(init=False)
    cache: Cache = field(init=False)

    def __post_init__(self) -> None:
        self.run = self.lvlm.begin(random_request(self.lvlm.config, frames=1), [self.setting])
        self.cache = self.lvlm.prefill(self.lvlm.prepare(self.run), self.run).cache

    @property
    def reading(self) -> Reading:
        return cast("Reading", self.run.acts.at("cache-read")[0])

    def write(self, tokens: list[int]) -> Answer:
        for token in tokens:
            seen: list[list[int]] = []
            plain, self.cache.choose = self.cache.choose, self._noting(seen)
            self.lvlm.step(torch.tensor([token]), self.cache)
            self.cache.choose = plain
            self.cache.retain(torch.tensor([0], device=self.lvlm.device))
            self.read.append(seen)
        return self

    def _noting(self, seen: list[list[int]]) -> object:
        choose = self.cache.choose
        assert choose is not None

        def note(layer: int, *context: object) -> Tensor | None:
            index = choose(layer, *context)  # type: ignore[arg-type]
            assert index is not None
            token = self.cache.held(layer).index_BGS.gather(2, index)
            assert torch.equal(token[:, :1].expand_as(token), token)
            seen.append([place for place in token[0, 0].tolist() if place in VISION])
            return index

        return note


def test_only_the_kept_vision_tokens_are_compared(device: str) -> None:
    weight = torch.tensor([[[0.1, 0.2, 0.1, 0.0], [0.0, 0.0, 0.4, 0.4]]], device=device)
    kept = torch.tensor([[0, 2]], device=device)
    # Each head has one vote: 0.5 and 0.5, 0 and 1.
    assert among(weight, kept).tolist() == [[0.25, 0.75]]
    query = torch.tensor([[[2.0, 0.0], [0.0, 4.0]]], device=device)
    key = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]], device=device)
    expected = [(torch.tensor(logit) * 2**-0.5).softmax(-1).tolist() for logit in ([2.0, 0.0], [0.0, 4.0])]
    torch.testing.assert_close(look(query, key), torch.tensor([expected], device=device))
    assert likeness(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.5, 0.5]])).item() == pytest.approx(0.5**0.5)


def test_what_is_kept_is_a_share_and_one_at_least() -> None:
    assert [keep_count(*each) for each in ((64, 0.333), (3, 0.1), (0, 0.5), (5, 1.0))] == [21, 1, 0, 5]


@torch.inference_mode()
def test_the_prompt_keeps_what_its_last_token_attends_to(lvlm: LVLM) -> None:
    answer = Answer(lvlm, Dstp(keep_ratio=0.25, threshold=0.0)).write([3, 5])
    attention = lvlm.observe(random_request(lvlm.config, frames=1)).attention
    assert len(attention) == 4
    for layer, (probe, _) in enumerate(attention):
        row = probe.rows(slice(-1, None))[0, :, 0, 4:68]
        best = (row / row.sum(-1, keepdim=True)).mean(0).argsort(descending=True)[:16] + 4
        for step in answer.read:
            assert step[layer] == sorted(best.tolist())


@torch.inference_mode()
def test_a_shift_adds_and_drops_nothing(lvlm: LVLM) -> None:
    never, always = (Answer(lvlm, Dstp(keep_ratio=0.25, threshold=limit)).write([7]) for limit in (0.0, 1.0))
    for layer in range(4):
        kept, more = {*never.read[0][layer]}, {*always.read[0][layer]}
        assert kept <= more
        assert 16 <= len(more) <= 32
    assert any(len(more) > 16 for more in always.read[0])
    # Layer 0 sees the same query either way: what it adds are the best of its softmax over all vision entries.
    store, held = always.cache.stores[0], always.cache.held(0)
    layer = next(iter(lvlm.language_model.layers))
    embedding = lvlm.embed(torch.tensor([7]))[None]
    query, _, _ = layer.project(embedding, torch.tensor([[80]], device=lvlm.device))
    key = store.read()[0][:, :, 4:68]
    best = look(query[:, :, 0], key).mean(1)[0].argsort(descending=True)[:16] + 4
    assert {*best.tolist()} | {*never.read[0][0]} == {*always.read[0][0]}
    assert held.length == 81


@torch.inference_mode()
def test_after_its_steps_it_goes_back(lvlm: LVLM) -> None:
    answer = Answer(lvlm, Dstp(keep_ratio=0.25, threshold=1.0, steps=3)).write([7, 8, 9, 10, 11])
    first = [step[0] for step in answer.read]
    assert first[0] == first[1] == first[2], "three steps read the same"
    assert answer.reading.layers[0].until == 80 + 3 + 3, "then it is compared again, and shifts again"
    answer.reading.setting = Dstp(keep_ratio=0.25, threshold=0.0, steps=3)
    answer.write([12, 13])
    kept = Answer(lvlm, Dstp(keep_ratio=0.25, threshold=0.0)).write([7]).read[0][0]
    assert answer.read[5][0] == first[4] != kept
    assert answer.read[6][0] == kept


def test_the_cache_holds_everything(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=2), [Dstp(keep_ratio=0.25, threshold=0.0)]).trace
    assert trace.kv_entries == [400] * 4
    assert trace.kv_most_entries == [401] * 4
    assert trace.kv_read == pytest.approx([(16 + 96 + 1) / 401] * 4)
    more = lvlm.run(random_request(lvlm.config, max_new_tokens=2), [Dstp(keep_ratio=0.25, threshold=1.0)]).trace
    assert all((16 + 96 + 1) / 401 <= share <= (16 + 192 + 1) / 401 for share in more.kv_read)
    assert max(more.kv_read) > (16 + 96 + 1) / 401


def test_reading_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    plain, read = lvlm.run(request), lvlm.run(request, [Dstp(keep_ratio=1.0)])
    assert torch.equal(read.logits_NC, plain.logits_NC)
    assert read.trace.probe_entries == 0


def test_another_question_of_a_session_keeps_other_entries(lvlm: LVLM) -> None:
    stream, request = lvlm.stream([Dstp(keep_ratio=0.1, threshold=0.0)]), random_request(lvlm.config, frames=1)
    stream.ask(request.prompt_N, 3, frames=request.frames_F3HW)
    reading = cast("Reading", cast("Run", stream._run).acts.at("cache-read")[0])
    first = reading.layers[1].weight_BHV
    stream.ask(torch.tensor([7, 8, 9]), 3)
    assert reading.layers[1].token_BV[0].tolist() == [*VISION]
    assert not torch.allclose(reading.layers[1].weight_BHV, first)


def test_heads_that_hold_different_pictures_are_refused(lvlm: LVLM) -> None:
    with pytest.raises(Refusal, match="DSTP reads the same vision entries in every head"):
        lvlm.run(random_request(lvlm.config), [H2O(heavy_ratio=0.2, recent_ratio=0.2), Dstp()])


@pytest.mark.parametrize("wrong", [{"keep_ratio": 0.0}, {"threshold": 1.5}, {"steps": 0}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Dstp(**wrong)  # type: ignore[arg-type]
