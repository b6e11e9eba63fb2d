"""A build appears at once or not at all, says in one line what is wrong, and never takes what is not its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lvlm_atlas
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.site import build as module
from lvlm_atlas.site import engines
from lvlm_atlas.site.build import build, generate


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_data_give_the_same_files(odd: lvlm_atlas.KnowledgeBase, odd_root: Path, tmp_path: Path) -> None:
    one = generate(odd, tmp_path / "one")
    two = generate(lvlm_atlas.load(odd_root), tmp_path / "two")
    assert files(one) == files(two)


def test_two_builds_in_two_folders_are_equal_byte_for_byte(odd_root: Path, odd_site: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "again"
    code = (
        "import lvlm_atlas; from pathlib import Path; from lvlm_atlas.site.build import build;"
        f"build(lvlm_atlas.load({str(odd_root)!r}), Path({str(again)!r}))"
    )
    other_order = os.environ | {"PYTHONHASHSEED": "77", "TZ": "Pacific/Kiritimati"}
    subprocess.run([sys.executable, "-c", code], check=True, env=other_order, cwd=tmp_path)
    one, two = files(odd_site), files(again)
    assert one.keys() == two.keys()
    assert [path for path in one if one[path] != two[path]] == []


def test_a_root_without_a_site_uses_the_packaged_templates(odd_root: Path, odd_site: Path) -> None:
    assert not (odd_root / "site").exists()
    assert (odd_site / "index.html").is_file()


def test_no_name_of_this_machine_gets_into_the_site(odd_root: Path, odd_site: Path) -> None:
    here = [str(odd_root).encode(), str(odd_site).encode(), str(Path.home()).encode()]
    for path, body in files(odd_site).items():
        assert not any(name in body for name in here), path


def test_a_second_build_replaces_the_first(
    odd: lvlm_atlas.KnowledgeBase, odd_site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = odd_site / "techniques" / "stale.html"
    stale.write_text("old", encoding="utf-8")
    build(odd, odd_site)
    assert not stale.exists()
    assert (odd_site / "index.html").is_file()


def test_a_failing_build_leaves_the_old_site(
    odd: lvlm_atlas.KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site"
    out.mkdir()
    (out / module.MARK).touch()
    (out / "index.html").write_text("old", encoding="utf-8")
    real = module.generate

    def broken(kb: lvlm_atlas.KnowledgeBase, folder: Path, **more: str) -> Path:
        made = real(kb, folder, **more)
        with (made / "pages/index.md").open("a", encoding="utf-8") as page:
            page.write("\n[gone](gone.md) [nowhere](matrix.md#nowhere)\n")
        return made

    monkeypatch.setattr(module, "generate", broken)
    with pytest.raises(AtlasError) as caught:
        build(odd, out)
    message = str(caught.value)
    assert message.startswith("the site does not build: ")
    assert "gone.md" in message
    assert "nowhere" in message
    assert "\n" not in message
    assert (out / "index.html").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_folder_with_other_files_is_not_touched(odd: lvlm_atlas.KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").touch()
    with pytest.raises(AtlasError, match="not ours"):
        build(odd, tmp_path)
    assert (tmp_path / "precious.txt").exists()


def test_a_file_is_no_place_for_a_site(odd: lvlm_atlas.KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "site").touch()
    with pytest.raises(AtlasError, match="is a file"):
        build(odd, tmp_path / "site")


def test_site_and_markdown_may_not_lie_in_each_other(odd: lvlm_atlas.KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="in each other"):
        build(odd, tmp_path / "site", docs=tmp_path / "site" / "docs")


def test_a_missing_extra_is_named(
    odd: lvlm_atlas.KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "material" else object())
    with pytest.raises(AtlasError, match=r"needs material; run: pip install 'lvlm-atlas\[site\]'"):
        generate(odd, tmp_path)


def test_an_unknown_engine_is_named_with_the_nearest(odd: lvlm_atlas.KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="no engine 'zensicle'; did you mean 'zensical'"):
        build(odd, tmp_path / "site", engine="zensicle")
    assert not list(tmp_path.iterdir())


def test_a_faulty_template_is_one_line(odd: lvlm_atlas.KnowledgeBase, tmp_path: Path) -> None:
    from lvlm_atlas.site.content import Content, Page
    from lvlm_atlas.site.render import environment, render

    for name in ("templates", "pages"):
        (tmp_path / name).mkdir()
    (tmp_path / "templates/x.j2").write_text("{{ undefined_name }}", encoding="utf-8")
    page = Page(path="x.md", title="X", template="x.j2")
    with pytest.raises(AtlasError, match=r"site template x.j2: 'undefined_name' is undefined"):
        render(Content(odd), page, environment(tmp_path))


def test_what_a_killed_build_left_long_ago_goes_with_the_next(tmp_path: Path) -> None:
    stale, fresh, others = tmp_path / ".site-abc", tmp_path / ".site-def", tmp_path / ".site-notes"
    for folder, inside in ((stale, "new"), (fresh, "new"), (others, "mine")):
        (folder / inside).mkdir(parents=True)
    for folder in (stale, others):
        os.utime(folder, (0, 0))
    with module._replacing(tmp_path / "site") as new:
        (new / "index.html").write_text("whole")
    assert {each.name for each in tmp_path.iterdir()} == {"site", fresh.name, others.name}
