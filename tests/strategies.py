"""Texts and data of entries, sound and broken, for property tests and benchmarks."""

from __future__ import annotations

from hypothesis import strategies as st

from lvlm_atlas.rules.sample import ALPHA, as_yaml, sound


def synthetic_entry(i: int) -> str:
    """YAML text of a sound technique of the sample taxonomy, some 80 lines; ids, names and numbers vary with `i`."""
    entry = sound()[ALPHA]
    edge = entry["interactions"][0]
    entry |= {"id": f"synthetic-{i}", "name": f"Synthetic {i}", "aliases": [f"syn {i}", f"made-up no. {i}"]}
    entry["parameters"]["keep_ratio"]["default"] = (i % 9 + 1) / 10
    entry["interactions"] = [edge] if i == 0 else [edge, {**edge, "kind": "cascades-to", "with": f"synthetic-{i - 1}"}]
    entry["reported"] = [
        {
            "model_name": f"Model {k}",
            "setting": {"keep_ratio": 0.5},
            "results": [{"metric": "ttft", "value": i + k, "baseline": i + k + 1}],
            "source": edge["source"],
        }
        for k in range(2)
    ]
    return "# yaml-language-server: $schema=../../../../taxonomy/schema/technique.json\n" + as_yaml(entry)


def synthetic_files(n: int) -> dict[str, str]:
    """`n` synthetic entries by path, to be written beside the files of `sound()`."""
    folder = ALPHA.rpartition("/")[0]
    return {f"{folder}/synthetic-{i}.yaml": synthetic_entry(i) for i in range(n)}


bytes_of_a_file = st.binary(max_size=400)
bibtex_like = st.lists(
    st.sampled_from(["@misc{a,", "@string{", "@comment{", "title", " = ", "{", "}", '"', "author", ",", "\n", " and ",
                     "\\", "\\'e", "$", "%", "#", "year", "2024", "url", "{https://e.org}", "@", "(", ")", "~"])
    | st.text(max_size=4),
    max_size=40,
).map("".join)  # fmt: skip

RECORDS = sorted(path for path, data in sound().items() if isinstance(data, dict))
"""A file of each kind of record."""
_SHARDS = ("&a ", "*a", "!!str ", "<<: ", "{", "[", "}", "]", ": ", "- ", "\t", "\n", "'", '"', "|", "---\n", "\x00",
           "null", "1e999", "2026-11-22", "yes", "0o17", "\ufeff", "\r", "é", "<b>", "%", "? ")  # fmt: skip


@st.composite
def mutated_texts(draw: st.DrawFn, path: str) -> str:
    """The text of a sound record with a few stretches cut out, repeated or replaced."""
    text = as_yaml(sound()[path])
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 60)))
        put = draw(st.one_of(st.sampled_from(_SHARDS), st.text(max_size=8), st.just(text[start:end] * 2)))
        text = text[:start] + put + text[end:]
    return text


extremes = st.sampled_from(
    [10**18, -(10**18), 1e308, -1e308, 1e-320, 0, -1, 2**63, "x" * 3000, "\u202e", "a\x1b[2J", "2026-99-99", "a: b",
     "__class__",
     "round(1, -9999999)", "9 ** 9 ** 9", "../../x", "a/b/c", [], {}, True, None]
)  # fmt: skip
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
    st.sampled_from(["alpha", "keep_ratio", "llm.vision-tokens", "2 * N", "0/0", "9**9**9", "(" * 60]),
)  # fmt: skip
values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def distorted_records(draw: st.DrawFn, path: str) -> object:
    """The data of a sound record with a few values, however deep, replaced by anything, or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(values)
    record = sound()[path]
    for _ in range(draw(st.integers(1, 3))):
        here: dict[str, object] | list[object] = record
        while True:
            key = draw(st.sampled_from(sorted(here, key=str) if isinstance(here, dict) else range(len(here))))
            inner = here[key]  # type: ignore[call-overload]
            if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
                here[key] = draw(values | extremes)  # type: ignore[call-overload]
                break
            here = inner
    return record


queries = st.lists(
    st.sampled_from(["stage:", "decoding", "alpha", "within(", "path(", "like(", "not ", " and ", " or ", "(", ")", ",",
                     "2", "*", "!", ">=", "<", "=", '"', "'", "conflicts-with(", "year:", "0", "-1", "99999999999", ".",
                     ":"])
    | st.text(max_size=3),
    max_size=14,
).map("".join)  # fmt: skip
stack_texts = st.lists(
    st.sampled_from(["alpha", "beta", "keep_ratio", ":", "=", "+", ",", "|", "0.5", "1e999", "-1", "nan", "true", "[",
                     "]",
                     "none", " ", "x"])
    | st.text(max_size=3),
    max_size=10,
).map("".join)  # fmt: skip
