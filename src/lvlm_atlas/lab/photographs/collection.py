"""The pictures that scenes are made of: small, decoded once, kept in one file of the user's cache.

H height, W width, F frames.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.files import cache_folder
from lvlm_atlas.lab.photographs.archive import files
from lvlm_atlas.lab.photographs.fetch import fetch
from lvlm_atlas.lab.photographs.sources import HELD_BACK_EVERY, sources

Pixels = NDArray[np.uint8]

THING_PIXEL = 64
"""Longer side of a cut-out as it is kept."""
PHOTOGRAPH_PIXEL = 192
"""Shorter side of a photograph as it is kept, and of a clip."""
LEAST_PIXEL, LEAST_COLOURS = 200, 9_000
"""What a photograph has at least: pixels on its shorter side, and colours once it is 160 pixels square; drawings and
masks that lie beside photographs have fewer."""
CLIP_FRAMES = 60
"""Frames that are kept of a clip, evenly over it."""


@dataclass(frozen=True)
class Collection:
    """Cut-outs, photographs and clips, those for training apart from those held back."""

    things: dict[str, Pixels]
    """By word: (H, W, 4), the last channel transparency."""
    photographs: tuple[Pixels, ...]
    """(H, W, 3), to train on."""
    held_back: tuple[Pixels, ...]
    """Photographs that no training sees."""
    clips: tuple[Pixels, ...]
    """(F, H, W, 3), to train on."""
    held_back_clips: tuple[Pixels, ...]

    def behind(self, *, training: bool) -> tuple[Pixels, ...]:
        """The photographs of one side."""
        return self.photographs if training else self.held_back

    def moving(self, *, training: bool) -> tuple[Pixels, ...]:
        """The clips of one side."""
        return self.clips if training else self.held_back_clips


def place() -> Path:
    """Where the collection is kept."""
    return cache_folder() / "lab" / f"pictures-{sources().digest}.npz"


@cache
def collection() -> Collection:
    """The pictures, as they were fetched.

    Raises:
        AtlasError: they were not.
    """
    if not place().is_file():
        raise AtlasError("the lab has no photographs yet; fetch them with `lvlm-atlas lab fetch` (about 320 MB, once)")
    with np.load(place()) as kept:
        parts: dict[str, dict[str, Any]] = {}
        for name in kept.files:
            kind, _, word = name.partition("/")
            parts.setdefault(kind, {})[word] = kept[name]
    return Collection(
        parts["things"],
        *(tuple(parts[kind].values()) for kind in ("photographs", "held_back", "clips", "held_back_clips")),
    )


def prepare(given: Path | None, advance: Callable[[str], object]) -> Path:
    """Fetch the packages, decode what is used of them, and keep that alone; done already, it does nothing.

    Args:
        given: as in `fetch`.
        advance: as there.

    Raises:
        AtlasError: as there, or a file that is used is not in its package.
    """
    path = place()
    if path.is_file():
        return path
    downloads = path.parent / "packages"
    downloads.mkdir(parents=True, exist_ok=True)
    packages = fetch(downloads, given, advance)
    arrays = {
        **{f"things/{word}": pixels for word, pixels in _things(packages)},
        **{f"{kind}/{name}": pixels for kind, name, pixels in _photographs(packages)},
        **{f"{kind}/{name}": pixels for kind, name, pixels in _clips(packages)},
    }
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as half:
        np.savez_compressed(half, **arrays)  # type: ignore[arg-type]  # its other parameter is no array
    Path(half.name).replace(path)
    shutil.rmtree(downloads)
    return path


def _things(packages: dict[str, Path]) -> Iterator[tuple[str, Pixels]]:
    from PIL import Image  # noqa: PLC0415 - an extra

    things = sources().things
    names = {f"{things.folder}/{file}": word for word, file in things.files.items()}
    found = {names[name]: content for name, content in files(packages[things.package], names.__contains__)}
    if missing := sorted(set(things.files) - set(found)):
        raise AtlasError(f"{things.package}: holds no {', '.join(missing)}; another version was fetched")
    for word in things.files:
        image = Image.open(io.BytesIO(found[word])).convert("RGBA")
        image = image.crop(image.getchannel("A").getbbox())
        image.thumbnail((THING_PIXEL, THING_PIXEL), Image.Resampling.LANCZOS)
        yield word, np.asarray(image)


def _photographs(packages: dict[str, Path]) -> Iterator[tuple[str, str, Pixels]]:
    from PIL import Image  # noqa: PLC0415

    found = []
    for package, patterns in sources().photographs.items():
        for name, content in files(packages[package], partial(_fits, patterns)):
            opened = Image.open(io.BytesIO(content))
            if min(opened.size) < LEAST_PIXEL:
                continue
            image = opened.convert("RGB")
            if len(image.resize((160, 160)).getcolors(160**2) or ()) < LEAST_COLOURS:
                continue
            scale = PHOTOGRAPH_PIXEL / min(image.size)
            small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
            found.append((f"{package}/{Path(name).name}", np.asarray(small)))
    for number, (name, pixels) in enumerate(sorted(found, key=lambda each: each[0])):
        yield ("held_back" if number % HELD_BACK_EVERY == 0 else "photographs"), name, pixels


def _fits(patterns: Sequence[str], name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _clips(packages: dict[str, Path]) -> Iterator[tuple[str, str, Pixels]]:
    from PIL import Image  # noqa: PLC0415

    try:
        import av  # noqa: PLC0415 - an extra
    except ImportError:
        raise AtlasError("decoding clips needs av; install it with: pip install 'lvlm-atlas[lab]'") from None
    for package, names in sources().clips.items():
        for name, content in files(packages[package], names.__contains__):
            with av.open(io.BytesIO(content), "r") as video:
                shown = islice(video.decode(video=0), 0, None, 2)
                frames: list[Image.Image] = [frame.to_image() for frame in shown]  # type: ignore[no-untyped-call]
            kept = [frames[round(at)] for at in np.linspace(0, len(frames) - 1, CLIP_FRAMES)]
            scale = PHOTOGRAPH_PIXEL / min(kept[0].size)
            size = (round(kept[0].width * scale), round(kept[0].height * scale))
            kind = "held_back_clips" if Path(name).name in sources().held_back_clips else "clips"
            yield kind, Path(name).name, np.stack([np.asarray(frame.resize(size)) for frame in kept])
