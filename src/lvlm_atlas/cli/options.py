"""Options that commands share, and the atlas they point at."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lvlm_atlas.fault import AtlasError

if TYPE_CHECKING:
    from lvlm_atlas.graph.knowledge import KnowledgeBase
    from lvlm_atlas.schema.technique import Technique

Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        envvar="LVLM_ATLAS_ROOT",
        help="Folder with taxonomy/, catalog/ and papers.bib; default: the one that comes with the package.",
        show_default=False,
    ),
]


class Listing(StrEnum):
    """How a list is printed."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    md = "md"
    ids = "ids"


Format = Annotated[Listing, typer.Option("--format", "-f", help="How to print.")]


class Report(StrEnum):
    """How an estimate is printed."""

    table = "table"
    json = "json"
    csv = "csv"
    md = "md"


ReportFormat = Annotated[Report, typer.Option("--format", "-f", help="How to print; json is a documented contract.")]


class Kernel(StrEnum):
    """How prefill attention treats its scores."""

    fused = "fused"
    materialised = "materialised"


# What a request is and how it is run: shared by the commands that predict.
ModelId = Annotated[str, typer.Option("--model", "-m", help="Id or name of a model; `lvlm-atlas models` lists them.")]
HardwareId = Annotated[
    str, typer.Option("--hardware", "-d", help="Id or alias of a device; `lvlm-atlas hardware` lists them.")
]
WorkloadId = Annotated[
    str, typer.Option("--workload", "-w", help="Id of a workload to start from; `lvlm-atlas workloads` lists them.")
]
ImageSizes = Annotated[
    list[str] | None,
    typer.Option("--image", help="Such as 1280x720, in pixels; in place of the workload's visual input; repeatable."),
]
ImageCount = Annotated[int | None, typer.Option("--images", help="How many images of each size.")]
Videos = Annotated[
    list[str] | None,
    typer.Option("--video", help="Such as 1280x720:60s@2: size, duration, frames a second; in its place; repeatable."),
]
Text = Annotated[int | None, typer.Option("--text", help="Text tokens of the prompt.")]
Output = Annotated[int | None, typer.Option("--output", help="Tokens generated.")]
Batch = Annotated[int | None, typer.Option("--batch", help="Requests processed together.")]
Turns = Annotated[int | None, typer.Option("--turns", help="Questions about the same visual input.")]
Tensor = Annotated[int, typer.Option("--tp", help="Devices that share each layer.")]
Pipeline = Annotated[int, typer.Option("--pp", help="Groups of layers, each on devices of its own.")]
WeightType = Annotated[str | None, typer.Option("--weight-dtype", help="Type of the weights; default: the model's.")]
ActivationType = Annotated[
    str | None, typer.Option("--activation-dtype", help="Type in which products are computed; default: the model's.")
]
CacheType = Annotated[str | None, typer.Option("--kv-dtype", help="Type of the cache; default: the activations'.")]
Attention = Annotated[Kernel, typer.Option("--attention", help="Whether prefill attention writes its scores out.")]
SkipUnused = Annotated[
    bool, typer.Option("--skip-unused-layers", help="Leave out encoder layers behind the features used.")
]
Preset = Annotated[str, typer.Option("--efficiency", help="How near to the peaks: ideal, typical or survey.")]
Price = Annotated[float | None, typer.Option("--price", help="USD for an hour of one device.")]
Stack = Annotated[
    list[str] | None,
    typer.Option("--stack", "-s", help="A technique, such as fastv:keep_ratio=0.5; repeatable."),
]


class Device(StrEnum):
    """Where references run."""

    cpu = "cpu"
    cuda = "cuda"


class Dtype(StrEnum):
    """Type of weights and activations."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def root_of(root: Path | None) -> Path:
    """The folder that a command works on.

    Raises:
        AtlasError: there is no such folder, or no taxonomy in it.
    """
    from lvlm_atlas.atlas.root import data_root

    if root is None:
        return data_root()
    if not (root / "taxonomy").is_dir():
        raise AtlasError(f"--root: {root} holds no taxonomy/; point it at a folder with taxonomy/ and catalog/")
    return root


def opened(root: Path | None) -> KnowledgeBase:
    """The knowledge base that a command works on."""
    from lvlm_atlas import load

    return load(root_of(root))


def named(atlas: KnowledgeBase, id_: str) -> Technique:
    """The technique that is meant; a former id is followed, and that is said on standard error.

    Raises:
        AtlasError: there is none of that id, or it was split.
    """
    technique = atlas.technique(id_)
    if id_ in atlas.atlas.redirects:
        typer.echo(f"{id_} is now {technique.id}", err=True)
    return technique
