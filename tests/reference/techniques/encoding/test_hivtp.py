"""HIVTP."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens, blocks_of
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, EncoderLayer, EncoderOutput
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.hivtp import HIVTP, Choosing, hivtp


def rising(side: int, device: str = "cpu") -> Tensor:
    """Scores (1, N) that rise in the order of the image."""
    return torch.arange(1.0, side**2 + 1, device=device)[None]


def places(mask_FN: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in mask_FN]


def test_each_region_keeps_its_best_and_not_the_image(device: str) -> None:
    # 4 · 4 patches in regions of 2 · 2: one of four each, the lower right one. Over the image it would be the last row.
    # Besides, the only window of a region keeps its next best, the lower left one.
    assert places(hivtp(rising(4, device), share=0.25, regions=2)) == [[4, 5, 6, 7, 12, 13, 14, 15]]
    assert places(hivtp(rising(4, device), share=0.25, regions=1)) == [[5, 7, 9, 11, 12, 13, 14, 15]]


def test_a_window_of_which_all_are_important_keeps_nothing_more(device: str) -> None:
    # One region; the upper left window holds the four best, the three others keep one each.
    score = torch.zeros(1, 16, device=device)
    score[0, [0, 1, 4, 5]] = torch.tensor([4.0, 3, 2, 1], device=device)
    score[0, [7, 13, 10]] = 0.5
    assert places(hivtp(score, share=0.25, regions=1)) == [[0, 1, 4, 5, 7, 10, 13]]


def test_every_window_is_represented(device: str) -> None:
    score = torch.rand(3, 576, generator=torch.Generator().manual_seed(0)).to(device)
    kept = hivtp(score)
    cells = kept.reshape(3, 12, 2, 12, 2).transpose(2, 3).flatten(3)
    assert bool(cells.any(dim=3).all())
    regions = kept.reshape(3, 2, 12, 2, 12).transpose(2, 3).flatten(3).sum(3)
    assert bool(((regions >= 36 + 27) & (regions <= 36 + 36)).all())  # 36 important, and one a window that has others


def test_the_number_kept_differs_from_image_to_image(device: str) -> None:
    # Important patches that fill windows leave those windows nothing to add; scattered ones leave every window some.
    packed, scattered = torch.zeros(1, 64, device=device), torch.zeros(1, 64, device=device)
    for region in (0, 4, 32, 36):
        packed[0, [region, region + 1, region + 8, region + 9]] = 1.0
        scattered[0, [region, region + 2, region + 16, region + 18]] = 1.0
    both = hivtp(torch.cat([packed, scattered]), share=0.25, regions=2)
    assert both.sum(1).tolist() == [4 * (4 + 3), 4 * (4 + 4)]


def test_the_share_of_a_region_is_rounded_down(device: str) -> None:
    # Of nine patches int(2.25) = 2 are important, 7 and 8. Windows are cut off at the edges: 0, 1, 3, 4 keep 4; 2 and 5
    # keep 5; of 6 and 7 the former is left; and 8 stands alone.
    assert places(hivtp(rising(3, device), share=0.25, regions=1)) == [[4, 5, 6, 7, 8]]


def test_equal_scores_are_taken_by_place(device: str) -> None:
    assert places(hivtp(torch.ones(1, 16, device=device), share=0.25, regions=2)) == [[0, 1, 2, 3, 8, 9, 10, 11]]


@settings(max_examples=60)
@given(st.data())
def test_the_choice_is_that_of_plain_loops(data: st.DataObject) -> None:
    regions = data.draw(st.integers(1, 3))
    size = data.draw(st.integers(1, 5))
    share = data.draw(st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.9, 1.0]))
    side = regions * size
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    score = torch.rand(2, side, side, generator=generator, dtype=torch.float64)
    result = hivtp(score.flatten(1), share, regions)
    for frame in range(2):
        value, kept = score[frame], set()
        for top in range(0, side, size):
            for left in range(0, side, size):
                cells = [(top + row, left + column) for row in range(size) for column in range(size)]
                best = sorted(cells, key=lambda cell: -value[cell])[: int(size**2 * share)]
                kept.update(best)
                for row in range(top, top + size, 2):
                    for column in range(left, left + size, 2):
                        window = [(row + down, column + right) for down in (0, 1) for right in (0, 1)]
                        free = [cell for cell in window if cell in cells and cell not in best]
                        kept.update(sorted(free, key=lambda cell: -value[cell])[:1])
        assert places(result)[frame] == sorted(row * side + column for row, column in kept)


def patches_of(seed: int, device: str) -> Patches:
    generator = torch.Generator().manual_seed(seed)
    hidden, query, key = (
        torch.randn(2, *shape, generator=generator).to(device) for shape in ((17, 8), (4, 17, 5), (4, 17, 5))
    )
    return Patches(hidden, 1, Probe(query, key, causal=False), key)


def test_scores_are_the_mean_of_the_middle_layers_over_all_rows(device: str) -> None:
    layers = [patches_of(seed, device) for seed in range(4)]
    acts = Choosing(HIVTP(share=0.25, regions=2, first_layer=1, layers=2))
    for layer, patches in enumerate(layers):
        assert acts.encoder_layer(EncoderLayer(layer, 4, patches)) is patches
    received = []
    for each in layers[1:3]:
        assert each.attention is not None
        weight = (each.attention.query_BHNd @ each.attention.key_BGNd.mT * 5**-0.5).softmax(-1)
        received.append(weight.mean(1).mean(1)[:, 1:])  # the class token's row counts, its column does not
    assert acts.score_FN is not None
    torch.testing.assert_close(acts.score_FN, (received[0] + received[1]) / 2)
    out = acts.encoder_output(EncoderOutput(layers[3]))
    kept = places(hivtp(acts.score_FN))
    assert acts.lengths == [len(row) for row in kept]
    for frame, row in enumerate(kept):
        assert torch.equal(out.hidden_FND[frame, : len(row)], layers[3].hidden_FND[frame, 1:][row])


def test_a_second_clip_starts_its_scores_anew(device: str) -> None:
    acts = Choosing(HIVTP(share=0.25, regions=2, first_layer=0, layers=1))
    for seed in (0, 1):
        acts.encoder_layer(EncoderLayer(0, 2, patches_of(seed, device)))
    once = Choosing(acts.setting)
    once.encoder_layer(EncoderLayer(0, 2, patches_of(1, device)))
    assert acts.score_FN is not None
    assert once.score_FN is not None
    assert torch.equal(acts.score_FN, once.score_FN)


def test_frames_have_as_many_tokens_as_they_keep_and_nothing_that_filled_them_up(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config), [HIVTP(share=0.5, regions=1, first_layer=1, layers=2)])
    sequence = lvlm.prepare(run)
    place_V3 = sequence.on_grid()[sequence.vision_BN].cpu()
    reading = (place_V3[:, 0] * 64 + place_V3[:, 1] * 8 + place_V3[:, 2]).tolist()
    assert reading == sorted(set(reading))  # in order, and none twice
    counts = place_V3[:, 0].bincount(minlength=6).tolist()
    assert len(set(counts)) > 1
    assert run.trace.vision_tokens == sum(counts)
    assert all(32 + 8 <= count <= 32 + 16 for count in counts)
    assert run.trace.probe_entries == 2 * 4 * 6 * 65 * 65


def test_keeping_all_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    neutral = lvlm.run(request, [HIVTP(share=1.0)])
    assert torch.equal(neutral.logits_NC, lvlm.run(request).logits_NC)
    assert neutral.trace.probe_entries == 0


def test_layers_that_do_not_run_and_regions_that_do_not_fit_are_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    with pytest.raises(Refusal, match="reads layers up to 4 of an encoder that runs 3"):
        lvlm.run(request, [HIVTP(first_layer=2, layers=2)])
    with pytest.raises(Refusal, match="3 · 3 equal regions, and here are 64"):
        lvlm.run(request, [HIVTP(regions=3, first_layer=1, layers=1)])


def test_what_changes_patches_or_tokens_in_between_is_refused(device: str) -> None:
    acts = Choosing(HIVTP(share=0.5, regions=2, first_layer=1, layers=1))
    acts.encoder_layer(EncoderLayer(1, 3, patches_of(0, device)))
    with pytest.raises(Refusal, match="merged or dropped since"):
        acts.encoder_output(EncoderOutput(Patches(torch.ones(2, 9, 8, device=device), prefix=1)))
    acts.encoder_output(EncoderOutput(patches_of(1, device)))
    acts.lengths = [10, 9]
    with pytest.raises(Refusal, match="HIVTP left 10 tokens of each of 2 frames, and here are 12"):
        acts.adapter_output(AdapterOutput(VisionTokens(blocks_of(torch.ones(2, 6, 4, device=device)))))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"share": 1.5}, "share must lie"),
        ({"regions": 0}, "regions must be"),
        ({"layers": 0}, "layers must be"),
        ({"first_layer": -1}, "first_layer must be"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        HIVTP(**wrong)  # type: ignore[arg-type]
