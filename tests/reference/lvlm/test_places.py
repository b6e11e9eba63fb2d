"""Frame, row and column of each vision token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Patches, Sequence
from lvlm_atlas.reference.lvlm import LVLM, Refusal, Request, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import Adapter, Attention, EncoderOutput, LlmLayer
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.techniques.encoding.tome import ToMe
from lvlm_atlas.reference.techniques.encoding.visionzip import VisionZip

PRESETS = ("tiny", "tiny-window", "tiny-deepstack")


@pytest.fixture(scope="module", params=PRESETS)
def lvlm(request: pytest.FixtureRequest, device: str) -> LVLM:
    return LVLM.random(request.param, device=device)


def prepared(lvlm: LVLM, request: Request, *stack: Technique) -> Sequence:
    with torch.inference_mode():
        return lvlm.prepare(lvlm.begin(request, stack))


def stills(lvlm: LVLM, frames: int) -> Request:
    request = random_request(lvlm.config, frames=frames)
    prompt_N = torch.where(request.prompt_N == request.image_token_id, lvlm.config.image_token_id, request.prompt_N)
    return replace(request, prompt_N=prompt_N, image_token_id=lvlm.config.image_token_id)


@pytest.mark.parametrize("still", [False, True], ids=["video", "stills"])
def test_each_vision_token_has_its_frame_row_and_column(lvlm: LVLM, still: bool) -> None:
    request = stills(lvlm, 4) if still else random_request(lvlm.config, frames=4)
    sequence = prepared(lvlm, request)
    llava = lvlm.config.frames_a_patch == 1
    units, rows, columns = (4, 8, 8) if llava else (4 if still else 2, 5, 6)
    by_hand = [[unit, row, column] for unit in range(units) for row in range(rows) for column in range(columns)]
    place_BN3 = sequence.on_grid()
    assert place_BN3[sequence.vision_BN].tolist() == by_hand
    assert set(place_BN3[~sequence.vision_BN].flatten().tolist()) == {-1}


def test_rows_and_columns_are_those_of_the_rotary_positions(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    sequence = prepared(lvlm, stills(lvlm, 3))
    vision = sequence.vision_BN
    for frame in range(3):
        here = sequence.on_grid()[vision][:, 0] == frame
        position = sequence.position_BN[vision][here]
        assert (position[:, 1:] - position[0, 1:]).tolist() == sequence.on_grid()[vision][here][:, 1:].tolist()


def test_a_place_is_where_the_pixels_are(device: str) -> None:
    lvlm = LVLM.random(device=device)
    embeddings = lvlm.dialect.vision_tower.vision_model.embeddings
    frames = torch.zeros(1, 3, 56, 56, device=device)
    frames[0, :, 2 * 7 : 3 * 7, 5 * 7 : 6 * 7] = 1
    with torch.inference_mode():
        changed_N = (embeddings(frames) - embeddings(torch.zeros_like(frames)))[0].abs().sum(-1) > 0
    assert embeddings.places(lvlm.device)[changed_N].tolist() == [[2, 5]]


def test_in_the_tower_each_patch_has_its_own(lvlm: LVLM) -> None:
    found: list[Patches] = []

    @dataclass(frozen=True)
    class Watch(Technique):
        acts_at: ClassVar = ("encoder-output",)

        def encoder_output(self, at: EncoderOutput) -> Patches:
            found.append(at.patches)
            return at.patches

    prepared(lvlm, random_request(lvlm.config, frames=2), Watch())
    patches, llava = found[0], lvlm.config.frames_a_patch == 1
    rows, columns = (8, 8) if llava else (10, 12)
    for place_N2 in patches.place_FN2.tolist():
        assert sorted(place_N2[patches.prefix :]) == [[r, c] for r in range(rows) for c in range(columns)]
        assert place_N2[: patches.prefix] == [[-1, -1]] * patches.prefix
    if not llava:  # squares of merged patches stand together
        assert patches.place_FN2[0, :4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_places_stay_with_the_tokens_that_are_kept_down_to_attention(lvlm: LVLM) -> None:
    found: list[Sequence] = []

    @dataclass(frozen=True)
    class Thin(Technique):
        acts_at: ClassVar = ("llm-layer", "attention")

        def llm_layer(self, at: LlmLayer) -> Sequence:
            sequence = at.sequence
            if at.layer != 1:
                return sequence
            rank_V = torch.arange(0, int(sequence.vision_BN.sum()), 7, device=sequence.hidden_BND.device)
            return sequence.keep_vision(rank_V[None]).renumber()

        def choose_blocks(self, at: Attention) -> None:
            found.append(at.sequence)

    request = random_request(lvlm.config, frames=3, max_new_tokens=1)
    run = lvlm.begin(request, [Thin()])
    with torch.inference_mode():
        inputs = lvlm.prepare(run)
        prefill = lvlm.prefill(inputs, run)
    for sequence in found:
        assert torch.equal(sequence.on_grid(), take(inputs.on_grid(), sequence.index_BN))
    assert found[-1].on_grid().shape[1] < found[0].on_grid().shape[1]
    held = prefill.cache.held(-1)  # a cached entry finds its place through its index into the prompt
    assert torch.equal(run.prompt.place_BN3.to(lvlm.device)[0][held.index_BGS[0, 0]], found[-1].on_grid()[0])


@dataclass(frozen=True)
class MeanAdapter(Technique):
    """Makes four tokens of each frame."""

    acts_at: ClassVar = ("adapter",)

    def adapt(self, at: Adapter) -> Tensor:
        return at.adapter(at.hidden_FND)[:, :4]


@pytest.mark.parametrize(
    "technique", [ToMe(r=4), VisionZip(6, 3), MeanAdapter()], ids=["merged", "summed up", "other adapter"]
)
def test_merged_patches_and_other_adapters_leave_no_grid_and_say_so(device: str, technique: Any) -> None:
    lvlm = LVLM.random(device=device)
    sequence = prepared(lvlm, random_request(lvlm.config, frames=2), technique)
    with pytest.raises(Refusal, match="no grid of rows and columns"):
        sequence.on_grid()
    assert prepared(lvlm, random_request(lvlm.config, frames=2), ToMe(r=0)).place_BN3 is not None


def test_frames_that_techniques_drop_are_not_counted(device: str) -> None:
    lvlm = LVLM.random(device=device)

    @dataclass(frozen=True)
    class Last(Technique):
        index: list[int] = field(default_factory=lambda: [1, 4])
        acts_at: ClassVar = ("frames",)

        def select_frames(self, at: Any) -> Tensor:
            return torch.tensor(self.index)

    sequence = prepared(lvlm, random_request(lvlm.config, frames=6), Last())
    assert sequence.on_grid()[sequence.vision_BN][:, 0].unique().tolist() == [0, 1]


def test_kept_patches_take_all_that_is_theirs_along(device: str) -> None:
    torch.manual_seed(0)
    key = torch.randn(2, 3, 5, 4, device=device)
    place = torch.arange(20, device=device).reshape(2, 5, 2)
    patches = Patches(
        torch.randn(2, 5, 6, device=device), 1, Probe(key, key, causal=False), key, torch.rand(2, 5, device=device),
        place_FN2=place,
    )  # fmt: skip
    index = torch.tensor([[0, 2, 4], [0, 1, 3]], device=device)
    kept = patches.keep(index)
    for frame in range(2):
        at = index[frame]
        assert torch.equal(kept.hidden_FND[frame], patches.hidden_FND[frame, at])
        assert torch.equal(kept.key_FHNd[frame], key[frame, :, at])
        assert torch.equal(kept.size_FN[frame], patches.size_FN[frame, at])
        assert torch.equal(kept.place_FN2[frame], place[frame, at])
        assert torch.equal(kept.attention.rows()[frame], patches.attention.rows()[frame][..., at])
