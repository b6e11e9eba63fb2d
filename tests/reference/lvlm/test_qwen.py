"""The Qwen2.5-VL dialect by hand: its windows, and the times of a video in its positions."""

from __future__ import annotations

import torch

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.lvlm import LVLM, Technique, random_request
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.lvlm.windows import coordinates, windows_of

TINY = PRESETS["tiny-window"]


def test_windows_are_cut_from_the_top_left_and_hold_every_patch_once() -> None:
    place_N2 = coordinates(6, 10, TINY.vision, torch.device("cpu"))
    windows = windows_of(place_N2, TINY.vision)  # 16 pixels are 4 patches
    assert sorted(torch.cat([group.flatten() for group in windows.groups]).tolist()) == list(range(60))
    sizes = {(int(r) // 4, int(c) // 4): 0 for r, c in place_N2}
    for r, c in place_N2.tolist():
        sizes[r // 4, c // 4] += 1
    assert sorted(len(w) for group in windows.groups for w in group) == sorted(sizes.values()) == [4, 8, 8, 8, 16, 16]
    for group in windows.groups:
        for window in group:
            assert len({(int(r) // 4, int(c) // 4) for r, c in place_N2[window]}) == 1


def test_a_probe_of_a_window_layer_gives_its_windows_and_counts_them(device: str) -> None:
    q, k = torch.randn(1, 2, 6, 8, device=device), torch.randn(1, 2, 6, 8, device=device)
    told: list[int] = []
    window_N = torch.tensor([0, 0, 1, 1, 1, 0], device=device)
    rows = Probe(q, k, causal=False, window_N=window_N, on_read=told.append).rows()
    inside = torch.tensor([2, 3, 4], device=device)
    alone = Probe(q[:, :, inside], k[:, :, inside], causal=False).rows()
    torch.testing.assert_close(rows[:, :, inside][..., inside], alone)
    assert not rows[:, :, inside][..., [0, 1, 5]].any()
    assert told == [2 * 18]


def test_dropped_frames_keep_the_times_of_the_others(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)

    class Some(Technique):
        acts_at = ("frames",)

        def select_frames(self, at) -> torch.Tensor:
            return torch.tensor([0, 1, 4, 5])

    request = random_request(lvlm.config, frames=6)
    with torch.inference_mode():
        sequence = lvlm.prepare(lvlm.begin(request, [Some()]))
    time_N = sequence.position_BN[0, sequence.vision_BN[0], 0]
    assert (time_N - time_N[0]).unique().tolist() == [0, 4]
