"""Traces: who asked what and when, from files of the formats that benchmarks publish.

A line of a JSON-lines file is a request: `at_s`, `text` and `output` tokens, and, if it has them, `images` (sizes such
as `"1280x720"`, or objects with `size` and a `content` that tells equal images), `videos`, and `prefix`, the stretches
of text in front of the images that other requests may share (`content` and `tokens`). Mooncake's lines (`timestamp` in
ms, `input_length`, `output_length`, `hash_ids` of blocks of 512 tokens) and the CSV files of Azure's traces
(`TIMESTAMP`, `ContextTokens`, `GeneratedTokens`, `NumImages`) are read too; these say how many images there were, not
how large.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.limits import REQUEST
from lvlm_atlas.roofline.workload import Image, Workload
from lvlm_atlas.serving.traffic import Arrival, ordered
from lvlm_atlas.specs.request import image, video

BLOCK_TOKEN = 512
"""Tokens that an id of Mooncake's traces stands for."""
OWN = ("at_s", "text", "output", "images", "videos", "prefix")
"""Keys of a line of our own."""
MOST_LINE = 1 << 20
"""Characters of a line, at most."""


def read(path: Path, *, image_size: str = "1280x720") -> list[Arrival]:
    """The requests of a trace by their time of arrival, the first at 0.

    Args:
        path: the file: JSON lines, or CSV.
        image_size: size of images of which the trace does not say it.

    Raises:
        AtlasError: the file is none of the formats, or a line is no request; it says which.
    """
    size = image(image_size)
    csv_file = path.suffix == ".csv"
    try:
        with path.open(encoding="utf-8", newline="" if csv_file else None) as file:
            found = [*(_csv(path, file, size) if csv_file else _lines(path, file, size))]
    except UnicodeDecodeError:
        raise AtlasError(f"{path}: is no text in UTF-8; unpack it, if it is packed") from None
    if not found:
        raise AtlasError(f"{path}: holds no request; give a file with a line for each")
    return ordered(found)


def _lines(path: Path, file: Any, size: Image) -> Iterator[Arrival]:
    for number, line in enumerate(iter(lambda: file.readline(MOST_LINE), ""), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise AtlasError(f"{path}:{number}: is no JSON ({error}); write an object on each line") from None
            yield _told(path, number, partial(_request, row, size))


def _csv(path: Path, file: Any, size: Image) -> Iterator[Arrival]:
    rows = csv.DictReader(file)
    needed = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}
    if missing := needed - {*(rows.fieldnames or ())}:
        raise AtlasError(
            f"{path}:1: has no column {', '.join(sorted(missing))}; give a CSV with {', '.join(sorted(needed))}"
        )
    for row in rows:
        yield _told(path, rows.line_num, partial(_azure, row, size))


def _told(path: Path, number: int, make: Callable[[], Arrival]) -> Arrival:
    """A request, or what is wrong with its line."""
    try:
        return make()
    except AtlasError as error:
        raise AtlasError(f"{path}:{number}: {error}") from None


def _request(row: Any, size: Image) -> Arrival:
    if not isinstance(row, dict):
        raise AtlasError(f"is {row!r}; write an object")
    if "input_length" in row:
        return _mooncake(row, size)
    if unknown := [key for key in row if key not in OWN]:
        raise AtlasError(f"has an unknown key {unknown[0]!r}; use {', '.join(OWN)}")
    images, names = [], []
    for each in _list(row, "images"):
        told = each if isinstance(each, dict) else {"size": each}
        images.append(image(_text(told, "size")))
        names.append(str(told.get("content", "")))
    videos = tuple(video(str(each)) for each in _list(row, "videos"))
    prefix = tuple((_text(each, "content"), _number(each, "tokens", 1)) for each in _list(row, "prefix"))
    text = _number(row, "text", 0)
    if sum(tokens for _, tokens in prefix) > text:
        raise AtlasError(f"has a prefix longer than its text of {text} tokens; count the prefix in")
    workload = Workload(
        id="trace", images=tuple(images), videos=videos, text_tokens=text, output_tokens=_number(row, "output", 1)
    )
    contents = (*names, *("" for _ in videos)) if any(names) else ()
    return _arrival(_time(row, "at_s"), workload, contents, prefix)


def _mooncake(row: Mapping[str, Any], size: Image) -> Arrival:
    text, count = _number(row, "input_length", 1), _number(row, "images", 0) if "images" in row else 0
    whole = [str(each) for each in _list(row, "hash_ids")][: text // BLOCK_TOKEN]
    workload = Workload(
        id="trace", images=(replace(size, count=count),) if count else (), text_tokens=text,
        output_tokens=max(1, _number(row, "output_length", 0)),
    )  # fmt: skip
    return _arrival(_time(row, "timestamp") / 1000, workload, (), tuple((each, BLOCK_TOKEN) for each in whole))


def _azure(row: Mapping[str, Any], size: Image) -> Arrival:
    try:
        at_s = datetime.fromisoformat(row["TIMESTAMP"].strip()).timestamp()
    except ValueError:
        at_s = _time({"TIMESTAMP": _float(row["TIMESTAMP"])}, "TIMESTAMP")
    numbers = {key: _float(row.get(key)) for key in ("ContextTokens", "GeneratedTokens", "NumImages") if row.get(key)}
    count = _number(numbers, "NumImages", 0) if "NumImages" in numbers else 0
    workload = Workload(
        id="trace", images=(replace(size, count=count),) if count else (),
        text_tokens=_number(numbers, "ContextTokens", 0), output_tokens=max(1, _number(numbers, "GeneratedTokens", 0)),
    )  # fmt: skip
    return _arrival(at_s, workload, (), ())


def _arrival(
    at_s: float, workload: Workload, contents: tuple[str, ...], prefix: tuple[tuple[str, int], ...]
) -> Arrival:
    if not (workload.images or workload.videos or workload.text_tokens):
        raise AtlasError("is empty; give it text, images or a video")
    return Arrival(at_s, workload, contents, prefix)


def _float(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        raise AtlasError(f"has {text!r} where a number belongs; write a number") from None


def _time(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e12 < value < 1e12:
        raise AtlasError(f"{key} is {value!r}; give the time of arrival as a number")
    return float(value)


def _number(row: Any, key: str, least: int) -> int:
    value = row.get(key) if isinstance(row, Mapping) else None
    most = REQUEST["text_tokens"][1]
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or value % 1:
        raise AtlasError(f"{key} is {value!r}; give a whole number from {least} to {most:,}")
    return int(value)


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key) or []
    if not isinstance(value, list):
        raise AtlasError(f"{key} is {value!r}; write a list")
    return value


def _text(row: Any, key: str) -> str:
    value = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(value, str) or not value:
        raise AtlasError(f"{key} is {value!r}; write a text")
    return value
