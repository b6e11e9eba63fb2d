"""Workloads can be looked at as they say."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.rules.rule import Finding, rule
from lvlm_atlas.rules.sample import WORKLOAD
from lvlm_atlas.schema.workload import Video, Workload


@rule(
    id="video-sampling",
    message="{problem}",
    repair="sample at most as often as the file has frames, and for long enough to see one",
    why="The estimate would count frames that the video does not hold.",
    example=lambda files: files[WORKLOAD]["videos"][0].update(sample_fps=60),
)
def video_sampling(inspection: Inspection) -> Iterator[Finding]:
    """Videos of workloads."""
    for path, workload in inspection.of(Workload):
        for index, video in enumerate(workload.videos):
            problem = _problem(video)
            if problem:
                yield Finding(path=path, loc=("videos", index), words={"problem": problem})


def _problem(video: Video) -> str | None:
    if video.sample_fps > video.source_fps:
        return f"{video.sample_fps:g} frames a second are read of {video.source_fps:g}"
    if video.duration_s * video.sample_fps < 1:
        return f"no frame is read in {video.duration_s:g} s at {video.sample_fps:g} frames a second"
    return None
