"""Rows as a LaTeX table, with the rules of booktabs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

WIDE = 40
"""Characters beyond which the cells of a column are broken over lines."""
_SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "×": r"$\times$", "−": "$-$", "→": r"$\rightarrow$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$",
}  # fmt: skip


def latex(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: names of columns, and a line for each row. The document loads booktabs."""
    cells = [list(row) for row in rows]
    wide = [any(len(cell) > WIDE for cell in column) for column in zip(*cells, strict=True)] or [False] * len(columns)
    width = f"p{{{0.8 / max(1, sum(wide)):.2g}\\linewidth}}"
    shape = "".join(width if each else "l" for each in wide)
    return "\n".join(
        [
            "% \\usepackage{booktabs}", f"\\begin{{tabular}}{{{shape}}}", "\\toprule", _line(columns), "\\midrule",
            *map(_line, cells), "\\bottomrule", "\\end{tabular}",
        ]
    )  # fmt: skip


def escaped(text: str) -> str:
    """A text on one line, in which every character stands for itself."""
    return "".join(_SIGNS.get(character, character) for character in " ".join(text.split()))


def _line(cells: Iterable[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"
