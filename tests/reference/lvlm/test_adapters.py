"""What may stand in the adapter's place."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Technique


@dataclass(frozen=True)
class Uneven(Technique):
    """Gives frame i, or view i, as many vision tokens as `counts` says, in turn."""

    counts: tuple[int, ...]
    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches",)

    def adapt(self, at: Adapter) -> tuple[Tensor, ...]:
        """(N_i, D) of each."""
        each = zip(at.adapter(at.hidden_FND), self.counts * len(at.hidden_FND), strict=False)
        return tuple(token_ND[:count] for token_ND, count in each)


@dataclass(frozen=True)
class TilesAlone(Technique):
    """Leaves out the views of the whole."""

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches",)

    def adapt(self, at: Adapter) -> Tensor:
        """One token of each tile, (F', 1, D)."""
        views = at.adapter(at.hidden_FND)[:, :1].split([*at.views])
        return torch.cat([view[1:] for view in views])


def test_frames_may_get_different_numbers_of_tokens(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.begin(random_request(lvlm.config, frames=4), [Uneven((5, 0, 64))])
    lvlm.prepare(run)
    assert run.prompt is not None
    assert run.prompt.span_lengths == (5, 0, 64, 5)
    assert run.trace.vision_tokens == 74


def test_views_of_a_tiled_image_follow_each_other_whatever_they_get(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config, frames=2)
    (clip,) = lvlm.dialect.split(request)
    views = clip.tilings[0].views
    run = lvlm.begin(request, [Uneven((3, *[1] * (views - 1)))])
    lvlm.prepare(run)
    assert run.prompt is not None
    assert run.prompt.span_lengths == (views + 2, views + 2)


def test_the_view_of_the_whole_may_be_left_out(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config, frames=2)
    (clip,) = lvlm.dialect.split(request)
    run = lvlm.begin(request, [TilesAlone()])
    lvlm.prepare(run)
    assert run.prompt is not None
    assert run.prompt.span_lengths == tuple(tiling.views - 1 for tiling in clip.tilings)


def test_a_model_whose_positions_follow_a_grid_takes_no_uneven_frames(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    request = random_request(lvlm.config, frames=4)
    (clip,) = lvlm.dialect.split(request)
    run = lvlm.begin(request)
    patches = lvlm.dialect.patches(clip.frames_F3HW.to(device), run.trace, lambda _layer, _layers, patches: patches)
    tokens = lvlm.dialect.adapter(lvlm.dialect.features(patches))
    with pytest.raises(ValueError, match="gives 2, 30 vision tokens where the positions of this model need 5 × 6"):
        lvlm.dialect.vision_tokens((tokens[0], tokens[1, :2]), patches, clip)
