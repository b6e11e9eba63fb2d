"""STTM."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import Adapter, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.techniques.prefilling.sttm import (
    STTM,
    earliest,
    grids,
    links,
    merged,
    pooled,
    pyramid,
    quadtree,
    sttm,
)


def video(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def left_of(x_THWD: Tensor, into_V: Tensor, share_V: Tensor) -> dict[int, Tensor]:
    """The merged tokens, by the place of their first token."""
    x_VD = x_THWD.flatten(0, 2)
    return {place: (x_VD * share_V[:, None])[into_V == place].sum(0) for place in into_V.unique().tolist()}


def test_along_an_odd_side_the_first_cell_is_alone(device: str) -> None:
    x = torch.arange(15.0, device=device).reshape(1, 3, 5)
    assert pooled(x).tolist() == [[[0, 1.5, 3.5], [7.5, 9, 11]]]
    assert pooled(torch.arange(8.0, device=device).reshape(1, 2, 4)).tolist() == [[[2.5, 4.5]]]


@pytest.mark.parametrize(
    ("rows", "columns", "sides"),
    [
        (14, 14, [(14, 14), (7, 7), (4, 4), (2, 2)]),
        (3, 9, [(3, 9), (2, 5)]),  # one side of two is enough
        (2, 7, [(2, 7)]),
        (1, 5, [(1, 5), (1, 3), (1, 2)]),
        (1, 1, [(1, 1)]),
    ],
)
def test_sides_are_halved_and_rounded_up_until_one_is_two(
    device: str, rows: int, columns: int, sides: list[tuple[int, int]]
) -> None:
    x = video(1, rows, columns, 2, device=device)
    for root_level in range(len(sides) + 1):
        levels = pyramid(x, root_level)
        assert [tuple(level.x_ThwD.shape[1:3]) for level in levels] == sides[: max(1, len(sides) - root_level)]


def test_a_plain_frame_is_its_roots_and_a_busy_one_its_tokens(device: str) -> None:
    plain = torch.ones(1, 14, 14, 3, device=device)
    for root_level, roots in enumerate((4, 16, 49, 196)):
        assert len(sttm(plain, 0.9, 0.0, root_level)[0].unique()) == roots
    busy = video(1, 16, 16, 64, device=device)
    assert sttm(busy, 0.95, 0.0, 0)[0].tolist() == [*range(256)]
    assert len(sttm(busy, -1.0, 0.0, 0)[0].unique()) == 4


def test_a_cell_with_one_child_never_splits(device: str) -> None:
    into, _ = sttm(
        video(1, 14, 14, 64, device=device), 0.95, 0.0, 0
    )  # 14 → 7 → 4: the corner of 4 × 4 is that of 7 × 7
    assert (into != torch.arange(196, device=device)).nonzero()[:, 0].tolist() == [1, 14, 15]
    assert into[[1, 14, 15]].tolist() == [0, 0, 0]


def test_one_child_that_differs_splits_a_cell(device: str) -> None:
    x = torch.tensor([1.0, 0.0], device=device).expand(1, 4, 4, 2).clone()
    x[0, 0, 1] = torch.tensor([0.0, 1.0])  # mean (3/4, 1/4): cosines 0.949 three times, and 0.316
    into, _ = sttm(x, 0.5, 0.0, 0)
    assert into.reshape(4, 4).tolist() == [[0, 1, 2, 2], [4, 5, 2, 2], [8, 8, 10, 10], [8, 8, 10, 10]]
    assert len(sttm(x, 0.3, 0.0, 0)[0].unique()) == 4


def test_a_child_at_the_threshold_is_like_its_mean(device: str) -> None:
    x = torch.zeros(1, 4, 4, 2, device=device)
    x[..., 0] = 1
    assert len(sttm(x, 1.0, 0.0, 0)[0].unique()) == 4


def test_a_node_is_a_mean_of_means(device: str) -> None:
    x = torch.ones(1, 7, 7, 1, device=device)  # 7 → 4 → 2: the first root's children have 1, 2, 2 and 4 tokens
    x[0, 0, 0] = 9.0
    into, share = sttm(x, 0.5, 0.0, 0)
    assert {place: float(mean) for place, mean in left_of(x, into, share).items()} == {0: 3.0, 3: 1.0, 21: 1.0, 24: 1.0}


def around(boxes: list[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """The box around boxes."""
    top, left, bottom, right = zip(*boxes, strict=True)
    return min(top), min(left), max(bottom), max(right)


def recursion(x_HWD: Tensor, spatial: float, root_level: int) -> dict[tuple[int, int, int, int], Tensor]:
    """Nodes of a frame, by corner and end, cell by cell."""
    rows, columns = x_HWD.shape[:2]
    cells: dict[tuple[int, int], Any] = {
        (y, x): (x_HWD[y, x], (y, x, y + 1, x + 1), []) for y, x in product(range(rows), range(columns))
    }
    levels = [cells]
    while 2 not in (rows, columns) and (rows, columns) != (1, 1):
        children: dict[tuple[int, int], list[Any]] = {}
        for (y, x), cell in cells.items():
            children.setdefault(((y + rows % 2) // 2, (x + columns % 2) // 2), []).append(cell)
        cells = {
            at: (torch.stack([each[0] for each in below]).mean(0), around([each[1] for each in below]), below)
            for at, below in children.items()
        }
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
        levels.append(cells)
    nodes = {}

    def visit(cell: Any) -> None:
        mean, box, below = cell
        if all(float(functional.cosine_similarity(mean, each[0], dim=0)) >= spatial for each in below):
            nodes[box] = mean
        else:
            for each in below:
                visit(each)

    for cell in levels[max(0, len(levels) - 1 - root_level)].values():
        visit(cell)
    return nodes


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (5, 7), (7, 6), (1, 6), (3, 3), (9, 4)])
def test_the_tree_is_that_of_a_recursion(device: str, rows: int, columns: int) -> None:
    x = video(2, rows, columns, 3, seed=rows, device=device)
    for spatial, root_level in product((-0.2, 0.4, 0.7), (0, 1)):
        tree = quadtree(x, spatial, root_level)
        for frame in range(2):
            box_V4 = torch.cat([tree.corner_THW2, tree.end_THW2], dim=-1)[frame].flatten(0, 1)
            nodes = recursion(x[frame], spatial, root_level)
            assert {*map(tuple, box_V4.tolist())} == {*nodes}
            for box, mean in nodes.items():
                inside_HW = (tree.corner_THW2[frame] == torch.tensor(box[:2], device=x.device)).all(-1)
                assert int(inside_HW.sum()) == (box[2] - box[0]) * (box[3] - box[1])  # boxes tile the frame
                got = (x[frame] * tree.share_THW[frame][..., None])[inside_HW].sum(0)
                torch.testing.assert_close(got, mean, atol=1e-5, rtol=1e-5)


def test_nodes_are_linked_either_way_round(device: str) -> None:
    x = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0.1], [0, 1]], device=device)
    whole, left, right = [0, 0, 2, 2], [0, 0, 2, 1], [0, 1, 2, 2]
    box = torch.tensor([whole, left, right, whole, right], device=device)  # of frames of 1, 2, 1 and 1 nodes
    assert links(x, box, [1, 2, 1, 1], 0.9) == [(0, 1), (1, 3)]
    assert links(x, box, [1, 2, 1, 1], 0.0) == [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)]


def test_boxes_that_only_touch_are_not_linked(device: str) -> None:
    x = torch.ones(2, 2, device=device)
    box = torch.tensor([[0, 0, 2, 1], [0, 1, 2, 2]], device=device)
    assert links(x, box, [1, 1], 0.5) == []
    assert links(x, torch.tensor([[0, 0, 1, 2], [0, 0, 2, 1]], device=device), [1, 1], 0.5) == []  # they overlap


def test_chains_are_followed_to_their_end() -> None:
    assert earliest(6, [(0, 2), (2, 4), (1, 3), (3, 4)]) == [0, 0, 0, 0, 0, 5]  # two nodes meet in a later one
    assert earliest(5, [(3, 4), (2, 3), (1, 2), (0, 1)]) == [0] * 5
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        pairs = [(a, b) for a, b in torch.randint(0, 14, (9, 2), generator=generator).tolist() if a != b]
        reach = torch.eye(14)
        for a, b in pairs:
            reach[a, b] = reach[b, a] = 1
        first = torch.linalg.matrix_power(reach, 14).gt(0).int().argmax(dim=1)
        assert earliest(14, pairs) == first.tolist()


def test_a_still_video_is_its_first_frame(device: str) -> None:
    x = video(1, 8, 8, 64, device=device)
    into, share = sttm(x.expand(4, -1, -1, -1), 0.95, 0.95, 0)
    assert into.tolist() == [*range(64)] * 4
    torch.testing.assert_close(share, torch.full_like(share, 1 / 4))


def test_frames_are_linked_with_their_neighbours_alone(device: str) -> None:
    x = torch.eye(2, device=device)[[0, 1, 0]][:, None, None].expand(3, 2, 2, 2)  # the third is like the first
    assert sttm(x, 0.9, 0.5, 0)[0].tolist() == [*range(12)]


def test_nodes_of_a_chain_count_alike_whatever_their_size(device: str) -> None:
    x = torch.ones(2, 4, 4, 2, device=device)
    x[0, :2, :2] = torch.tensor([1.0, 0.0])  # the first frame's node
    x[1, :2, :2] = torch.tensor([[[1.0, 0.4], [1.0, -0.4]], [[1.0, -0.4], [1.0, 0.4]]])  # split, each like it
    into, share = sttm(x, 0.95, 0.9, 0)
    assert [int(into[16 + place]) for place in (0, 1, 4, 5)] == [0] * 4
    assert share[[0, 1, 4, 5]].tolist() == pytest.approx([1 / 20] * 4)
    assert share[[16, 17, 20, 21]].tolist() == pytest.approx([1 / 5] * 4)


def test_nodes_are_named_by_their_first_token(device: str) -> None:
    x = torch.ones(1, 4, 4, 2, device=device)
    x[0, :2, 2:] = torch.tensor([[[1.0, 0], [0, 1]], [[0, 1], [1, 0]]])
    into, _ = sttm(x, 0.9, 0.0, 0)
    assert into.unique().tolist() == [0, 2, 3, 6, 7, 8, 10]  # in reading order, large and small ones mixed


def prompt(x_VD: Tensor, axes: int = 1) -> Sequence:
    """Two words before the vision tokens, and one behind."""
    device, width, tokens = x_VD.device, x_VD.shape[1], len(x_VD) + 3
    words = torch.full((3, width), 7.0, device=device)
    vision = torch.zeros(1, tokens, dtype=torch.bool, device=device)
    vision[:, 2:-1] = True
    place = torch.arange(tokens, device=device)[None]
    position = place if axes == 1 else place[..., None].expand(-1, -1, axes)
    return Sequence(torch.cat([words[:2], x_VD, words[2:]])[None], position, vision, place)


@pytest.mark.parametrize("axes", [1, 3])
def test_on_one_axis_positions_close_up_and_on_several_they_stay(device: str, axes: int) -> None:
    into = torch.tensor([0, 1, 0, 3, 1], device=device)
    share = torch.tensor([0.25, 0.5, 0.75, 1.0, 0.5], device=device)
    x_VD = torch.tensor([[0.0], [2], [4], [6], [8]], device=device)
    out = merged(prompt(x_VD, axes), into, share)
    assert out.hidden_BND[0, :, 0].tolist() == [7, 7, 3, 5, 6, 7]
    assert out.index_BN[0].tolist() == [0, 1, 2, 3, 5, 7]
    assert out.vision_BN[0].tolist() == [False, False, True, True, True, False]
    position = out.position_BN[0].reshape(6, -1)[:, 0].tolist()
    assert position == ([0, 1, 2, 3, 4, 5] if axes == 1 else [0, 1, 2, 3, 5, 7])
    assert out.next_position.tolist() == [8]


def test_each_frame_has_its_grid_and_must_be_whole() -> None:
    def frame(number: int, rows: int, columns: int) -> list[list[int]]:
        return [[number, row, column] for row, column in product(range(rows), range(columns))]

    places = frame(0, 2, 3) + frame(1, 2, 3) + frame(2, 3, 2) + frame(5, 2, 3)
    assert grids(places) == [(2, 3), (2, 3), (3, 2), (2, 3)]
    with pytest.raises(Refusal, match="whole frames, got 5 tokens on a grid of 2 × 3"):
        grids(places[:4] + places[5:])


@pytest.mark.parametrize("axes", [1, 3])
def test_frames_of_one_grid_that_follow_each_other_are_merged_together(device: str, axes: int) -> None:
    lvlm = LVLM.random(device=device)
    x_VD = torch.ones(12 + 4 + 4, 2, device=device)
    sides = [(2, 3), (2, 3), (2, 2), (2, 2)]
    places = [[frame, *spot] for frame, (h, w) in enumerate(sides) for spot in product(range(h), range(w))]
    sequence = prompt(x_VD, axes)
    text = torch.full((1, 3), -1, device=device)
    place_BN3 = torch.cat([text, text, torch.tensor(places, device=device), text])[None]
    acting = STTM(layer=1, root_level=8).begin(lvlm.begin(random_request(lvlm.config, frames=1)))
    out = acting.llm_layer(LlmLayer(1, 4, replace(sequence, place_BN3=place_BN3)))
    assert out.index_BN[0].tolist() == [0, 1, *range(2, 8), *range(14, 18), 22]


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_merging_acts_from_its_layer_on(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=2)
    whole = lvlm.run(request).trace.llm_vision_tokens
    got = lvlm.run(request, [STTM(layer=2, spatial=0.0, temporal=0.3)]).trace.llm_vision_tokens
    assert got[:2] == whole[:2]
    assert got[2] < whole[2]
    assert len({*got[2:]}) == 1


@pytest.mark.parametrize("preset", ["tiny", "tiny-window"])
def test_trees_that_begin_at_the_tokens_and_no_links_change_nothing(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=3, max_new_tokens=3)
    setting = STTM(layer=1, spatial=-1.0, temporal=0.0, root_level=8)
    assert torch.equal(lvlm.run(request).logits_NC, lvlm.run(request, [setting]).logits_NC)


def test_tiled_images_stay_as_they_are(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=2)
    got = lvlm.run(request, [STTM(layer=1, spatial=-1.0, temporal=0.1)])
    assert torch.equal(lvlm.run(request).logits_NC, got.logits_NC)


def test_tokens_of_an_adapter_without_places_are_a_square_a_frame(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=1)
    alone, adapted = (
        lvlm.run(request, [*adapter, STTM(layer=1, spatial=-1.0, temporal=0.0)]) for adapter in ([], [Own()])
    )
    assert alone.trace.llm_vision_tokens == adapted.trace.llm_vision_tokens == [128, *[32] * 3]
    assert torch.equal(alone.logits_NC, adapted.logits_NC)


class Own(Technique):
    """The model's own adapter, at `adapter`."""

    acts_at = ("adapter",)

    def adapt(self, at: Adapter) -> Tensor:
        return at.adapter(at.hidden_FND)


def test_what_does_not_fit_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(Refusal, match=r"1\.\.3 for an LLM of 4 layers, got 4"):
        lvlm.run(random_request(lvlm.config, frames=1), [STTM(layer=4)])
    for wrong in ({"layer": 0}, {"spatial": 1.1}, {"temporal": -0.1}, {"root_level": 9}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            STTM(**wrong)  # type: ignore[arg-type]
