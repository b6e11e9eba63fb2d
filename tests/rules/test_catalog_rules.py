"""What the rules of models, devices and workloads tell beyond their examples."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lvlm_atlas.rules.check import check
from lvlm_atlas.rules.rule import Files
from lvlm_atlas.rules.sample import DEVICE, MODEL, WORKLOAD, sound, write


@pytest.fixture
def told(tmp_path: Path) -> Callable[[Files], list[str]]:
    def tell(files: Files) -> list[str]:
        return [str(fault) for fault in check(write(files, tmp_path))]

    return tell


def test_an_argument_that_a_token_rule_does_not_take_is_told_with_those_it_takes(told: Callable) -> None:
    files = sound()
    files[MODEL]["tokens"]["image"]["params"]["image_size"] = 28
    (fault,) = told(files)
    assert "token-rule" in fault
    assert "image_size" in fault
    assert "it takes tile, patch, class_token, token_per_tile" in fault


def test_a_rule_for_images_is_none_for_videos(told: Callable) -> None:
    files = sound()
    files[MODEL]["tokens"]["video"] = {**files[MODEL]["tokens"]["image"], "sampling": {"max_frames": 8}}
    (fault,) = told(files)
    assert "no token rule 'fixed' for a video" in fault


def test_an_example_of_a_video_needs_a_rule_for_videos(told: Callable) -> None:
    files = sound()
    clip = {"video": {"width": 64, "height": 64, "frames": 2}, "vit_tokens": 10, "llm_tokens": 8}
    files[MODEL]["tokens"]["examples"].append(clip)
    faults = told(files)
    assert len(faults) == 3
    assert all("takes no video" in fault for fault in faults)


def test_an_input_that_the_rule_refuses_is_told_with_its_words(told: Callable) -> None:
    files = sound()
    files[MODEL]["tokens"]["examples"][0]["params"] = {"patch": 0}
    assert all("an error (integer division or modulo by zero)" in fault for fault in told(files))


def test_a_traced_run_is_held_against_the_rule_too(told: Callable) -> None:
    files = sound()
    files[MODEL]["traced"] = {
        "image": [28, 28], "total_params": 1e3, "vision_params": 1e2, "vit_tokens": 4, "llm_sequence": 9,
        "source": "made up", "verified": "code",
    }  # fmt: skip
    (fault,) = told(files)
    assert "vit_tokens: the rule gives 5, the record says 4" in fault


def test_a_slower_narrow_type_is_told(told: Callable) -> None:
    files = sound()
    files[DEVICE]["peak_tflop_s"]["fp8"] = 50
    assert {"the narrower type is slower" in fault for fault in told(files)} == {True}


def test_two_devices_may_not_share_a_name_but_a_device_and_a_model_may(told: Callable) -> None:
    files = sound()
    files[MODEL]["aliases"] = ["Delta"]
    assert told(files) == []
    files[DEVICE.replace("delta", "d1")] = {**files[DEVICE], "id": "d1", "name": "Other", "aliases": []}
    (fault,) = told(files)
    assert "ambiguous-name: 'D1' also names d1" in fault


def test_a_video_in_which_no_frame_is_read_is_told(told: Callable) -> None:
    files = sound()
    files[WORKLOAD]["videos"][0].update(duration_s=0.1)
    (fault,) = told(files)
    assert "no frame is read in 0.1 s" in fault


def test_unknown_words_of_verification_are_told_in_every_block(told: Callable) -> None:
    files = sound()
    files[MODEL]["llm"]["verified"] = "hearsay"
    (fault,) = told(files)
    assert "unknown-term" in fault
