"""MovieChat's short and long memory."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens, blocks_of, grid_places
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.refusal import StackError
from lvlm_atlas.reference.techniques.encoding.llava_prumerge_plus import LlavaPruMergePlus
from lvlm_atlas.reference.techniques.encoding.moviechat import MovieChat, consolidate, join, remember, weighed


def consolidated(mean_FD: Tensor, keep: int) -> list[list[float]]:
    """The weights of a consolidation of all frames."""
    rows: list[list[float]] = consolidate(torch.eye(len(mean_FD), device=mean_FD.device), mean_FD, keep).tolist()
    return rows


def memory_by_lists(frames: list[Tensor], setting: MovieChat) -> list[Tensor]:
    """The long memory, item by item, from the tokens (N, D) of frames."""
    short: list[Tensor] = []
    long: list[Tensor] = []
    for first in range(0, len(frames), setting.fragment_frames):
        for frame in frames[first : first + setting.fragment_frames]:
            if len(short) == setting.short_memory:
                short.pop(0)
            short.append(frame)
        while len(short) > setting.merged_frames:
            alike = [
                sum(float(a @ b) for a in one for b in two) / (len(one) * len(two)) for one, two in pairwise(short)
            ]
            best = alike.index(max(alike))
            short[best : best + 2] = [(short[best] + short[best + 1]) / 2]
        long += short
        if not setting.carry:
            short = []
    return long[-setting.long_memory :]


def acted(setting: MovieChat, token_FND: Tensor, **known: Tensor) -> VisionTokens:
    """What the technique makes of frames."""
    tokens = VisionTokens(blocks_of(token_FND, known.get("place"), known.get("deepstack")), time_T=known.get("time"))
    return setting.adapter_output(AdapterOutput(tokens))


@pytest.mark.parametrize(
    "setting",
    [
        MovieChat(4, 2, 18, 64),
        MovieChat(4, 2, 18, 64, carry=False),
        MovieChat(5, 1, 3, 64),
        MovieChat(6, 3, 4, 5),
        MovieChat(3, 3, 3, 4, carry=False),
        MovieChat(),
    ],
)
@pytest.mark.parametrize("frames", [1, 2, 4, 7, 23])
def test_memory_is_as_kept_item_by_item(device: str, setting: MovieChat, frames: int) -> None:
    torch.manual_seed(frames)
    x = torch.randn(frames, 3, 5, device=device)
    out = acted(setting, x)
    expected = memory_by_lists([*x], setting)
    assert out.lengths == (3,) * len(expected)
    torch.testing.assert_close(torch.stack([block.token_ND for block in out.blocks]), torch.stack(expected))


def test_similarity_is_the_mean_of_all_products_of_tokens(device: str) -> None:
    # Token by token 0 and 1 are orthogonal, crosswise they are one; 1 and 2 are alike in place, but shorter.
    x = torch.tensor([[[3.0, 0], [0, 3]], [[0, 3], [3, 0]], [[0, 1], [1, 0]]], device=device)
    products = torch.einsum("nd,md->nm", x[0], x[1]).mean(), torch.einsum("nd,md->nm", x[1], x[2]).mean()
    assert products[0] > products[1]
    assert consolidated(x.mean(1), 2) == [[0.5, 0.5, 0], [0, 0, 1]]


def test_length_counts(device: str) -> None:
    # The first pair has the higher cosine, the second the higher product.
    mean = torch.tensor([[1.0, 0], [1, 0], [5, 5]], device=device)
    assert consolidated(mean, 2) == [[1, 0, 0], [0, 0.5, 0.5]]


def test_an_item_counts_as_one_whatever_it_holds(device: str) -> None:
    mean = torch.tensor([[4.0], [3], [2], [1]], device=device)
    # 4 · 3 is most; then 3.5 · 2 exceeds 2 · 1, and its result holds a half of frame 2.
    assert consolidated(mean, 2) == [[0.25, 0.25, 0.5, 0], [0, 0, 0, 1]]
    assert consolidated(mean, 1) == [[0.125, 0.125, 0.25, 0.5]]


def test_of_equal_pairs_the_earlier_is_merged(device: str) -> None:
    assert consolidated(torch.ones(4, 2, device=device), 3) == [[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_only_neighbours_are_merged(device: str) -> None:
    mean = torch.tensor([[1.0, 0], [0, 1], [1, 0.1]], device=device)
    assert consolidated(mean, 2) == [[1, 0, 0], [0, 0.5, 0.5]]


def test_a_pair_gives_way_to_its_mean(device: str) -> None:
    items = torch.tensor([[1.0], [2], [4], [8]], device=device)
    for first, expected in ((0, [1.5, 4, 8]), (1, [1, 3, 8]), (2, [1, 2, 6])):
        assert join(items, torch.tensor(first, device=device))[:, 0].tolist() == expected


def test_the_short_memory_drops_its_oldest_items_only_where_a_fragment_exceeds_it(device: str) -> None:
    mean = torch.randn(32, 4, device=device)
    assert (remember(mean, 16, 2, 18, 64).sum(0) > 0).all()
    dropped = remember(mean, 16, 2, 17, 64)
    assert (dropped[2:, 16:].sum(0) > 0).all()
    gone = remember(mean[:6], 6, 2, 4, 64)
    assert not gone[:, :2].any()
    assert (gone[:, 2:].sum(0) > 0).all()


def test_items_that_are_carried_on_are_merged_again(device: str) -> None:
    mean = torch.ones(4, 1, device=device)
    assert remember(mean, 2, 1, 18, 64, carry=False).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    assert remember(mean, 2, 1, 18, 64).tolist() == [[0.5, 0.5, 0, 0], [0.125, 0.125, 0.25, 0.5]]


def test_the_long_memory_forgets_its_oldest_items(device: str) -> None:
    mean = torch.randn(12, 4, device=device)
    whole = remember(mean, 2, 1, 18, 64)
    assert len(whole) == 6
    assert torch.equal(remember(mean, 2, 1, 18, 4), whole[2:])
    torch.testing.assert_close(whole.sum(1), torch.ones(6, device=device))


def test_times_places_and_added_features_are_averaged_along(device: str) -> None:
    setting = MovieChat(2, 1, 18, 64, carry=False)
    x = torch.randn(3, 4, 5, device=device)
    deepstack = torch.randn(3, 4, 2, 5, device=device)
    place = grid_places(2, 2).expand(3, -1, -1)
    out = acted(setting, x, time=torch.tensor([0.0, 3, 7]), place=place, deepstack=deepstack)
    assert out.time_T is not None
    assert out.time_T.tolist() == [1.5, 7]
    for block, frames in zip(out.blocks, (slice(0, 2), slice(2, 3)), strict=True):
        torch.testing.assert_close(block.token_ND, x[frames].mean(0))
        assert block.deepstack_NLD is not None
        torch.testing.assert_close(block.deepstack_NLD, deepstack[frames].mean(0))
        assert torch.equal(block.place_N2, grid_places(2, 2))


def test_a_token_without_a_place_in_one_frame_has_none_in_the_mean() -> None:
    place = torch.tensor([[[0, 1], [2, 3]], [[0, 1], [-1, -1]]])
    out = acted(MovieChat(2, 1, 18, 64), torch.ones(2, 2, 3), place=place)
    assert out.blocks[0].place_N2 is not None
    assert out.blocks[0].place_N2.tolist() == [[0, 1], [-1, -1]]


def test_whole_numbers_are_rounded() -> None:
    assert weighed(torch.tensor([[0.75, 0.25]]), torch.tensor([1, 2])).tolist() == [1]


def test_frames_of_different_lengths_are_refused(device: str) -> None:
    blocks = Block(torch.ones(2, 3, device=device)), Block(torch.ones(4, 3, device=device))
    with pytest.raises(Refusal, match=r"they hold \[2, 4\] tokens"):
        MovieChat().adapter_output(AdapterOutput(VisionTokens(blocks)))
    lvlm = LVLM.random(device=device)
    with pytest.raises(StackError, match="MovieChat needs `equal-frames`, which nobody finds behind LlavaPruMergePlus"):
        lvlm.run(random_request(lvlm.config), [LlavaPruMergePlus(4), MovieChat()])


@pytest.mark.parametrize(
    ("preset", "frames", "items"),
    [("tiny", 7, 3), ("tiny-window", 7, 2), ("tiny-deepstack", 7, 2), ("tiny-tiles", 4, 2)],
)
def test_the_llm_starts_from_the_items_of_memory(device: str, preset: str, frames: int, items: int) -> None:
    lvlm = LVLM.random(preset, device=device)
    requests = [random_request(lvlm.config, frames=number) for number in (frames, 1)]
    less = lvlm.run(requests[0], [MovieChat(3, 1)]).trace
    one = lvlm.run(requests[1]).trace  # a frame, or a temporal patch that two frames share
    assert less.llm_vision_tokens == [items * tokens for tokens in one.llm_vision_tokens]


def test_a_prompt_with_times_has_none_for_what_is_gone(device: str) -> None:
    lvlm, written = LVLM.random("tiny-deepstack", device=device), []

    def tokenize(text: str) -> list[int]:
        written.append(text)
        return [1, 2, 3]

    request = replace(random_request(lvlm.config, frames=8, text_tokens=16), tokenize=tokenize)
    trace = lvlm.run(request, [MovieChat(2, 1, carry=False)]).trace
    # Temporal patches at 0.25, 1.25, 2.25 and 3.25 seconds, joined by two; beside the time stand a start and an end.
    assert written == ["<0.8 seconds>", "<2.8 seconds>"]
    assert trace.text_tokens == 16 + 2 * (3 + 2)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fragment_frames": 0}, "fragment_frames must be at least 1, got 0"),
        ({"long_memory": 0}, "long_memory must be at least 1, got 0"),
        ({"merged_frames": 9}, "no more than half of a fragment or the short memory, 8"),
        ({"merged_frames": 17, "carry": False}, "no more than a fragment or the short memory, 16"),
        ({"short_memory": 1}, "no more than half of a fragment or the short memory, 1"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MovieChat(**wrong)  # type: ignore[arg-type]
