"""papers.bib is read entry by entry; what is wrong with one does not hide the others."""

from pathlib import Path

import pytest

from lvlm_atlas.atlas.bibtex import parse_papers, read_papers
from lvlm_atlas.fault import Fault

GOOD = "@misc{good, title={T}, author={Doe, J}, year={2024}, url={https://e.org}}\n"


def _faults(tmp_path: Path, text: str) -> list[Fault]:
    (tmp_path / "papers.bib").write_text(GOOD + text)
    papers, faults = read_papers(tmp_path)
    assert "good" in papers
    return faults


def test_latex_is_read_as_text_and_kept_as_written(tmp_path: Path) -> None:
    text = (
        '@string{eccv = "ECCV"}\n% a comment\n@inproceedings{a,\n  title = {The {LLaVA} of M{\\"u}ller},\n'
        "  author = {M{\\'u}ller, J{\\'o}hn and {Open {AI} and Team} and Ludwig van Beethoven and others},\n"
        "  booktitle = eccv, year = 2024, url = {https://e.org/~a_b%20c},\n"
        "  eprint = {2403.06764}, archiveprefix = {arXiv},\n}\n"
    )
    (tmp_path / "papers.bib").write_text(text)
    papers, faults = read_papers(tmp_path)
    assert faults == []
    paper = papers["a"]
    assert paper.title == "The LLaVA of Müller"
    assert paper.authors == ("Múller, Jóhn", "Open AI and Team", "van Beethoven, Ludwig")
    assert (paper.venue, paper.year, paper.arxiv, paper.line) == ("ECCV", 2024, "2403.06764", 3)
    assert paper.url == "https://e.org/~a_b%20c"
    assert paper.bibtex.startswith("@inproceedings{a,")
    assert "{LLaVA}" in paper.bibtex


FIELDS = {"title": "{T}", "author": "{Doe, J}", "year": "{2024}", "url": "{https://e.org}"}


def _entry(**changed: str | None) -> str:
    fields = {key: value for key, value in {**FIELDS, **changed}.items() if value is not None}
    return "@misc{b,\n" + "".join(f"  {key} = {value},\n" for key, value in fields.items()) + "}\n"


@pytest.mark.parametrize(
    ("text", "rule", "line"),
    [
        (_entry(title=None), "missing-field", 2),
        (_entry(author=None), "missing-field", 2),
        (_entry(author="{others}"), "missing-field", 4),
        (_entry(year=None), "missing-field", 2),
        (_entry(url="{}"), "missing-field", 6),
        (_entry(year="{24}"), "bad-value", 5),
        (_entry(url="{e.org}"), "bad-value", 6),
        (_entry(url="{javascript:alert(1)}"), "bad-value", 6),
        (_entry(eprint="{2403.67}", archiveprefix="{arXiv}"), "bad-value", 7),
        (_entry(author="{a, b, c, d, e}"), "bibtex-syntax", 2),
        (_entry().replace("{b,", "{b b,"), "bad-value", 2),
        (GOOD, "duplicate-paper", 2),
        ("@misc{b, title={x}, title={y}}", "duplicate-field", 2),
        ("@misc{b, title={x", "bibtex-syntax", 2),
        ("misc{b, title={x}}", "bibtex-syntax", 2),
    ],
)
def test_a_broken_work_is_told_with_its_line(tmp_path: Path, text: str, rule: str, line: int) -> None:
    faults = _faults(tmp_path, text)
    assert [(fault.rule, fault.line) for fault in faults] == [(rule, line)], [str(f) for f in faults]
    assert "\n" not in str(faults[0])


def test_a_parser_that_meets_an_open_entry_goes_on_after_it(tmp_path: Path) -> None:
    (fault,) = _faults(tmp_path, "@misc{b, title={x\n@misc{c, title={T}, author={D}, year={2024}, url={https://e.org}}")
    assert fault.line == 2


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "papers.bib").write_bytes(b"\xff")
    assert [fault.rule for fault in read_papers(tmp_path)[1]] == ["not-utf8"]


def test_a_work_of_arxiv_without_an_address_has_that_of_its_number(tmp_path: Path) -> None:
    fields = "title={T}, author={Doe, J}, year={2024}, eprint={2403.06764}, archivePrefix={arXiv}, primaryClass={cs.CV}"
    (paper,) = parse_papers(f"@misc{{a, {fields}}}\n")[0].values()
    assert paper.url == "https://arxiv.org/abs/2403.06764"
    _, faults = parse_papers("@misc{a, title={T}, author={Doe, J}, year={2024}, eprint={2403.06764}}\n")
    assert [fault.rule for fault in faults] == ["missing-field"]
