"""Models, devices and workloads are read one file at a time, and found under every name they have."""

from pathlib import Path

import pytest

from lvlm_atlas.atlas.atlas import UnknownIdError
from lvlm_atlas.atlas.loader import inspect, load
from lvlm_atlas.fault import FaultsError
from lvlm_atlas.rules.sample import DEVICE, MODEL, WORKLOAD, as_yaml, sound

OTHER = DEVICE.replace("delta", "epsilon")


def test_every_kind_is_found_by_id(root: Path) -> None:
    atlas = load(root)
    assert (atlas.model("gamma").id, atlas.device("delta").id, atlas.workload("short-clip").id) == (
        "gamma", "delta", "short-clip",
    )  # fmt: skip
    assert [atlas.system(word).id for word in ("epsilon", "Epsilon", "e-1")] == ["epsilon"] * 3
    assert (list(atlas.models), len(atlas.hardware), "short-clip" in atlas.workloads) == (["gamma"], 1, True)


@pytest.mark.parametrize("word", ["GAMMA", "doe/gamma-chat", "Gamma Chat"])
def test_a_model_is_found_by_name_and_repository(root: Path, word: str) -> None:
    assert load(root).model(word).id == "gamma"


def test_a_device_is_found_by_alias_in_any_case(root: Path) -> None:
    assert load(root).device("d1").id == load(root).device("D1").id == "delta"


def test_an_unknown_id_is_told_with_the_nearest_word(root: Path) -> None:
    atlas = load(root)
    with pytest.raises(UnknownIdError, match="no device 'delte'; did you mean 'delta'"):
        atlas.device("delte")
    with pytest.raises(UnknownIdError, match="no model 'gama'; did you mean 'gamma'"):
        atlas.model("gama")
    with pytest.raises(UnknownIdError, match="no workload 'long'; known: short-clip"):
        atlas.workload("long")


def test_a_broken_file_is_told_only_to_who_asks_for_it(root: Path) -> None:
    (root / OTHER).write_text("id: epsilon\nname: Epsilon\nyear: soon\n")
    atlas = load(root)
    assert atlas.device("delta").memory_gb == 16
    assert list(atlas.hardware) == ["delta", "epsilon"]
    with pytest.raises(FaultsError) as caught:
        atlas.device("epsilon")
    assert f"{OTHER}:3:7: wrong-type" in str(caught.value)


def test_a_record_is_read_once(root: Path) -> None:
    atlas = load(root)
    model = atlas.models["gamma"]
    (root / MODEL).unlink()
    assert atlas.models["gamma"] is model


def test_an_id_without_a_file_is_no_key(root: Path) -> None:
    with pytest.raises(KeyError):
        load(root).models["delta"]


def test_a_stray_file_is_told_when_its_folder_is_listed(root: Path) -> None:
    (root / DEVICE).with_name("notes.txt").write_text("x")
    with pytest.raises(FaultsError, match="file-name"):
        list(load(root).hardware)


def test_inspection_tells_the_faults_of_every_file(root: Path) -> None:
    for path in (MODEL, DEVICE, WORKLOAD):
        (root / path).write_text("id: [")
    assert [str(fault.path) for fault in inspect(root).faults] == [DEVICE, MODEL, WORKLOAD]


def test_a_catalog_may_hold_none_of_them(root: Path) -> None:
    for path in (MODEL, DEVICE, WORKLOAD):
        (root / path).unlink()
        (root / path).parent.rmdir()
    assert inspect(root).faults == ()
    assert list(load(root).models) == []


def test_a_workload_without_vision_is_refused(root: Path) -> None:
    (root / WORKLOAD).write_text(as_yaml({**sound()[WORKLOAD], "videos": []}))
    (fault,) = inspect(root).faults
    assert "neither `images` nor `videos`" in fault.message
