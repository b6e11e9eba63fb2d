"""What the host does for each pass: operators that the device waits for, and the time in which kernels are started."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lvlm_atlas.roofline.layout import WIDE_BYTE, Layout
from lvlm_atlas.roofline.operator import Work
from lvlm_atlas.roofline.runtime import Host
from lvlm_atlas.roofline.state import Encoded, Extra
from lvlm_atlas.roofline.workload import Workload

MEGA = 1e6
IMAGE_RATE, VIDEO_RATE = 15.0, 180.0
"""Megapixels a second that one core decodes and resizes, where nobody says more, as measured on a core of an AMD EPYC:
Pillow 13.0 decodes JPEG at 41 and resizes at 24, one after the other 15; PyAV 18.1 decodes H.264 of 1080p at 183."""
LAYER_KERNELS = 13
"""Kernels of an LLM layer, as `deployment.SURVEY` counts them: what the host's time of a layer is spread over."""


class HostPace:
    """The host's part of the passes of a request; nothing without a runtime.

    Args:
        layout: the model on its devices.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout, self.host = layout, layout.host
        narrow = self.host.narrow_layer_s if layout.weight_byte < WIDE_BYTE else 0.0
        self.llm_s = layout.model.llm.layers * (self.host.layer_s + narrow)
        """Seconds in which the kernels of a pass of the LLM are started."""
        self.prompt_s = self.llm_s + layout.model.llm.layers * self.host.prompt_layer_s
        """The same of a pass that reads a prompt."""
        self.encoder_s = layout.encoder_layers * self.host.encoder_layer_s
        """The same of the encoder."""

    def images(self, encoded: Encoded) -> list[Work]:
        """Decoding, resizing and cutting images on the host."""
        visual, files = encoded.visual, _works("host.files", self.layout.batch * encoded.file_s)
        if not visual.patches:
            return files
        encoder = self.layout.model.encoder
        entering = sum(each.sequences * each.patch for each in visual.patches) * encoder.patch_size**2
        # Frames of a video share patches where the model takes them together; an image is alone in its own.
        shared = visual.frames / sum(each.sequences for each in visual.patches)
        pixels = entering * max(1.0, min(encoder.temporal_patch_size, shared))
        image_s = visual.frames * self.host.image_s + pixels / MEGA * self.host.megapixel_s
        return [*files, *_works("host.images", self.layout.batch * image_s + self._serial_s(self.encoder_s))]

    def prompt(self, token: float) -> list[Work]:
        """Taking a request in, and its passes over a prompt of so many tokens."""
        chunks = self.chunks(token)
        return _works("host.request", self.host.request_s + chunks * (self.host.step_s + self._serial_s(self.prompt_s)))

    def step(self, depth: float = 1.0) -> list[Work]:
        """A pass of decoding, through a share of the layers."""
        return _works("host.step", self.host.step_s + self._serial_s(self.llm_s * depth))

    def steps_of(self, extras: Iterable[Extra]) -> list[Work]:
        """Starting the kernels of steps that follow one another, where the host starts each by itself."""
        each_s = self.host.layer_s / LAYER_KERNELS
        batch = self.layout.batch
        return [
            work
            for extra in extras
            if extra.steps
            for work in _works(f"technique: {extra.technique}", extra.kernels(batch) * each_s)
        ]

    def chunks(self, token: float) -> int:
        """Passes in which so many tokens of prompts are read."""
        most = self.host.chunk_token
        return max(1, math.ceil(token / most)) if most else 1

    def floor_s(self, serial: Sequence[Work], start_s: float) -> float:
        """The least that passes take: what the device waits for, and until the host has started all kernels.

        Args:
            serial: the host's own operators of these passes.
            start_s: the time in which their kernels are started.
        """
        if not self.host.hides or not start_s:
            return 0.0
        return start_s + sum(each.host_s for each in serial)

    def _serial_s(self, start_s: float) -> float:
        return 0.0 if self.host.hides else start_s


def file_s(host: Host, workload: Workload) -> float:
    """Seconds in which the host decodes a request's files, one after the other: images, and all frames of videos."""
    images = sum(each.width * each.height * each.count for each in workload.images)
    videos = sum(each.width * each.height * each.duration_s * each.source_fps for each in workload.videos)
    return images * host.image_pixel_s + videos * host.video_pixel_s


def _works(name: str, host_s: float) -> list[Work]:
    return [Work(name, "host", host_s=host_s)] if host_s else []
