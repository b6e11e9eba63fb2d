"""What a pass reads of a cache: chosen entries, and keys that are rotated by their places in it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.store import PlainStore
from lvlm_atlas.reference.lvlm import LVLM, Refusal, Technique, random_request
from lvlm_atlas.reference.ops.attention import rotate
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling


class Unrotated(Technique):
    """Holds keys unrotated, and reads all of them."""

    acts_at = ("cache-read",)
    needs = ("unrotated-keys", "one-position-axis")

    def choose_entries(self, at):
        return None


@dataclass(frozen=True)
class ReadsEnds(Technique):
    """Reads the first entries and the most recent ones."""

    first: int = 2
    recent: int = 20

    acts_at = ("cache-read",)

    def choose_entries(self, at):
        groups = at.store.read()[0].shape[1]
        place = torch.cat([torch.arange(self.first), torch.arange(at.settled - self.recent, at.settled)])
        return place.expand(1, groups, -1).to(at.query_BHMd.device)


class ReadsEndsUnrotated(ReadsEnds):
    """The same with unrotated keys."""

    needs = ("unrotated-keys", "one-position-axis")


@pytest.mark.parametrize("beside", [[], [SpeculativeSampling(gamma=3)]])
def test_with_nothing_evicted_unrotated_keys_decode_as_rotated_ones(beside: list[Technique], device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=20)
    plain, unrotated = lvlm.run(request, beside), lvlm.run(request, [*beside, Unrotated()])
    torch.testing.assert_close(plain.logits_NC, unrotated.logits_NC, rtol=0, atol=1e-5)
    assert plain.trace.accepted_lengths == unrotated.trace.accepted_lengths


def test_the_cache_holds_keys_as_they_are_before_rotary(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        request = random_request(lvlm.config)
        inputs = lvlm.prepare(lvlm.begin(request))
        rotated = lvlm.prefill(inputs).cache
        unrotated = lvlm.prefill(inputs, lvlm.begin(request, [Unrotated()])).cache
    theta = lvlm.config.text.rope_theta
    for one, other in zip(rotated.stores, unrotated.stores, strict=True):
        key, value = other.read()
        torch.testing.assert_close(one.read()[0], rotate(key, inputs.position_BN, theta))
        assert not torch.allclose(one.read()[0], key, atol=1e-3)
        torch.testing.assert_close(one.read()[1], value)


def test_positions_of_what_is_read_count_from_0_and_the_next_token_s_follows(device: str) -> None:
    """Held against an ordinary cache of those entries alone, rotated at 0 … 21, and a next token at 22."""
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config), [ReadsEndsUnrotated(2, 20)])
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
        alone = Cache([], [], next_position=torch.tensor([22], device=device))
        for store in cache.stores:
            key, value = store.read()
            kept = [0, 1, *range(key.shape[2] - 20, key.shape[2])]
            rotated = rotate(key[:, :, kept], torch.arange(22, device=device)[None], lvlm.config.text.rope_theta)
            alone.stores.append(PlainStore())
            alone.stores[-1].append(rotated, value[:, :, kept])
        # A tree: 7 and 8 follow 5, 9 follows 8.
        tokens, parents = torch.tensor([5, 7, 8, 9]), torch.tensor([-1, 0, 0, 2])
        torch.testing.assert_close(lvlm.step(tokens, cache, parents), lvlm.step(tokens, alone, parents))
        torch.testing.assert_close(
            lvlm.step(torch.tensor([3]), cache, torch.tensor([3])),
            lvlm.step(torch.tensor([3]), alone, torch.tensor([3])),
        )


def test_tokens_that_are_not_read_have_no_say(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    run = lvlm.begin(request, [ReadsEnds(2, 20)])
    with torch.inference_mode():
        begun = lvlm.prefill(lvlm.prepare(run), run)
        first = lvlm.step(torch.tensor([5]), begun.cache).clone()
        begun.cache.retain(torch.empty(0, dtype=torch.long))
        for store in begun.cache.stores:
            for x in store.read():
                x[:, :, 2:-20] = 1e3
        again = lvlm.step(torch.tensor([5]), begun.cache)
    torch.testing.assert_close(first, again)
    assert begun.cache.trace.kv_read == pytest.approx([2 * 23 / 401] * 4)


def test_a_store_of_codes_is_read_in_part_too(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    kivi = Kivi(bits=8, group_size=16, residual_length=16)
    trace = lvlm.run(request, [kivi, ReadsEndsUnrotated(2, 20)]).trace
    share = sum(23 / (401 + step) for step in range(trace.target_passes))
    assert trace.kv_read == pytest.approx([share] * 4)


def test_positions_of_several_axes_are_refused_where_a_technique_has_no_use_for_them(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    with pytest.raises(Refusal, match="needs `one-position-axis`, but this model cannot give it"):
        lvlm.run(random_request(lvlm.config), [Unrotated()])
