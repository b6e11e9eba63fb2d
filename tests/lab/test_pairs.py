"""Pairs: what is finished is kept under what it depends on, a torn line does no harm, a lost answer is not kept."""

from __future__ import annotations

from pathlib import Path

from lvlm_atlas import load
from lvlm_atlas.lab.pairs import Kept, PairAnswer, lost, pair_job
from lvlm_atlas.lab.stacks import PairRuns, judge

KB = load()
ONE, TWO = KB.technique("fastv"), KB.technique("kivi")


def answer(key: str) -> PairAnswer:
    return PairAnswer(key=key, runs=PairRuns(pair=("fastv", "kivi"), composed=3, first="here", idle=("kivi",)))


def test_the_key_changes_with_an_entry_the_module_and_the_type_alone() -> None:
    key = pair_job(KB.atlas, ONE, TWO, "float32", "cpu").key
    assert key == pair_job(KB.atlas, ONE, TWO, "float32", "cpu").key
    effect = ONE.effects[0].model_copy(update={"scale": "keep_ratio / 2"})
    changed = [
        pair_job(KB.atlas, ONE.model_copy(update={"effects": (effect,)}), TWO, "float32", "cpu"),
        pair_job(KB.atlas, ONE.model_copy(update={"reference": KB.technique("tome").reference}), TWO, "float32", "cpu"),
        pair_job(KB.atlas, ONE, TWO, "bfloat16", "cpu"),
    ]
    assert len({key, *(job.key for job in changed)}) == 4


def test_answers_are_kept_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "pairs")
    for key in ("a", "b"):
        kept.add(answer(key))
    with kept.file.open("a") as file:
        file.write(answer("torn").model_dump_json()[:-5])
    Kept(tmp_path / "pairs").add(answer("c"))
    assert Kept(tmp_path / "pairs").answers == {key: answer(key) for key in ("a", "b", "c")}


def test_what_was_lost_is_a_fault_and_tried_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.add(lost(pair_job(KB.atlas, ONE, TWO, "float32", "cpu"), "took longer than 120 s and was stopped"))
    (found,) = kept.answers.values()
    assert judge(found.runs, ()).faults == ("fastv + kivi: took longer than 120 s and was stopped",)
    assert Kept(tmp_path).answers == {}


def test_a_pair_is_judged_by_the_graph_of_today() -> None:
    runs = answer("a").runs
    assert judge(runs, ()).faults == ("kivi does nothing beside the other, and no edge `diminishes` says why",)
    reasons = [edge for edge in KB.edges if edge.kind == "diminishes"][:1]
    assert judge(runs, reasons).faults == ()
    conflicts = [edge for edge in KB.edges if edge.kind == "conflicts-with"][:1]
    assert judge(runs, [*reasons, *conflicts]).faults == (
        "they compose, yet the graph says conflicts-with; first on here",
    )
