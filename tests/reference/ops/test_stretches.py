"""Stretches of frames."""

from itertools import pairwise

from lvlm_atlas.reference.ops.stretches import borders


def test_borders_by_hand() -> None:
    assert borders(32, 4).tolist() == [0, 8, 16, 24, 32]
    assert borders(7, 3).tolist() == [0, 2, 4, 7]
    assert borders(1, 1).tolist() == [0, 1]


def test_a_border_that_floating_point_cuts_short_is_whole() -> None:
    assert borders(119, 49)[21] == 51  # 21 · (119 / 49) is 50.99… there


def test_stretches_cover_the_video_and_differ_by_one_frame_at_most() -> None:
    for frames in range(1, 40):
        for stretches in range(1, frames + 1):
            ends = borders(frames, stretches).tolist()
            lengths = {end - first for first, end in pairwise(ends)}
            assert (ends[0], ends[-1]) == (0, frames)
            assert lengths <= {frames // stretches, -(-frames // stretches)}
