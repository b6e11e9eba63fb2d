"""Scenes: what they say of themselves is what they show, and packages are read as they are."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.photographs import fetch
from lvlm_atlas.lab.photographs.archive import files
from lvlm_atlas.lab.photographs.collection import collection, place
from lvlm_atlas.lab.photographs.scene import CELL, CELLS, MOST_ALIKE, MOST_THINGS, NOTHING, SIDE, frame, labels, scene
from lvlm_atlas.lab.photographs.sources import sources

SEEDS = range(40)


pytestmark = pytest.mark.usefixtures("noise")


def test_a_thing_lies_in_the_cell_that_the_scene_says() -> None:
    for seed in SEEDS:
        made = scene(np.random.default_rng(seed), training=True)
        for thing in made.things:
            row, column = divmod(thing.cell, CELLS)
            cell = made.shown[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
            assert (cell == labels().index(thing.word)).any()
            assert made.at(thing.cell) == thing.word


def test_every_pixel_that_shows_a_thing_belongs_to_one_that_is_named() -> None:
    for seed in SEEDS:
        made = scene(np.random.default_rng(seed), training=False)
        shown = {labels()[index] for index in np.unique(made.shown)} & set(sources().things.files)
        assert shown == {thing.word for thing in made.things}


def test_a_label_is_written_in_its_order() -> None:
    with_labels = 0
    for seed in SEEDS:
        made = scene(np.random.default_rng(seed), training=True)
        if made.label:
            with_labels += 1
            rows, columns = np.nonzero(np.isin(made.shown, [labels().index(each) for each in set(made.label)]))
            read = [labels()[made.shown[rows.min(), column]] for column in range(columns.min(), columns.max() + 1, 8)]
            assert "".join(read) == made.label
    assert with_labels > len(SEEDS) // 4


def test_the_tallest_bar_is_the_one_that_the_pixels_call_so() -> None:
    with_charts = 0
    for seed in SEEDS:
        made = scene(np.random.default_rng(seed), training=True)
        if made.bars:
            with_charts += 1
            bars, tallest = (labels().index(word) for word in ("bar", "tallest bar"))
            height = {index: (made.shown == index).sum(0).max() for index in (bars, tallest)}
            assert height[tallest] > height[bars]
            assert made.bars.count(max(made.bars)) == 1
    assert with_charts > 4


def test_scenes_keep_their_bounds_and_come_again() -> None:
    for seed in SEEDS:
        made, again = (scene(np.random.default_rng(seed), training=True) for _ in range(2))
        assert made.pixels.shape == (SIDE, SIDE, 3)
        assert np.array_equal(made.pixels, again.pixels)
        assert 1 <= len(made.things) <= MOST_THINGS
        assert max(made.count(thing.word) for thing in made.things) <= MOST_ALIKE


def test_a_frame_shows_its_thing_or_nothing() -> None:
    behind = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    assert frame(np.random.default_rng(0), behind, NOTHING).things == ()
    (thing,) = frame(np.random.default_rng(0), behind, "zebra").things
    assert thing.word == "zebra"


def debian_package(path: Path, content: dict[str, bytes]) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        for name, text in content.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, text in parts.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(text):<10}`\n".encode())
            file.write(text + b"\n" * (len(text) % 2))


def test_files_come_out_of_both_kinds_of_packages(tmp_path: Path) -> None:
    content = {"usr/a.txt": b"one", "usr/b.png": b"two"}
    debian_package(tmp_path / "p.deb", content)
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as wheel:
        for name, text in content.items():
            wheel.writestr(name, text)
    for package in ("p.deb", "p.whl"):
        assert dict(files(tmp_path / package, lambda name: name.endswith(".png"))) == {"usr/b.png": b"two"}


def test_what_is_no_package_says_so(tmp_path: Path) -> None:
    (tmp_path / "p.deb").write_bytes(b"something else")
    with pytest.raises(AtlasError, match="is no Debian package"):
        [*files(tmp_path / "p.deb", lambda _: True)]


def test_a_package_with_another_hash_is_refused_and_all_faults_come_at_once(tmp_path: Path) -> None:
    for package in sources().packages.values():
        (tmp_path / package.file).write_bytes(b"not what it should be")
    with pytest.raises(AtlasError) as error:
        fetch.fetch(tmp_path, tmp_path, lambda _: None)
    lines = str(error.value).splitlines()
    assert len(lines) == len(sources().packages)
    digest = hashlib.sha256(b"not what it should be").hexdigest()
    assert all(digest[:16] in line and "run again" in line for line in lines)


def test_without_pictures_the_lab_says_how_to_get_them() -> None:
    place().unlink()
    collection.cache_clear()
    with pytest.raises(AtlasError, match="lvlm-atlas lab fetch"):
        collection()


def test_every_source_names_a_package_that_is_listed() -> None:
    named = {sources().things.package, *sources().photographs, *sources().clips}
    assert named == set(sources().packages)
