"""Runtimes are fitted to published times: what made them is found again, and records say how far they are off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from lvlm_atlas.cli.judge import group_by, timings_of
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.schema.record import Source
from lvlm_atlas.schema.runtime import Host, Law, Runtime
from lvlm_atlas.schema.timing import Point
from lvlm_atlas.specs.fitting import fitted, free, left_out, median_error, residuals
from lvlm_atlas.specs.judgement import Skipped, Verdict, judged, read_points
from lvlm_atlas.specs.runtime import runtime_spec
from lvlm_atlas.specs.timing import Timing, options, timing

PLANNER = Planner()
RUNTIMES = PLANNER.atlas.runtimes
FITTED = sorted(id_ for id_, record in RUNTIMES.items() if record.fit)
JUDGED = sorted(id_ for id_, record in RUNTIMES.items() if record.judged)


def made(**host: float) -> Runtime:
    return Runtime(
        id="made", name="Made", versions="1", summary="Made up.", kernels={"linear": Law(compute=0.6, bandwidth=0.7)},
        host=Host.model_validate(host), sources={"kernels": Source(paper="x", place="y")},
    )  # fmt: skip


def synthetic(truth: Runtime) -> Sequence[Timing]:
    """Times that a runtime would print of two devices and three requests, in all metrics."""
    found = []
    for device in ("a100-sxm-80", "h100-sxm"):
        for args in (("--image", "640x480"), ("--image", "1680x1260"), ("--text", "3000", "--output", "32")):
            for metric in ("ttft_s", "tpot_s"):
                point = Point(model="qwen2.5-vl-7b", hardware=device, args=args, metric=metric, value=1.0, stated="-")
                each = timing(point, device, PLANNER.model, PLANNER.device, PLANNER.request)
                object.__setattr__(each, "value_s", each.predicted_s(runtime_spec(truth, PLANNER.atlas.runtime)))
                found.append(each)
    return found


def test_what_made_the_times_is_found_again() -> None:
    truth = made(megapixel_ms=80.0, step_ms=2.0)
    found = fitted(made(megapixel_ms=1.0, step_ms=1.0), synthetic(truth), PLANNER.atlas.runtime)
    assert found.kernels["linear"].compute == pytest.approx(0.6, rel=0.03)
    assert found.kernels["linear"].bandwidth == pytest.approx(0.7, rel=0.03)
    assert found.host.megapixel_ms == pytest.approx(80, rel=0.05)
    assert found.host.step_ms == pytest.approx(2, rel=0.05)


def test_a_fit_does_not_depend_on_the_numbers_that_the_record_has() -> None:
    times = synthetic(made(step_ms=3.0))
    one, two = (fitted(made(step_ms=each), times, PLANNER.atlas.runtime) for each in (0.1, 40.0))
    assert one == two


def test_numbers_with_a_source_are_not_fitted() -> None:
    record = PLANNER.atlas.runtime("tinychat")
    assert "kernels.linear.compute" not in free(record)
    assert "kernels.linear.bandwidth" in free(record)


def test_what_is_left_out_decides_nothing() -> None:
    """Times of one device are doubled: a fit to the other is off by half on them, and only on them."""
    times = synthetic(made(step_ms=2.0))
    for each in times:
        if each.device.id == "h100-sxm":
            object.__setattr__(each, "value_s", 2 * each.value_s)
    held = left_out(made(step_ms=1.0), times, PLANNER.atlas.runtime, group_by("source and device"))
    ratios = {each.timing.device.id: each.ratio for each in held}
    assert ratios["h100-sxm"] == pytest.approx(0.5, rel=0.1)
    assert ratios["a100-sxm-80"] > 1.5


@pytest.mark.parametrize("id_", FITTED)
def test_a_record_says_how_far_it_is_off(id_: str) -> None:
    record, atlas = PLANNER.atlas.runtime(id_), PLANNER.atlas
    assert record.fit is not None
    times = timings_of(PLANNER, record.fit.timings)
    assert len(times) == record.fit.points
    assert median_error(residuals(record, times, atlas.runtime)) == pytest.approx(record.fit.residual, abs=0.006)
    assert record.fit.residual <= 0.15


@pytest.mark.parametrize("id_", JUDGED)
def test_a_record_says_how_far_it_is_off_where_nothing_was_fitted(id_: str) -> None:
    record = RUNTIMES[id_]
    assert record.judged is not None
    assert not {*record.judged.timings} & {*(record.fit.timings if record.fit else ())}
    times = timings_of(PLANNER, record.judged.timings)
    assert len(times) == record.judged.points
    found = median_error(residuals(record, times, PLANNER.atlas.runtime))
    assert found == pytest.approx(record.judged.error, abs=0.006)


def test_every_published_time_fits_or_judges_the_runtime_that_it_is_of() -> None:
    used = {id_: {*parts} for id_, record in RUNTIMES.items() if (parts := [
        timing for part in (record.fit, record.judged) if part for timing in part.timings])}  # fmt: skip
    for record in PLANNER.atlas.timings.values():
        assert record.id in used[record.runtime]


def test_runtimes_come_near_what_nothing_was_fitted_to() -> None:
    """Each generation of a server within 12 %, all runtimes within 20 %, sources being left out or kept aside."""
    errors = [each.fit.left_out for each in RUNTIMES.values() if each.fit]
    servers = [each.judged.error for id_, each in RUNTIMES.items() if each.judged and id_.startswith("vllm")]
    assert median(errors) <= 0.2
    assert max(servers) <= 0.12


def test_no_published_time_lies_below_the_bound() -> None:
    for each in timings_of(PLANNER, [*PLANNER.atlas.timings]):
        assert each.value_s >= each.predicted_s(None), each.label


@pytest.mark.parametrize(
    ("args", "said"),
    [(("--image",), "expected"), (("--colour", "red"), "no option"), (("--text", "many"), "invalid int")],
)
def test_options_that_estimate_lacks_are_refused(args: tuple[str, ...], said: str) -> None:
    with pytest.raises(AtlasError, match=said):
        options(args)


def test_a_request_without_images_has_none_whatever_the_options_give() -> None:
    point = Point(
        model="qwen2-vl-7b", hardware="a100", args=("--image", "28x28", "--text", "9"), text_only=True, metric="tpot_s",
        value=1.0, stated="-",
    )  # fmt: skip
    assert not timing(point, "", PLANNER.model, PLANNER.device, PLANNER.request).workload.images


def judge(path: Path) -> list[Verdict | Skipped]:
    def maker(point: Any, source: str) -> Timing:
        return timing(point, source, PLANNER.model, PLANNER.device, PLANNER.request)

    return [*judged(read_points(path), PLANNER.atlas, maker, PLANNER.runtime)]


def test_points_name_their_software_in_words(tmp_path: Path) -> None:
    file = tmp_path / "points.yaml"
    base = 'model: qwen2.5-vl-7b, hardware: a100, args: [--text, "9"], value: 1.0'
    file.write_text(
        "points:\n"
        f"  - {{{base}, metric: tpot_s, framework: TensorRT Edge-LLM 0.9.0}}\n"
        f"  - {{{base}, metric: tpot_s, framework: 'LLaVA code, transformers'}}\n"
        f"  - {{{base}, metric: tpot_s, framework: MLC}}\n"
        f"  - {{{base}, metric: device_byte, framework: vLLM}}\n",
        encoding="utf-8",
    )
    one, two, three, four = judge(file)
    assert isinstance(one, Verdict)
    assert isinstance(two, Verdict)
    assert (one.runtime.id, two.runtime.id) == ("tensorrt-edge-llm", "transformers")
    assert isinstance(three, Skipped)
    assert "MLC" in three.why
    assert isinstance(four, Skipped)
    assert "no time" in four.why


@pytest.mark.parametrize(
    ("text", "said"),
    [("points: []\n", "no list `points`"), ("points:\n  - {model: x}\n", "point 1"), ("a: b: c\n", ":1:")],
)
def test_a_file_with_faults_is_told_by_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "points.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(AtlasError, match=said):
        read_points(file)
