from __future__ import annotations

import sys

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.expression import And, Call, Condition, Not, Or, Query, QueryError, Word
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.parser import MAX_DEPTH, MAX_LENGTH, parse

STAGES = ("encoding", "prefilling", "decoding", "serving")
IDS = ("aks", "divprune", "fastv", "h2o", "kivi", "minference", "old-pruner", "specvlm-ji", "xattention")
DIRECTED = {
    "cascades-to": "is-fed-by",
    "diminishes": "is-diminished-by",
    "builds-on": "is-the-base-of",
    "supersedes": "is-superseded-by",
}
SYMMETRIC = ("conflicts-with", "composes-with")

leaves = st.one_of(
    st.sampled_from(IDS).map(Word),
    st.sampled_from(STAGES).map(lambda stage: Condition("stage", ":", stage)),
    st.sampled_from(("none", "calibration", "finetune")).map(lambda value: Condition("training", "=", value)),
    st.builds(
        Condition,
        st.just("year"),
        st.sampled_from((":", ">=", "<=", "<", ">")),
        st.sampled_from(("2023", "2025")),
    ),
)
queries = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Call, st.sampled_from((*SYMMETRIC, *DIRECTED, *DIRECTED.values(), "unknown-with")), inner),
        st.builds(Call, st.just("within"), inner, st.sampled_from("123").map(lambda steps: (Word(steps),))),
    ),
    max_leaves=8,
)


def ids(kb: KnowledgeBase, text: str) -> set[str]:
    found = kb.query(text).ids
    assert list(found) == sorted(set(found))
    return set(found)


def brute_force(kb: KnowledgeBase, query: Query) -> set[str]:
    """The answer by the definitions, technique by technique and edge by edge."""
    techniques = kb.atlas.techniques
    match query:
        case Word(text):
            return {text}
        case Condition("stage", _, value):
            return {id_ for id_, t in techniques.items() if t.stage == value}
        case Condition("training", _, value):
            return {id_ for id_, t in techniques.items() if t.training == value}
        case Condition("year", comparison, value):
            wanted = {":": "==", "=": "=="}.get(comparison, comparison)
            years = {id_: kb.atlas.papers[t.paper].year for id_, t in techniques.items()}
            return {id_ for id_, year in years.items() if eval(f"{year} {wanted} {value}")}  # noqa: S307
        case Not(of):
            return set(techniques) - brute_force(kb, of)
        case And(parts):
            return set.intersection(*(brute_force(kb, part) for part in parts))
        case Or(parts):
            return set.union(*(brute_force(kb, part) for part in parts))
        case Call(name, of, extra):
            objects = brute_force(kb, of)
            if name == "within":
                return {id_ for x in objects for id_ in ball(kb, x, int(extra[0].text)) - {x}}
            return {id_ for x in objects for id_ in techniques if id_ != x and stands(kb, id_, name, x)}
    raise AssertionError(query)


def stands(kb: KnowledgeBase, subject: str, name: str, object_: str) -> bool:
    joined = kb.between(subject, object_)
    if name == "unknown-with":
        works = {"composes-with", "cascades-to", "diminishes", "requires"}
        return not any(e.kind == "conflicts-with" or (e.kind in works and e.evidence != "derived") for e in joined)
    if name in SYMMETRIC:
        return any(e.kind == name for e in joined)
    if name in DIRECTED:
        return any(e.kind == name and e.start == subject for e in joined)
    return any(DIRECTED.get(e.kind) == name and e.end == subject for e in joined)


def ball(kb: KnowledgeBase, middle: str, radius: int) -> set[str]:
    found = {middle}
    for _ in range(radius):
        found |= {end for e in kb.edges if e.ends & found for end in e.ends}
    return found


@settings(max_examples=150)
@given(query=queries)
def test_a_written_tree_parses_back_and_finds_what_set_algebra_finds(kb: KnowledgeBase, query: Query) -> None:
    assume(len(str(query)) <= MAX_LENGTH)
    parsed = parse(str(query))
    assert str(parsed) == str(query)
    assert ids(kb, str(query)) == brute_force(kb, query)


@given(one=queries, two=queries)
def test_de_morgan_and_double_negation_hold(kb: KnowledgeBase, one: Query, two: Query) -> None:
    assume(len(f"{one}{two}") < MAX_LENGTH // 2)
    assert ids(kb, f"not (({one}) and ({two}))") == ids(kb, f"not ({one}) or not ({two})")
    assert ids(kb, f"not (({one}) or ({two}))") == ids(kb, f"-({one}) -({two})")
    assert ids(kb, f"not not ({one})") == ids(kb, f"({one})")


@given(query=queries)
def test_an_answer_is_empty_exactly_if_it_says_why_and_each_row_says_why_it_is_there(
    kb: KnowledgeBase, query: Query
) -> None:
    assume(len(str(query)) <= MAX_LENGTH)
    answer = kb.query(str(query))
    assert bool(answer.rows) != bool(answer.why_empty)
    assert all(row.because and all(reason.found for reason in row.because) for row in answer.rows)


SIGNS = st.text(alphabet='ab-_:<>=(),"/ \n not', max_size=40)
PIECES = st.lists(
    st.sampled_from(["fastv", "stage:", "decoding", *"()-,:", "and", "or", "not ", "within(", "2", '"', "year", ">="]),
    max_size=30,
).map(" ".join)


@settings(max_examples=300)
@given(text=st.one_of(st.text(max_size=60), SIGNS, PIECES))
@example("-" * 999 + "fastv")
@example("(" * 499 + "fastv" + ")" * 499)
@example("conflicts-with(" * 60 + "fastv" + ")" * 60)
@example("fastv " * 166)
@example("not " * 249 + "x")
@example("\x00")
@example("acts_at:")
@example('""')
@example("year:٢٠٢٥")
@example("within(fastv, ²)")
def test_no_text_raises_anything_but_a_query_error(kb: KnowledgeBase, text: str) -> None:
    try:
        kb.query(text)
    except QueryError as error:
        assert error.exit_code == 2  # noqa: PT017
        assert 1 <= error.column <= len(text) + 1  # noqa: PT017
        assert len(str(error).splitlines()) == 3  # noqa: PT017


def test_nesting_and_length_are_bounded_well_below_the_stack(kb: KnowledgeBase) -> None:
    assert ids(kb, "not " * (MAX_DEPTH - 1) + "fastv")
    with pytest.raises(QueryError, match="nested more than"):
        kb.query("not " * MAX_DEPTH + "fastv")
    with pytest.raises(QueryError, match="1001 characters long; at most 1000"):
        kb.query("a" * (MAX_LENGTH + 1))
    assert sys.getrecursionlimit() > 10 * MAX_DEPTH


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("acts_at:cache", {"h2o", "kivi"}),
        ("ACTS-AT:KV_cache", {"h2o", "kivi"}),
        ("relieves:decoding/memory", {"h2o", "kivi", "specvlm-ji", "speculative-sampling"}),
        ("relieves:memory-capacity", {"h2o"}),
        ("relieves:encoding", {"aks"}),
        ("bound:memory stage:prefilling", set()),
        ("family:kv-cache-compression", {"h2o", "kivi"}),
        ('family:"KV cache compression"', {"h2o", "kivi"}),
        ("effect:vision_tokens", {"divprune", "visionzip"}),
        ("effects:N_v", {"divprune", "visionzip"}),
        ("effect:kv.bits", {"kivi"}),
        ("need:attention_map", {"old-pruner"}),
        ("status:described", {"kivi"}),
        ("has:upstream", {"visionzip"}),
        ("query_aware:true", {"aks", "fastv"}),
        ("paper:ROE2023sample", {"divprune", "h2o", "old-pruner", "visionzip"}),
        ("year<2025 stage:decoding", {"h2o"}),
        ("FastV", {"fastv"}),
        ("fast_vee", {"fastv"}),
        ('"fast vision"', {"fastv"}),
        ('"second layer"', {"fastv"}),
        ('"what xattention does"', {"xattention"}),
        ("fastv or kivi", {"fastv", "kivi"}),
        ("fastv or kivi and h2o", {"fastv"}),
        ("stage:decoding -h2o -kivi", {"specvlm-ji", "speculative-sampling"}),
        ("builds_on(speculative-sampling)", {"specvlm-ji"}),
        ("is-base-of(specvlm-ji)", {"speculative-sampling"}),
        ("conflicts-with(stage:decoding)", {"specvlm-ji", "speculative-sampling"}),
        ("works-with(kivi)", {"fastv", "h2o"}),
        ("breaks-with(old-pruner)", {"minference", "xattention"}),
        ("within(minference, 1, conflicts-with)", {"old-pruner", "xattention"}),
        ("like(xattention)", {"minference"}),  # sparse attention of one family; the others save otherwise
        ("like(specvlm-ji)", {"speculative-sampling"}),
        ("like(kivi)", set()),
    ],
)
def test_a_query_finds(kb: KnowledgeBase, text: str, found: set[str]) -> None:
    assert ids(kb, text) == found


def test_unknown_is_not_compatible(kb: KnowledgeBase) -> None:
    unknown, works, breaks = (ids(kb, f"{verdict}-with(fastv)") for verdict in ("unknown", "works", "breaks"))
    assert not unknown & works
    assert not unknown & breaks
    assert not works & breaks
    assert unknown | works | breaks == set(kb.atlas.techniques) - {"fastv"}
    assert "minference" in unknown


@pytest.mark.parametrize(
    ("text", "column", "hint"),
    [
        ("fastvv", 1, "did you mean 'fastv'?"),
        ("stage:decoding stge:encoding", 16, "no field 'stge'; did you mean 'stage'?"),
        ("stage:prefiling", 7, "stage is never 'prefiling'; did you mean 'prefilling'?"),
        ("relieves:decoding/memry", 10, "did you mean 'memory'?"),
        ("relieves:memry", 10, "did you mean 'memory'?"),
        ("conflict-with(fastv)", 1, "no relation 'conflict-with'; did you mean 'conflicts-with'?"),
        ("conflicts-with(fasvt)", 16, "did you mean 'fastv'?"),
        ("fastv and unknwn-with(fastv)", 11, "did you mean 'unknown-with'?"),
        ("within(fastv)", 1, "lacks the number of steps"),
        ("within(fastv, two)", 15, "got 'two'"),
        ("within(fastv, 2, conflict)", 18, "did you mean 'conflicts-with'?"),
        ("composes-with(fastv, 2)", 22, "one argument too many"),
        ("paper:chen2024", 7, "paper is never 'chen2024'"),
        ("status:done", 8, "status is never 'done'; known: described, implemented"),
        ("year:soon", 6, "a number such as 2025, got 'soon'"),
        ("stage>decoding", 1, "stage has no order; write stage:decoding"),
        ("prefilling", 1, "did you mean stage:prefilling?"),
        ("is-fed-by (fastv)", 1, "the relation is written is-fed-by(…), with no space"),
        ("old-cache", 1, "was split into h2o, kivi"),
        ("fastv and (kivi", 16, "expected `)`"),
        ("fastv and", 10, "expected a condition, got the end"),
        ('fastv "second', 7, "this quotation mark is not closed"),
        ("  ", 1, "the query is empty"),
    ],
)
def test_a_query_that_cannot_be_answered_points_at_the_trouble(
    kb: KnowledgeBase, text: str, column: int, hint: str
) -> None:
    with pytest.raises(QueryError) as caught:
        kb.query(text)
    error = caught.value
    assert isinstance(error, AtlasError)
    assert hint in error.problem
    assert error.column == column
    assert str(error).splitlines()[1:] == [f"  {text}", "  " + " " * (column - 1) + "^"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("stage:serving", "`stage:serving` holds for none of the 11 techniques"),
        ("fastv stage:serving training:none", "`stage:serving` holds for none of the 11 techniques"),
        (
            "training:none stage:encoding family:sparse-attention",
            "`stage:encoding` finds 2 and `family:sparse-attention` finds 2",
        ),
        ("stage:encoding stage:decoding", "`stage:encoding` finds 2 and `stage:decoding` finds 4, but none is in both"),
        ("(aks or fastv) (aks or kivi) (kivi or fastv)", "the 1 left (aks) are not in `kivi or fastv`"),
        ("not (fastv or not fastv)", "`fastv or not fastv` holds for all 11 techniques"),
        ("stage:serving or requires(fastv)", "`requires(fastv)` holds for none of the 11 techniques"),
        ("conflicts-with(stage:serving)", "`stage:serving` holds for none"),
    ],
)
def test_an_empty_answer_names_the_condition_that_emptied_it(kb: KnowledgeBase, text: str, why: str) -> None:
    answer = kb.query(text)
    assert not answer.rows
    assert why in answer.why_empty


def test_reasons_carry_the_values_and_edges_they_rest_on(kb: KnowledgeBase) -> None:
    (row,) = kb.query("relieves:decoding composes-with(fastv)").rows
    field, relation = row.because
    assert (field.condition, field.found) == ("relieves:decoding", "relieves: decoding/memory-bandwidth")
    assert relation.found == "kivi composes with fastv"
    assert [(edge.kind, edge.source) for edge in relation.edges] == [("composes-with", "doe2025sample, sec. 4")]


def test_a_walk_is_explained_by_the_edges_it_takes(kb: KnowledgeBase) -> None:
    rows = kb.query("within(fastv, 2)").rows
    assert rows
    for row in rows:
        (reason,) = row.because
        assert 1 <= len(reason.edges) <= 2
        assert reason.found.startswith("fastv – ")
        assert reason.found.endswith(row.technique.id)
        assert row.technique.id in reason.edges[-1].ends
