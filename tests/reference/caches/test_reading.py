"""What a pass reads of a cache: chosen entries, and keys that are rotated by their places in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.in_cache import by_place, closed_up
from lvlm_atlas.reference.caches.reading import Reading
from lvlm_atlas.reference.caches.store import PlainStore
from lvlm_atlas.reference.flow.states import Held
from lvlm_atlas.reference.lvlm import LVLM, Refusal, Request, Technique, random_request
from lvlm_atlas.reference.ops.attention import rotate
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling


class Unrotated(Technique):
    """Holds keys unrotated, and reads all of them."""

    acts_at = ("cache-read",)
    needs = ("unrotated-keys",)

    def choose_entries(self, at):
        return None


class OneAxis(Unrotated):
    """The same where places tell positions."""

    needs = ("unrotated-keys", "one-position-axis")


@dataclass(frozen=True)
class Drops(Technique):
    """Evicts these tokens of the prompt from the cache, whose keys are unrotated."""

    places: tuple[int, ...]

    acts_at = ("cache-tokens",)
    needs = ("unrotated-keys",)

    def compress_cache(self, at):
        index_BGS = at.entries.index_BGS
        gone = torch.isin(index_BGS, torch.tensor(self.places, device=index_BGS.device))
        return at.entries.keep((~gone[0, 0]).nonzero()[:, 0].expand(*index_BGS.shape[:2], -1))


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


PRESETS = ["tiny", "tiny-window", "tiny-deepstack"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("beside", [[], [SpeculativeSampling(gamma=3)]], ids=["alone", "with drafts"])
def test_with_nothing_evicted_unrotated_keys_decode_as_rotated_ones(
    preset: str, beside: list[Technique], device: str
) -> None:
    lvlm = LVLM.random(preset, device=device)
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
        alone = Cache([], [], next_position=torch.full((len(cache.stores), 1), 22, device=device))
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
        lvlm.run(random_request(lvlm.config), [OneAxis()])


@pytest.mark.parametrize("preset", PRESETS)
def test_with_nothing_evicted_a_prompt_in_chunks_is_read_as_at_once(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config), [Unrotated()])
        inputs = lvlm.prepare(run)
        whole, cache = lvlm.prefill(inputs), None
        for part in torch.arange(inputs.length, device=device).split(150):
            begun = lvlm.prefill(inputs.keep(part[None]), run, cache)
            cache = begun.cache
        torch.testing.assert_close(begun.logits_C, whole.logits_C, rtol=0, atol=1e-5)
        token = torch.tensor([5])
        torch.testing.assert_close(lvlm.step(token, begun.cache), lvlm.step(token, whole.cache), rtol=0, atol=1e-5)


def test_pictures_that_are_gone_leave_no_gap_on_any_axis_and_others_keep_their_shape(device: str) -> None:
    """Of text, a still, text, a still, text the first still goes: positions are those of a prompt without it."""
    lvlm = LVLM.random("tiny-window", device=device)
    still = lvlm.config.image_token_id
    frames = random_request(lvlm.config, frames=2).frames_F3HW
    words = torch.arange(3)
    both = Request(
        frames_F3HW=frames, prompt_N=torch.tensor([5, 6, still, 7, still, 8, 9]), image_token_id=still, max_new_tokens=4
    )
    one = replace(both, frames_F3HW=frames[1:], prompt_N=torch.tensor([5, 6, 7, still, 8, 9]))
    with torch.inference_mode():
        alone = lvlm.prepare(lvlm.begin(one))
        run = lvlm.begin(both)
        lvlm.prepare(run)
        gone = tuple(run.prompt.spans[0].tolist())
        run = lvlm.begin(both, [Drops(gone)])
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
        reading = cache.read(0, torch.empty(0))
        next_BM = cache.next_position[0, :, None]
        settled_BGRA, new_BGMA = cache.in_cache.positions(0, reading, words[:1].to(device), next_BM)
    assert torch.equal(settled_BGRA[0, 0], alone.position_BN[0])
    assert new_BGMA.unique().tolist() == alone.next_position.tolist()


def test_decoded_tokens_that_are_gone_leave_no_gap_either() -> None:
    known, held = torch.arange(20), torch.tensor([0, 1, 2, 15, 16])
    entries = Held(*(held.expand(1, 1, -1) for _ in range(2)), held[None, None, :, None].expand(1, 1, -1, 3))
    reading = Reading(torch.empty(0), torch.empty(0), 5, lambda: entries)
    old, new = closed_up(reading, torch.tensor([[[20] * 3, [21] * 3]]), known)
    assert (old[0, 0, :, 0].tolist(), new[0, 0, :, 2].tolist()) == ([0, 1, 2, 3, 4], [5, 6])


def test_padding_has_no_place() -> None:
    real = torch.tensor([[[False, False, True, True], [True, True, True, True]]])
    reading = Reading(torch.empty(0), torch.empty(0), 5, lambda: pytest.fail("nobody asks"), real)
    old, new = by_place(reading, torch.tensor([0, 1]))
    assert old[0].tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]], "an entry that was decoded is none"
    assert new[0].tolist() == [[3, 4], [5, 6]]
