"""What a request is and how it is run: the options that the predicting commands share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from lvlm_atlas.cli.completion import ids_of, stacks, words_of
from lvlm_atlas.cli.option_group import OptionGroup

if TYPE_CHECKING:
    from lvlm_atlas.planner.planner import Planner
    from lvlm_atlas.roofline.deployment import Deployment
    from lvlm_atlas.roofline.workload import Workload

ModelId = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Id or name of a model; `lvlm-atlas models` lists them.", autocompletion=ids_of("model")
    ),
]
HardwareId = Annotated[
    str,
    typer.Option(
        "--hardware",
        "-d",
        help="Id or alias of a device; `lvlm-atlas hardware` lists them.",
        autocompletion=ids_of("device"),
    ),
]
Stack = Annotated[
    list[str] | None,
    typer.Option(
        "--stack", "-s", help="Techniques, such as fastv:keep_ratio=0.5+kivi; repeatable.", autocompletion=stacks
    ),
]


def presets() -> tuple[str, ...]:
    """Names of the presets of efficiency."""
    from lvlm_atlas.roofline.deployment import PRESETS

    return tuple(PRESETS)


class Kernel(StrEnum):
    """How prefill attention treats its scores."""

    fused = "fused"
    materialised = "materialised"


@dataclass(frozen=True)
class RequestOptions(OptionGroup):
    """A workload of the catalog, parts of it replaced."""

    workload: Annotated[
        str,
        typer.Option(
            "--workload",
            "-w",
            help="Id of a workload to start from; `lvlm-atlas workloads` lists them.",
            autocompletion=ids_of("workload"),
        ),
    ] = "single-image-chat"
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image", help="Such as 1280x720, in pixels; in place of the workload's visual input; repeatable."
        ),
    ] = None
    images: Annotated[int | None, typer.Option("--images", help="How many images of each size; 0: text alone.")] = None
    video: Annotated[
        list[str] | None,
        typer.Option(
            "--video", help="Such as 1280x720:60s@2: size, duration, frames a second; in its place; repeatable."
        ),
    ] = None
    frames: Annotated[
        int | None, typer.Option("--frames", help="Frames read of each video, whatever the model's own limits.")
    ] = None
    min_pixels: Annotated[
        int | None, typer.Option("--min-pixels", help="Least pixels of an image or a frame; default: the model's.")
    ] = None
    max_pixels: Annotated[
        int | None,
        typer.Option("--max-pixels", help="Most pixels, as the model's processor takes it, such as 1003520."),
    ] = None
    vision_tokens: Annotated[
        int | None,
        typer.Option("--vision-tokens", help="Scale each image, in its shape, until it becomes about so many."),
    ] = None
    video_by: Annotated[
        str | None, typer.Option("--video-by", help="Whose rule reads videos where a model has several: servers.")
    ] = None
    text: Annotated[int | None, typer.Option("--text", help="Text tokens of the prompt.")] = None
    output: Annotated[int | None, typer.Option("--output", help="Tokens generated.")] = None
    batch: Annotated[int | None, typer.Option("--batch", help="Requests processed together.")] = None
    turns: Annotated[int | None, typer.Option("--turns", help="Questions about the same visual input.")] = None

    def to_workload(self, planner: Planner) -> Workload:
        """The workload that is asked about.

        Raises:
            AtlasError: as of `specs.request.request`.
        """
        return planner.request(
            self.workload, image=self.image or (), images=self.images, video=self.video or (), frames=self.frames,
            text=self.text, output=self.output, batch=self.batch, turns=self.turns, min_pixels=self.min_pixels,
            max_pixels=self.max_pixels, vision_tokens=self.vision_tokens, video_by=self.video_by,
        )  # fmt: skip


@dataclass(frozen=True)
class DeploymentOptions(OptionGroup):
    """How the model is run; an option is named as the field of `Deployment` that it sets."""

    tensor_parallel: Annotated[int, typer.Option("--tp", help="Devices that share each layer.")] = 1
    pipeline_parallel: Annotated[int, typer.Option("--pp", help="Groups of layers, each on devices of its own.")] = 1
    weight_dtype: Annotated[
        str | None,
        typer.Option(
            "--weight-dtype",
            help="Type of all weights, such as fp8; of a checkpoint: awq, int4-g64, llm=int4-g128,head=fp8. "
            "Default: the model's.",
        ),
    ] = None
    activation_dtype: Annotated[
        str | None,
        typer.Option(
            "--activation-dtype",
            help="Type in which products are computed, such as fp8, or fp16-acc16, which sums in FP16. "
            "Default: the model's.",
        ),
    ] = None
    kv_dtype: Annotated[
        str | None,
        typer.Option("--kv-dtype", help="Type of the cache, such as fp8 or int4-g32; default: the activations'."),
    ] = None
    token_budget: Annotated[
        int | None,
        typer.Option(
            "--token-budget", help="Most tokens of a pass over prompts, as servers split them: bounds memory."
        ),
    ] = None
    attention: Annotated[
        Kernel, typer.Option("--attention", help="Whether prefill attention writes its scores out.")
    ] = Kernel.fused
    skip_unused_layers: Annotated[
        bool, typer.Option("--skip-unused-layers", help="Leave out encoder layers behind the features used.")
    ] = False
    efficiency: Annotated[
        str | None,
        typer.Option(
            "--efficiency",
            help="How near to the peaks: ideal (default), survey, or typical: --runtime vllm (default with --slo).",
            autocompletion=words_of(presets),
        ),
    ] = None
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            help="Software whose kernels and host to take, such as vllm; `lvlm-atlas runtimes` lists them.",
            autocompletion=ids_of("runtime"),
        ),
    ] = None
    image_rate: Annotated[
        float | None,
        typer.Option("--image-rate", help="Megapixels of images that the host decodes and resizes a second."),
    ] = None
    video_rate: Annotated[
        float | None, typer.Option("--video-rate", help="Megapixels of frames of video files that it decodes a second.")
    ] = None
    price_usd_h: Annotated[float | None, typer.Option("--price", help="USD for an hour of one device.")] = None

    def to_deployment(self, planner: Planner, *, with_limits: bool = False) -> Deployment:
        """How the model is run, as the engine takes it.

        Args:
            planner: the catalog, which knows the runtimes.
            with_limits: whether limits are to be kept, which is a question about software as it is.

        Raises:
            AtlasError: as of `roofline.deployment.Deployment`.
        """
        from lvlm_atlas.roofline.deployment import Deployment

        values = asdict(self)
        values["unused_layers"] = not values.pop("skip_unused_layers")
        values["attention"] = self.attention.value
        runtime, efficiency = values.pop("runtime"), values.pop("efficiency")
        pace = efficiency or ("typical" if with_limits else None if runtime else "ideal")
        return planner.paced(Deployment(**values), efficiency=pace, runtime=runtime)
