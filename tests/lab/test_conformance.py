"""Every reference does what its entry declares, and a declaration that is wrong does not pass."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from lvlm_atlas import load
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.built import built
from lvlm_atlas.lab.conformance import Report, job_for, report
from lvlm_atlas.lab.expectation import Member, expected
from lvlm_atlas.lab.observation import carry_out, compare, dimensions_for, observe
from lvlm_atlas.lab.settings import ON_DEVICE, SHAPES, authored, candidates, generated
from lvlm_atlas.lab.verification import COUNTED_COSTS, Plan, StackJob, lost
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.rules.expressions import amounts_in
from lvlm_atlas.schema.effect import Change, Effect, Speculation
from lvlm_atlas.schema.technique import Parameter, Technique
from lvlm_atlas.specs.technique import effect_places

ATLAS = load(Path(__file__).resolve().parents[2])
IMPLEMENTED = [t for t in ATLAS.atlas.techniques.values() if t.reference]


def only(technique: Technique) -> str:
    return technique.id


def small(technique: Technique, device: str = "cpu") -> StackJob:
    """The settings that the entry names, on two requests and, where waits are declared, as on a GPU on a third.

    Where tokens are drafted, one request is sampled besides: there, drafts of random weights are accepted now and then.
    """
    job = job_for(ATLAS.atlas, technique, "float32", device)
    settings = authored(technique)[: len(technique.trials) + 1]
    waits = any(overhead.host_syncs is not None for overhead in technique.overheads)
    drafts = any(isinstance(each, Speculation) and each.exact == "distribution" for each in technique.effects)
    sampled = [shape for shape in SHAPES if shape.temperature]
    shapes = (*SHAPES[:2], *sampled[:drafts], *ON_DEVICE[:waits])
    plans = tuple(Plan(settings=(setting,), shape=shape) for setting in settings for shape in shapes)
    return job.model_copy(update={"plans": plans})


def verified(technique: Technique) -> Report:
    return report(carry_out(small(technique)))


def failing(technique: Technique) -> set[str]:
    """The quantities that do not hold."""
    return {line.quantity for line in verified(technique).lines if line.mismatches}


def entry(id_: str, *effects: dict[str, Any]) -> Technique:
    """An entry of the catalog with other effects."""
    technique = ATLAS.technique(id_)
    raw = {**technique.model_dump(mode="json", by_alias=True, exclude_none=True), "effects": effects}
    return Technique.model_validate_json(json.dumps(raw))


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
def test_every_reference_does_what_its_entry_declares(technique: Technique, device: str) -> None:
    found = report(carry_out(job_for(ATLAS.atlas, technique, "float32", device)))
    assert [line.mismatches[0] for line in found.lines if line.mismatches] == []
    assert found.faults == ()
    declared = {effect.quantity for effect in technique.effects}
    assert declared <= {line.quantity for line in found.lines if line.bites}


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
def test_bounds_from_the_declarations_alone_hold_what_is_observed(technique: Technique) -> None:
    shape = SHAPES[0]
    lvlm = LVLM.random(shape.preset)
    request = random_request(
        lvlm.config, frames=shape.frames, text_tokens=shape.text_tokens, max_new_tokens=shape.output_tokens
    )
    sizes = dimensions_for(lvlm, request)
    for trial in technique.trials:
        result = lvlm.run(request, [built(str(technique.reference), trial, lvlm)])
        stack = [Member(technique, effect_places(ATLAS.atlas, technique), trial)]
        for trace in [each.result.trace for each in result.rounds] or [result.trace]:
            rows = list(compare(expected(sizes, stack), observe(trace, sizes)))
            assert [row for row in rows if not row.holds] == []
            assert len(rows) >= 16


@pytest.mark.parametrize("technique", IMPLEMENTED[:1], ids=only)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_holds_in_half_precision(technique: Technique, dtype: str, device: str) -> None:
    job = small(technique, device).model_copy(update={"dtype": dtype})
    assert report(carry_out(job)).holds


OFF = {
    "at_most": "- N_s - 1", "accepted_at_most": "- 1", "accepted_at_least": "+ 99",
    "attention_rows": "// 2", "draft_vision_tokens": "- F - 1",
}  # fmt: skip
"""How a declaration is made wrong, where it is not by one more; a bound may lie one a frame above what is reached."""


def perturbed() -> Iterator[Any]:
    """Each amount of each declaration that a trace can show, made wrong."""
    for technique in IMPLEMENTED:
        for (key, index, name, *inner), amount in amounts_in(technique):
            records = getattr(technique, str(key))
            if inner or (key == "overheads" and name not in COUNTED_COSTS):
                continue  # what others saw, and costs, stand in no trace
            replaced = any(effect.quantity == "encoder.flop" for effect in technique.effects)
            if name == "from_layer" and replaced and getattr(records[index], "quantity", "") == "encoder.tokens":
                continue  # of an encoder that takes the place of the model's, what leaves it is counted alone
            is_most = getattr(records[index], f"{name}_at_least", None) is not None
            off = OFF.get(str(name), "- 1" if is_most else "+ 1")
            if name == "host_syncs" and getattr(records[index], "upper_bound", False):
                off = "* 0"
            wrong = records[index].model_copy(update={name: f"({amount}) {off}"})
            records = (*records[:index], wrong, *records[index + 1 :])
            quantity = wrong.quantity if key == "effects" else "overhead"
            yield pytest.param(
                technique.model_copy(update={str(key): records}), quantity, id=f"{technique.id}-{index}-{name}"
            )


PERTURBED = list(perturbed())


@pytest.mark.parametrize(("technique", "quantity"), PERTURBED)
def test_an_amount_that_is_wrong_fails_at_its_own_quantity(technique: Technique, quantity: str) -> None:
    failed = failing(technique)
    # Bytes at the end, and attention that decoding forms again, are predicted from the limit declared.
    limits = ("limit", "limit_at_least")
    limited = any(getattr(effect, name, None) for effect in technique.effects for name in limits)
    follows = {"kv.bits", "overhead"} if limited else set()
    assert {quantity} <= failed <= {quantity} | follows


PRUNED = "round(N_v * keep_ratio)"
LAYERS = {"quantity": "llm.vision-tokens", "from_layer": "layer"}
FORMS = {
    "set": {"set": PRUNED},
    "scale": {"scale": "keep_ratio"},
    "cap": {"cap": PRUNED},
    "remove": {"remove": f"N_v - {PRUNED}", "to_layer": "layer + 1"},
    "bounds": {"at_least": f"{PRUNED} - 1", "at_most": f"{PRUNED} + 1"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_declare_a_change_can_be_right_and_wrong(form: str) -> None:
    assert failing(entry("fastv", {**LAYERS, **FORMS[form]})) == set()
    wrong = {name: f"({amount}) + 2" if name != "to_layer" else amount for name, amount in FORMS[form].items()}
    assert failing(entry("fastv", {**LAYERS, **wrong})) == {"llm.vision-tokens"}


def test_a_change_that_is_declared_nowhere_fails() -> None:
    assert failing(entry("fastv", {"quantity": "output-tokens", "cap": 1000})) == {"llm.vision-tokens"}


def test_a_declared_change_that_does_not_happen_fails() -> None:
    found = verified(entry("kivi", *true_effects("kivi"), {"quantity": "kv.resident", "scale": 0.5}))
    (line,) = [line for line in found.lines if line.mismatches]
    assert line.quantity == "kv.resident"
    assert {row.observed for _, row in line.mismatches} == {(1.0,)}


@pytest.mark.parametrize(
    "idle",
    [{"quantity": "output-tokens", "cap": 1000}, {"quantity": "kv.resident", "set": 1}],
    ids=["never reached", "as it was"],
)
def test_an_effect_that_never_bites_is_a_fault(idle: dict[str, Any]) -> None:
    found = verified(entry("fastv", *true_effects("fastv"), idle))
    assert not found.holds
    assert found.faults == (f"effects[1] ({idle['quantity']}) is never exercised: every run is explained without it",)


def test_greedy_speculation_that_changes_the_answer_fails() -> None:
    nothing = dict.fromkeys(
        ("draft_length", "draft_nodes", "draft_passes", "accepted_at_most", "draft_vision_tokens"), 0
    )
    exact = {"quantity": "speculation", "exact": "greedy", **nothing}
    job = small(ATLAS.technique("fastv"))
    claims = job.items[0].model_copy(
        update={"technique": entry("fastv", *true_effects("fastv"), exact), "places": (7, 11)}
    )
    found = report(carry_out(job.model_copy(update={"items": (claims,)})))
    wrong = {row.measure for line in found.lines for _, row in line.mismatches}
    assert wrong == {"speculation: same greedy answer"}


def true_effects(id_: str) -> list[dict[str, Any]]:
    return [effect.model_dump(mode="json", exclude_none=True) for effect in ATLAS.technique(id_).effects]


BAD = """
    from lvlm_atlas.reference.lvlm import Refusal, Technique
    class Bad(Technique):
        acts_at = ("llm-input",)
    class Crashes(Bad):
        def llm_input(self, at): raise TypeError("no such luck")
    class Misshapes(Bad):
        def llm_input(self, at): return at.sequence.hidden_BND.reshape(2, -1, 7)
    class Miscounts(Bad):
        def llm_input(self, at): return dict(zip((1, 2), (3,), strict=True))
    class Refuses(Bad):
        def llm_input(self, at): raise Refusal("not this one")
"""


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of references that misbehave."""
    (tmp_path / "bad_stack.py").write_text(textwrap.dedent(BAD))
    monkeypatch.syspath_prepend(tmp_path)


def misbehaving(name: str) -> StackJob:
    technique = ATLAS.technique("divprune").model_copy(
        update={"reference": f"bad_stack:{name}", "trials": ({},), "neutral": {}, "parameters": {}}
    )
    return small(technique)


@pytest.mark.usefixtures("bad")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Crashes", "TypeError: no such luck"),
        ("Misshapes", "RuntimeError: shape '[2, -1, 7]' is invalid"),
        ("Miscounts", "ValueError: zip() argument 2 is shorter"),
        ("Refuses", "never runs; Refusal: not this one"),
    ],
)
def test_a_reference_that_crashes_or_never_runs_is_a_fault(name: str, said: str) -> None:
    faults = report(carry_out(misbehaving(name))).faults
    assert said in faults[0]
    assert any("never runs" in fault for fault in faults) == (name == "Refuses")


def test_a_lost_process_is_a_fault() -> None:
    found = report(lost(small(IMPLEMENTED[0]), "took longer than 120 s and was stopped"))
    assert found.faults == ("took longer than 120 s and was stopped",)
    assert not found.holds


def test_a_technique_that_is_only_described_cannot_be_verified() -> None:
    described = IMPLEMENTED[0].model_copy(update={"reference": None})
    with pytest.raises(AtlasError, match="is only described"):
        job_for(ATLAS.atlas, described, "float32", "cpu")


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
def test_settings_are_legal_distinct_and_the_same_on_every_call(technique: Technique) -> None:
    settings = [*authored(technique), *chain(*generated(technique))]
    assert settings == [*authored(technique), *chain(*generated(technique))]
    assert all(settings.count(setting) == 1 for setting in settings)
    for setting in settings:
        for name, value in setting.items():
            assert technique.parameters[name].problem_with(value) is None


@pytest.mark.parametrize(
    ("type_", "default", "range_", "ends"),
    [("float", 0.5, "[0, 1]", {0.0, 1.0}), ("float", 0.5, "(0, 1)", set()), ("int", 4, "[1, inf)", {1, 2})],
)
def test_candidates_reach_the_ends_that_belong_to_a_range(
    type_: Any, default: float, range_: str, ends: set[float]
) -> None:
    found = set(candidates(Parameter(type=type_, default=default, range=range_, doc="A knob.")))
    assert ends <= found
    assert len(found) >= 3


@pytest.mark.catalog
def test_every_quantity_and_every_way_to_change_it_in_the_catalog_is_perturbed() -> None:
    """The perturbations above follow the catalog; this says what they reach today."""
    effects: list[Effect] = [effect for technique in IMPLEMENTED for effect in technique.effects]
    ways = {name for e in effects if isinstance(e, Change) for name in ("set", "scale", "cap", "remove", "at_most")
            if getattr(e, name) is not None}  # fmt: skip
    assert ways <= {*FORMS, "at_most"}
    assert {e.quantity for e in effects} <= {case.values[1] for case in PERTURBED}
