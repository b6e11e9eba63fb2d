"""Answers a prompt with a published checkpoint, with and without a stack of techniques, and prints both beside."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lvlm_atlas.cli.options import Listing
from lvlm_atlas.cli.output import print_rows
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.files import replace_file
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.specs.stack import Choice, parse

if TYPE_CHECKING:
    from lvlm_atlas.reference.lvlm import Result, Trace

NEEDS = "needs transformers; install it with: pip install 'lvlm-atlas[transformers]', in a checkout '.[transformers]'"


def run_checkpoint(
    atlas: KnowledgeBase,
    checkpoint: Path,
    images: Sequence[Path],
    prompt: str,
    specs: Sequence[str],
    *,
    max_new_tokens: int,
    device: str,
    dtype: str | None,
    listing: Listing,
    plot: Path | None = None,
) -> None:
    """Run and print, and draw what was counted into the file `plot`.

    Raises:
        AtlasError: an extra, the GPU or a file is missing, a technique or a value of its parameters is not one, or
            the techniques do not run together or on this model.
    """
    choices = [chosen(atlas, spec) for spec in specs]
    try:
        import torch

        from lvlm_atlas.reference.lvlm import LVLM
        from lvlm_atlas.reference.lvlm.checkpoint import read_config
        from lvlm_atlas.reference.lvlm.processor import Processor
    except ImportError:
        raise AtlasError(f"run: {NEEDS}") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise AtlasError("--device cuda: torch sees no CUDA device here; run on a machine with one, or leave it out")
    stack = [_built(choice, spec) for choice, spec in zip(choices, specs, strict=True)]
    try:
        read_config(checkpoint)
        processor = Processor(checkpoint)  # before the weights, which take longer
        lvlm = LVLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype) if dtype else None, device=device)
        request = processor.request(lvlm, images, prompt, max_new_tokens)
        plain = lvlm.run(request)
        result = lvlm.run(request, stack) if stack else None
        words = [processor.words(each.tokens_N) for each in (plain, result) if each]
    except ImportError:
        raise AtlasError(f"run: {NEEDS}") from None
    except ValueError as error:
        raise AtlasError(f"run: {' '.join(str(error).split())}") from None
    _print(plain, result, words, listing)
    if plot is not None:
        replace_file(plot, _picture(plain, result))


def _picture(plain: Result, result: Result | None) -> str:
    """Tokens and cache by layer, the cache over the answer, and drafted tokens accepted, as an SVG file."""
    from lvlm_atlas.site.counts_svg import Panel, counts, panels_of

    with_, without = (result or plain).trace, plain.trace if result else None
    held = Panel("bytes of the cache, prompt read", "LLM layer", with_.kv_byte, without.kv_byte if without else ())
    panels = [*panels_of(with_, without), held]
    return str(counts(panels, id_="counts", title="What the runs counted", style=True))


def chosen(atlas: KnowledgeBase, spec: str) -> Choice:
    """A technique to run, at a setting.

    Raises:
        AtlasError: no such technique, parameter or value; the technique is only described.
    """
    choice = parse(atlas, spec, outcomes=())
    if choice.technique.reference is None:
        raise AtlasError(
            f"--stack {spec}: {choice.technique.id} is only described, it has no reference to run; leave it out"
        )
    return choice


def _built(choice: Choice, spec: str) -> Any:
    try:
        return pkgutil.resolve_name(str(choice.technique.reference))(**choice.setting)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise AtlasError(f"--stack {spec}: {error}") from None


def _print(plain: Result, result: Result | None, words: Sequence[str], listing: Listing) -> None:
    columns = ("without", "with") if result else ("without",)
    counted = [dict(_counts(each.trace)) for each in (plain, result) if each]
    rows = [{"id": name, **{c: count[name] for c, count in zip(columns, counted, strict=True)}} for name in counted[0]]
    answers = {"id": "answer", **dict(zip(columns, words, strict=True))}
    if listing is Listing.table:
        for column in columns:
            typer.echo(f"{column}: {answers[column]}")
        print_rows(rows, ("id", *columns), listing)
    else:
        print_rows([answers, *rows], ("id", *columns), listing)


def _counts(trace: Trace) -> Iterable[tuple[str, str]]:
    yield "vision tokens", str(trace.vision_tokens)
    yield "text tokens", str(trace.text_tokens)
    yield "tokens per LLM layer", runs(trace.llm_tokens)
    yield "score entries per LLM layer", runs(trace.score_entries)
    yield "scores read by techniques", str(trace.probe_entries)
    yield "KV bytes per LLM layer", runs(trace.kv_byte)
    yield "KV bytes at the end", str(trace.kv_byte_end)
    yield "target passes", str(trace.target_passes)
    yield "output tokens", str(trace.output_tokens)


def runs(numbers: Sequence[int]) -> str:
    """Numbers of layers, equal neighbours together: `400 x 2, 208 x 2`."""
    return ", ".join(f"{number} x {len(list(layers))}" for number, layers in groupby(numbers))
