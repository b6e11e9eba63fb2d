"""HiPrune."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import EncoderLayer, EncoderOutput
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.hiprune import Choosing, HiPrune, anchors_of, cross, hiprune
from lvlm_atlas.reference.techniques.encoding.tome import ToMe


def peaks(*places: int, patches: int = 16, device: str = "cpu") -> Tensor:
    """Scores (1, N) that fall from the first of these places to the last, and are nearly alike elsewhere."""
    score = torch.linspace(0.001, 0, patches, device=device)
    for rank, place in enumerate(places):
        score[place] = 1 - rank / 100
    return score[None]


def places(mask: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in mask]


def test_an_anchor_brings_the_four_around_it(device: str) -> None:
    assert places(cross(torch.tensor([[5], [10]], device=device), 16)) == [[1, 4, 5, 6, 9], [6, 9, 10, 11, 14]]


def test_neighbours_wrap_around_the_ends_of_rows(device: str) -> None:
    # 4 begins the second row and 3 ends the first: each is the other's neighbour in the order of the image.
    assert places(cross(torch.tensor([[4]], device=device), 16)) == [[0, 3, 4, 5, 8]]
    assert places(cross(torch.tensor([[7]], device=device), 16)) == [[3, 6, 7, 8, 11]]


def test_at_the_corners_neighbours_are_clamped(device: str) -> None:
    # Above and before 0 lies 0 itself; before 1 lies 0, and above it as well, by clamping.
    assert places(cross(torch.tensor([[0]], device=device), 16)) == [[0, 1, 4]]
    assert places(cross(torch.tensor([[1]], device=device), 16)) == [[0, 1, 2, 5]]
    assert places(cross(torch.tensor([[15]], device=device), 16)) == [[11, 14, 15]]


def test_a_neighbour_of_two_anchors_takes_one_place_and_registers_fill_up(device: str) -> None:
    # Anchors 5 and 6 share a border: 1, 2, 4, 5, 6, 7, 9, 10 are eight places and not ten. Two registers follow.
    kept = hiprune(peaks(5, 6, device=device), peaks(5, 15, 12, 0, device=device), tokens=10, alpha=1.0)
    assert kept.tolist() == [[1, 2, 4, 5, 6, 7, 9, 10, 12, 15]]


def test_registers_are_chosen_among_the_patches_not_taken_yet(device: str) -> None:
    # The last layer's favourites are all in the cross; the budget must still be filled, by the next best.
    deep = peaks(5, 4, 6, 1, 9, 14, 3, device=device)
    assert hiprune(peaks(5, device=device), deep, tokens=7, alpha=0.75).tolist() == [[1, 3, 4, 5, 6, 9, 14]]


@pytest.mark.parametrize(
    ("tokens", "alpha", "anchors"),
    [(192, 0.1, 4), (128, 0.1, 3), (64, 0.1, 1), (24, 0.1, 0), (25, 0.5, 2), (75, 0.1, 2), (35, 0.5, 4), (20, 1.0, 4)],
)
def test_a_fifth_of_the_share_is_rounded_and_may_be_none(tokens: int, alpha: float, anchors: int) -> None:
    assert anchors_of(tokens, alpha) == anchors  # 2.5 and 3.5 go to the even number; 0.48 leaves no anchor


def test_without_anchors_the_last_layer_decides_alone(device: str) -> None:
    deep = peaks(3, 8, 13, 2, device=device)
    assert hiprune(peaks(5, device=device), deep, tokens=4, alpha=0.0).tolist() == [[2, 3, 8, 13]]
    assert hiprune(peaks(5, device=device), deep, tokens=4, alpha=0.5).tolist() == [[2, 3, 8, 13]]  # round(0.4) = 0


def test_where_the_cross_exceeds_the_budget_the_last_layer_chooses_in_it(device: str) -> None:
    deep = peaks(15, 9, 4, 0, 5, device=device)
    assert hiprune(peaks(5, device=device), deep, tokens=3, alpha=1.0).tolist() == [[4, 5, 9]]


def test_frames_choose_for_themselves_and_ties_go_to_the_first(device: str) -> None:
    both = torch.cat([peaks(5, device=device), peaks(10, device=device)])
    flat = torch.ones(2, 16, device=device)
    assert hiprune(both, flat, tokens=6, alpha=0.8).tolist() == [[0, 1, 4, 5, 6, 9], [0, 6, 9, 10, 11, 14]]


@settings(max_examples=60)
@given(st.data())
def test_the_choice_is_that_of_plain_loops(data: st.DataObject) -> None:
    side = data.draw(st.integers(1, 6))
    tokens = data.draw(st.integers(1, side**2 + 3))
    alpha = data.draw(st.sampled_from([0.0, 0.1, 0.4, 0.7, 1.0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    object_2N, deep_2N = (torch.rand(2, side**2, generator=generator, dtype=torch.float64) for _ in range(2))
    result = hiprune(object_2N, deep_2N, tokens, alpha)
    for frame in range(2):
        taken: set[int] = set()
        by_object = sorted(range(side**2), key=lambda place: -object_2N[frame, place])
        for anchor in by_object[: round(tokens * alpha / 5)]:
            for place in (anchor, anchor - 1, anchor + 1, anchor - side, anchor + side):
                taken.add(min(max(place, 0), side**2 - 1))
        by_deep = sorted(range(side**2), key=lambda place: (place not in taken, -deep_2N[frame, place]))
        assert result[frame].tolist() == sorted(by_deep[:tokens])


def patches_of(generator: torch.Generator, device: str, frames: int = 2) -> Patches:
    """16 patches behind a class token, with the attention of a layer."""
    hidden, query, key = (
        torch.randn(frames, *shape, generator=generator).to(device) for shape in ((17, 8), (4, 17, 5), (4, 17, 5))
    )
    return Patches(hidden, 1, Probe(query, key, causal=False), key)


def test_scores_are_attention_received_from_all_rows_of_the_two_layers(device: str) -> None:
    generator = torch.Generator().manual_seed(2)
    early, late = patches_of(generator, device), patches_of(generator, device)
    acts = Choosing(HiPrune(tokens=9, alpha=1.0, object_layer=2))
    assert acts.encoder_layer(EncoderLayer(0, 3, late)) is late  # not yet its layer
    assert acts.encoder_layer(EncoderLayer(1, 3, early)) is early
    assert acts.encoder_layer(EncoderLayer(2, 3, late)) is late
    out = acts.encoder_output(EncoderOutput(late))
    received = []
    for each in (early, late):
        assert each.attention is not None
        weight = (each.attention.query_BHNd @ each.attention.key_BGNd.mT * 5**-0.5).softmax(-1)
        received.append(weight.mean(1).mean(1)[:, 1:])  # the class token's row counts, its column does not
    kept = hiprune(received[0], received[1], 9, 1.0)
    assert out.prefix == 0
    for frame in range(2):
        assert torch.equal(out.hidden_FND[frame], late.hidden_FND[frame, 1 + kept[frame]])


def test_every_frame_keeps_its_tokens_and_its_places_in_the_grid(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config), [HiPrune(tokens=20, alpha=0.5, object_layer=2)])
    sequence = lvlm.prepare(run)
    assert run.trace.encoder_tokens == [65] * 4
    assert run.trace.vision_tokens == 6 * 20
    place_V3 = sequence.on_grid()[sequence.vision_BN].cpu()
    reading = (place_V3[:, 0] * 64 + place_V3[:, 1] * 8 + place_V3[:, 2]).tolist()
    assert reading == sorted(set(reading))


@pytest.mark.parametrize(("alpha", "layers"), [(0.5, 2), (0.0, 1)])
def test_whole_maps_of_two_layers_are_formed_or_of_one_without_anchors(alpha: float, layers: int, device: str) -> None:
    lvlm = LVLM.random(device=device)
    setting = HiPrune(tokens=20, alpha=alpha, object_layer=2)
    assert lvlm.run(random_request(lvlm.config), [setting]).trace.probe_entries == layers * 4 * 6 * 65 * 65


def test_with_as_many_tokens_as_patches_nothing_changes(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, [HiPrune(tokens=64, object_layer=2)])
    assert torch.equal(neutral.logits_NC, lvlm.run(request).logits_NC)
    assert neutral.trace.probe_entries == 0


def test_a_layer_that_does_not_run_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(Refusal, match="reads layer 4 of an encoder that runs 3"):
        lvlm.run(random_request(lvlm.config), [HiPrune(tokens=20, alpha=0.5, object_layer=4)])


def test_patches_that_were_merged_before_are_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    acts = Choosing(HiPrune(tokens=5, alpha=1.0, object_layer=1))
    merged = ToMe(r=8).encoder_layer(EncoderLayer(0, 3, patches_of(torch.Generator().manual_seed(1), device)))
    with pytest.raises(Refusal, match="whole square"):
        acts.encoder_output(EncoderOutput(merged))
    with pytest.raises(Refusal, match="without"):
        acts.encoder_output(EncoderOutput(Patches(torch.ones(1, 17, 3, device=lvlm.device), prefix=1)))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tokens": 0}, "tokens must be at least 1"),
        ({"object_layer": 0}, "object_layer must be"),
        ({"alpha": 1.5}, "alpha must lie in"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        HiPrune(**wrong)  # type: ignore[arg-type]
