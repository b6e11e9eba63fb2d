"""AVTP."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.prefilling.avtp import Avtp, Stages, budgets, images_of, kept_of
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def apart(request: Request, words: int = 3) -> Request:
    """The request with a word in front of each image."""
    images = request.prompt_N == request.image_token_id
    prompt = []
    for place, token in enumerate(request.prompt_N.tolist()):
        prompt += [words + place] * bool(images[place]) + [token]
    return replace(request, prompt_N=torch.tensor(prompt))


def test_images_are_runs_of_vision_tokens() -> None:
    assert images_of([False, True, True, False, True, False, False]) == [(1, 3), (4, 5)]
    assert images_of([True, True]) == [(0, 2)]
    assert images_of([False, False]) == images_of([]) == []


def test_an_image_whose_mark_changed_more_than_the_mean_keeps_more() -> None:
    # Mean 0.625; shares 0.5 + 0.625 − 0.875, 0.5, 0.5 + 0.25.
    assert budgets([0.875, 0.625, 0.375], [100, 100, 16], 0.5) == [25, 50, 12]
    assert budgets([0.875, 0.625, 0.375], [100, 100, 16], 0.5, alpha=0.0) == [50, 50, 8]
    assert budgets([0.875, 0.625, 0.375], [100, 100, 16], 0.5, alpha=0.5) == [37, 50, 10]


def test_a_single_image_keeps_the_plain_share_cut_off() -> None:
    assert budgets([0.123], [10], 0.78) == [7]
    assert budgets([-1.0], [50], 0.8) == [40]


def test_shares_are_cut_off_at_both_ends_and_what_that_frees_is_not_given_to_others() -> None:
    assert budgets([1.0, -1.0], [10, 10], 0.8) == [1, 10]  # shares −0.2 and 1.8; of 16 tokens 11 stay
    assert budgets([1.0, 1.0, -1.0], [1, 7, 1], 0.1) == [1, 1, 1]  # one at least


def test_an_image_without_a_mark_keeps_the_plain_share_and_does_not_count_in_the_mean() -> None:
    assert budgets([None, 0.8, 0.4], [10, 10, 10], 0.5) == [5, 3, 7]
    assert budgets([None], [10], 0.5) == [5]


def test_the_tokens_that_changed_least_go(device: str) -> None:
    cosine = torch.tensor([0.0, 0.9, 0.2, 0.5, 1.0, 0.3, 0.3, 0.3], device=device)
    kept = kept_of(cosine, [(1, 4), (5, 8)], [2, 1])
    assert kept.tolist() == [True, False, True, True, True, True, False, False]  # of equals the first


@given(st.data())
def test_as_many_stay_as_budgets_say_and_all_text(data: st.DataObject) -> None:
    vision = data.draw(st.lists(st.booleans(), max_size=30))
    images = images_of(vision)
    lengths = [end - first for first, end in images]
    share = data.draw(st.sampled_from([0.05, 0.5, 0.8, 1.0]))
    alpha = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    cosine = torch.rand(len(vision), generator=generator) * 2 - 1
    keep = budgets([float(cosine[first - 1]) if first else None for first, _ in images], lengths, share, alpha)
    assert all(1 <= each <= length for each, length in zip(keep, lengths, strict=True))
    kept = kept_of(cosine, images, keep)
    for place, visual in enumerate(vision):
        assert visual or kept[place]
    for (first, end), most in zip(images, keep, strict=True):
        inside, own = kept[first:end], cosine[first:end]
        assert int(inside.sum()) == most
        if most < end - first:
            assert float(own[inside].max()) <= float(own[~inside].min())
    reach = 2 * alpha * (len(images) - 1) / max(1, len(images))
    total = sum(lengths)
    least = int(total * max(0.0, share - reach) + 1e-9) - max(0, len(images) - 1)
    most = int(total * min(1.0, share + reach) + 1e-9) + len(images) - 1
    assert least <= sum(keep) <= max(len(images), most)


def test_each_stage_compares_with_what_the_last_one_left(device: str) -> None:
    place = torch.arange(6, device=device)[None]
    vision = torch.tensor([[False, True, True, True, True, False]], device=device)
    stages = Stages(Avtp(layers=(1, 2), shares=(0.75, 0.67)))

    def at(layer: int, hidden_ND: Tensor, old: Sequence) -> Sequence:
        return stages.llm_layer(LlmLayer(layer, 4, replace(old, hidden_BND=hidden_ND[None])))

    east, north = torch.tensor([1.0, 0.0], device=device), torch.tensor([0.0, 1.0], device=device)
    first = at(0, torch.stack([east] * 6), Sequence(torch.empty(1, 6, 2), place, vision, place))
    # Before layer 1 token 2 alone has not turned, and goes; text that has not turned either stays.
    second = at(1, torch.stack([east, north, east, north, north, east]), first)
    assert second.index_BN.tolist() == second.position_BN.tolist() == [[0, 1, 3, 4, 5]]
    # Token 3 turns back: it is as it entered the LLM, but has changed since the last stage; 1 and 4 have not.
    third = at(2, torch.stack([east, north, east, north, east]), second)
    assert third.index_BN.tolist() == [[0, 1, 3, 5]]


def test_pruning_counts_from_layer_to_layer_and_in_the_caches(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [Avtp((1, 3), (0.5, 0.25))]).trace
    assert trace.llm_vision_tokens == [384, 192, 192, 48]
    assert trace.kv_entries == [400, 208, 208, 64]
    assert trace.probe_entries == 0


def test_images_with_text_between_them_get_budgets_of_their_own(lvlm: LVLM) -> None:
    request = apart(random_request(lvlm.config, frames=3))
    plain = lvlm.run(request, [Avtp((2,), (0.5,), alpha=0.0)]).trace
    shifted = lvlm.run(request, [Avtp((2,), (0.5,), alpha=5.0)]).trace

    def of_images(index_N: Tensor) -> list[int]:
        return [int(((index_N >= first) & (index_N < first + 64)).sum()) for first in (5, 70, 135)]

    assert of_images(plain.kept[2][0]) == [32, 32, 32]
    assert len({*of_images(shifted.kept[2][0])}) == 3
    assert plain.kept[1].shape[1] == shifted.kept[1].shape[1] == 19 + 192
    assert {*range(5)} <= {*shifted.kept[2][0].tolist()}


def test_the_marks_cosine_in_the_model_decides(lvlm: LVLM) -> None:
    request = apart(random_request(lvlm.config, frames=2))
    sequence = lvlm.prepare(lvlm.begin(request))
    before = sequence.hidden_BND[0]
    layer = next(iter(lvlm.language_model.layers))
    with torch.inference_mode():
        query, key, value = layer.project(sequence.hidden_BND, sequence.position_BN)
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], dim=1) for each in (key, value))
        mask = torch.ones(sequence.length, sequence.length, dtype=torch.bool, device=lvlm.device).tril()
        weight = (query @ key.mT / query.shape[-1] ** 0.5).masked_fill(~mask, float("-inf")).softmax(-1)
        after = layer.finish(sequence.hidden_BND, weight @ value)[0]
    cosine = torch.cosine_similarity(after, before, dim=-1)
    marks = cosine[[4, 69]].tolist()
    keep = budgets(marks, [64, 64], 0.5)
    assert keep != [32, 32]
    trace = lvlm.run(request, [Avtp((1,), (0.5,))]).trace
    best = [first + cosine[first : first + 64].argsort()[:most] for first, most in zip((5, 70), keep, strict=True)]
    vision = sequence.vision_BN[0].nonzero()[:, 0]
    kept = trace.kept[1][0]
    assert torch.equal(kept[torch.isin(kept, vision)], torch.cat(best).sort().values)


def test_shares_of_one_change_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    full = lvlm.run(request)
    assert torch.equal(lvlm.run(request, [Avtp((1, 2), (1.0, 1.0), alpha=0.0)]).logits_NC, full.logits_NC)
    assert torch.equal(lvlm.run(request, [Avtp((), ())]).logits_NC, full.logits_NC)


def test_deepstack_features_are_cut_with_the_tokens(device: str) -> None:
    lvlm = LVLM.random("tiny-deepstack", device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=2)
    stages = Stages(Avtp((1,), (0.5,)))
    sequence = lvlm.prepare(lvlm.begin(request))
    assert sequence.deepstack_BNLD is not None
    stages.llm_layer(LlmLayer(0, 4, sequence))
    moved = replace(sequence, hidden_BND=sequence.hidden_BND.flip(1))
    out = stages.llm_layer(LlmLayer(1, 4, moved))
    assert out.deepstack_BNLD is not None
    assert out.length < sequence.length
    assert torch.equal(out.deepstack_BNLD[0], sequence.deepstack_BNLD[0, out.index_BN[0]])


def test_others_between_the_layers_and_settings_that_cannot_be_are_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    for wrong, says in (
        ([Avtp((1,), (0.5,)), FastV(layer=1)], "leave one out"),
        ([Avtp((1,), (0.5, 0.5))], "equally many"),
        ([Avtp((1, 2, 3, 4), (0.5, 0.5, 0.5, 0.5))], "three layers at most"),
        ([Avtp((4,), (0.5,))], r"lie in 1\.\.3"),
    ):
        with pytest.raises(Refusal, match=says):
            lvlm.run(request, wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"layers": (0,)}, "layers must"),
        ({"layers": (2, 1)}, "rise"),
        ({"shares": (0.0,)}, "shares"),
        ({"alpha": -1}, "alpha"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Avtp(**wrong)  # type: ignore[arg-type]
