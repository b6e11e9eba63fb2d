"""The files of a new technique: an entry, a reference that runs and changes nothing yet, and its test.

What the contributor must write is marked `FILL IN`; `check` names every such place.
"""

from __future__ import annotations

import ast
import re
from datetime import date
from pathlib import Path
from string import Template

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.schema.record import ID_PATTERN
from lvlm_atlas.schema.vocabulary import FamilyTerm, QuantityTerm

_POINTS = Path(__file__).parents[1] / "reference" / "lvlm" / "points.py"


def scaffold(
    atlas: KnowledgeBase, id_: str, *, family: str, acts_at: str, paper: str, name: str | None = None
) -> list[Path]:
    """Write the files, all or none, and return their paths.

    Raises:
        AtlasError: the id is taken or malformed, a term or paper is unknown, the extension point has no
            reference yet, or the root is no checkout that can be written.
    """
    records = atlas.atlas
    if not re.fullmatch(ID_PATTERN, id_) or "." in id_:
        raise AtlasError(f"{id_!r} is no id; use lower-case words joined by '-', such as my-method")
    if id_ in records.techniques or id_ in records.redirects:
        raise AtlasError(f"the id {id_!r} is taken and means one thing for ever; choose another")
    if paper not in records.papers:
        raise AtlasError(f"no paper {paper!r} in papers.bib; {suggestion(paper, records.papers)} Add it there first")
    family_term = records.term("family", family)
    root_term = records.term("family", family_term.parent) if family_term.parent else family_term
    position = records.term("position", acts_at).id
    stage = root_term.stage if isinstance(root_term, FamilyTerm) else None
    module = id_.replace("-", "_")
    point = _point(position)
    names = point | {
        "id": id_,
        "name": name or id_,
        "class_name": "".join(word.capitalize() for word in id_.split("-")),
        "module": module,
        "family": family_term.id,
        "stage": stage or "",
        "position": position,
        "paper": paper,
        "today": date.today().isoformat(),
        "effect": EFFECTS.get(position) or f"- quantity: {_quantity(records, position)}\n  scale: keep_ratio",
    }
    root = records.root
    files = {
        root / "catalog" / "techniques" / (stage or "") / root_term.id / f"{id_}.yaml": ENTRY,
        root / "src" / "lvlm_atlas" / "reference" / "techniques" / (stage or "") / f"{module}.py": REFERENCE,
        root / "tests" / "reference" / "techniques" / (stage or "") / f"test_{module}.py": TEST,
    }
    return _write({path: template.substitute(names) for path, template in files.items()}, root)


def _write(files: dict[Path, str], root: Path) -> list[Path]:
    taken = [path for path in files if path.exists()]
    if taken:
        raise AtlasError(f"{taken[0]} exists already; remove it or choose another id")
    if not (root / "src" / "lvlm_atlas").is_dir():
        raise AtlasError(f"{root} is no checkout of the project; clone it and point --root at the clone")
    written: list[Path] = []
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(path)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise AtlasError(f"cannot write {written[-1]}: {error.strerror}; nothing was kept") from None
    return [path.relative_to(root) for path in written]


def _quantity(records: Atlas, position: str) -> str:
    """The first quantity that is decided at a position, or after it."""
    order = [term.id for term in records.terms("position")]
    decided = {
        term.position: term.id
        for term in reversed(records.terms("quantity"))
        if isinstance(term, QuantityTerm) and term.position
    }
    return next(decided[place] for place in order[order.index(position) :] if place in decided)


def _point(position: str) -> dict[str, str]:
    """The extension point of a position: its method's signature, the value it passes on.

    Read from the source: the module itself needs torch.
    """
    tree = ast.parse(_POINTS.read_text(encoding="utf-8"))
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "POINTS"
    )
    points = {
        ast.literal_eval(key): (ast.literal_eval(value.args[0]), *map(ast.unparse, value.args[1:]))
        for key, value in zip(table.keys, table.values, strict=True)  # type: ignore[union-attr]
        if key is not None and isinstance(value, ast.Call)
    }
    if position not in points:
        raise AtlasError(f"the reference LVLM has no extension point {position!r}; {suggestion(position, points)}")
    method, context, returns = points[position]
    given = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == context)
    passes_on = [
        n.target.id
        for n in given.body
        if isinstance(n, ast.AnnAssign)
        and isinstance(n.target, ast.Name)
        and n.target.id in ("patches", "sequence", "entries", "frames_F3HW")
        and ast.unparse(n.annotation) == returns
    ]
    doc = (ast.get_docstring(given) or "").partition("Returns ")[2].splitlines()[0]
    unwritten = f'raise NotImplementedError("{method} is not written yet")'
    return {
        "signature": f"def {method}(self, at: {context}) -> {returns}:",
        "method": method,
        "doc": doc[:1].upper() + doc[1:],
        "body": f"return at.{passes_on[0]}" if passes_on else unwritten,
        "imports": _imports(tree, context, returns),
    }


def _imports(tree: ast.Module, context: str, returns: str) -> str:
    """The import lines that a method with this context and this annotation needs."""
    used = {node.id for node in ast.walk(ast.parse(returns)) if isinstance(node, ast.Name)}
    lines = [f"from lvlm_atlas.reference.lvlm.points import {', '.join(sorted([context, 'Technique']))}"]
    for node in tree.body:
        names = node.names if isinstance(node, ast.ImportFrom) else []
        if taken := [alias.name for alias in names if (alias.asname or alias.name) in used]:
            lines.append(f"from {node.module} import {', '.join(taken)}")  # type: ignore[attr-defined]
    others = [line for line in lines if "lvlm_atlas" not in line]
    return "\n".join([*others, *([""] if others else []), *sorted(line for line in lines if "lvlm_atlas" in line)])


EFFECTS = {
    "cache-bits": """\
- quantity: kv.bits
  key: 16 * keep_ratio
  value: 16 * keep_ratio
  group_size: d
  group_overhead_bit: 32""",
    "decode-loop": """\
- quantity: speculation
  draft_length: 4
  draft_nodes: 4
  draft_passes: 4
  accepted_at_most: 4
  draft_vision_tokens: keep_ratio * N_v
  exact: greedy""",
}
"""Effects of another form than a change of one count, by position."""

ENTRY = Template("""\
# yaml-language-server: $$schema=../../../../taxonomy/schema/technique.json
id: $id
name: $name
aliases: []
summary: FILL IN, in one sentence, what it does and what that buys.
paper: $paper
stage: $stage
family: $family
modality: [image]
training: none
query_aware: false
acts_at: [$position]
relieves:
- {stage: $stage, bound: compute}
mechanism: [token-pruning]
signals: [feature-similarity]
needs: []
explanation: >-
  FILL IN how it works and why, in a paragraph.
algorithm:
- does: FILL IN the first step, with shapes and formulas.
  code: $class_name.$method
parameters:
  keep_ratio:
    symbol: r
    type: float
    default: 0.5
    range: (0, 1]
    doc: FILL IN what it does.
effects:
$effect
overheads: []
interactions: []
reported: []
pitfalls:
- mistake: FILL IN a way to get it wrong.
  test: test_the_neutral_setting_changes_nothing
status: implemented
reference: lvlm_atlas.reference.techniques.$stage.$module:$class_name
neutral: {keep_ratio: 1.0}
trials:
- {keep_ratio: 0.5}
- {keep_ratio: 0.25}
verified: paper
updated: '$today'
""")

REFERENCE = Template('''\
"""$name.

Paper: $paper, FILL IN section and equation numbers.
Symbols: r -> keep_ratio.
Departs: FILL IN each departure from the paper, numbered, or write "nowhere known".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

$imports


@dataclass(frozen=True)
class $class_name(Technique):
    """$name as the extension point `$position` sees it."""

    keep_ratio: float = 0.5
    """Share kept, (0, 1]."""

    acts_at: ClassVar = ("$position",)
    needs: ClassVar = ()

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], got {self.keep_ratio}")

    $signature
        """$doc"""
        # FILL IN: call a pure function on bare tensors, written above
        $body
''')

TEST = Template('''\
"""$name: hand-worked cases, limits, invariants."""

from __future__ import annotations

import torch

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.techniques.$stage.$module import $class_name


def test_the_neutral_setting_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    plain, neutral = lvlm.run(request), lvlm.run(request, [$class_name(keep_ratio=1.0)])
    assert torch.equal(plain.tokens_N, neutral.tokens_N)
    torch.testing.assert_close(plain.logits_NC, neutral.logits_NC)
''')
