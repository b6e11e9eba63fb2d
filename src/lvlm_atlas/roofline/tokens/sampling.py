"""How many frames of a video are read."""

from __future__ import annotations

import math

from lvlm_atlas.fault import AtlasError


def sampled_frames(
    duration_s: float, *, sample_fps: float, source_fps: float, min_frames: int, max_frames: int, multiple: int
) -> int:
    """Frames that a processor reads: so many a second, within its limits and what the file holds.

    A family that reads a fixed number of frames has it as both limits.

    Args:
        duration_s: length of the video.
        sample_fps: frames a second to read.
        source_fps: frames a second that the file holds.
        min_frames: least, as long as the file holds so many.
        max_frames: most.
        multiple: the number is rounded down to a multiple of this; Qwen's temporal patches take frames in pairs.

    Raises:
        AtlasError: a duration or rate is not positive and finite, or the video holds fewer than `multiple` frames.

    Source: `smart_nframes` of qwen-vl-utils 0.0.14.
    """
    given = {"duration_s": duration_s, "sample_fps": sample_fps, "source_fps": source_fps}
    for name, value in given.items():
        if not (math.isfinite(value) and value > 0):
            raise AtlasError(f"video with {name} {value}: it must be finite and more than 0; give seconds or frames/s")
    total = round(duration_s * source_fps)  # a file of n frames lasts n / fps, which floats miss from both sides
    if total < multiple:
        raise AtlasError(
            f"video of {duration_s:g} s at {source_fps:g} frames/s: it holds {total} frame(s), {multiple} is the least "
            "that the model takes; give a longer one, or its frame as an image"
        )
    least = math.ceil(min_frames / multiple) * multiple
    most = min(max_frames, total) // multiple * multiple
    wanted = total / source_fps * sample_fps
    return math.floor(min(max(wanted, least), most) / multiple) * multiple
