"""Builds the site: pages from the knowledge base, then HTML from the pages, in a folder that appears at once."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.files import STALE_S
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.site.answers.work import computing
from lvlm_atlas.site.blocks import Blocks, put_aside
from lvlm_atlas.site.engines import require, run_engine
from lvlm_atlas.site.finish import finish
from lvlm_atlas.site.outputs import running, shown
from lvlm_atlas.site.published import UNPUBLISHED, Published
from lvlm_atlas.site.python.bundle import bundle
from lvlm_atlas.site.python.fetch import fetch
from lvlm_atlas.site.python.pins import pins

if TYPE_CHECKING:
    from lvlm_atlas.site.content import Content

OUT = Path("build/site")
DOCS = Path("build/docs")
ANSWERS = "answers.yaml"
HEADS, BLOCKS, COMMANDS = "heads.json", "blocks.json", "commands.json"
MARK = ".lvlm-atlas"
"""A file that says that a folder is ours, and may be replaced."""
_WORK = {"new", "old"}
"""What lies in the folder in which a build works, beside the site."""


def build(
    kb: KnowledgeBase,
    out: Path = OUT,
    *,
    docs: Path | None = None,
    strict: bool = True,
    published: Published = UNPUBLISHED,
    engine: str = "mkdocs",
    python: bool = False,
    answers: Path | None = None,
) -> Path:
    """Build the site into `out`, its Markdown into `docs`; both are replaced, and only if the build succeeds.

    Without `docs`, the Markdown of the default site goes to `build/docs`, that of another is not kept. With
    `strict`, a link or anchor that leads nowhere fails the build. With `python`, the program itself is put into it, for
    which npm and pip fetch an interpreter once. `answers` says for which requests pages answer; without it, the
    `answers.yaml` of the site's sources does.

    Raises:
        AtlasError: an extra is missing, a folder is not ours to replace, or the build failed.
    """
    docs = docs or (DOCS if out == OUT else None)
    out = out.absolute()
    if docs and (out == docs.absolute() or out in docs.absolute().parents or docs.absolute() in out.parents):
        raise AtlasError(f"{out} and {docs} lie in each other; choose two folders side by side")
    day = max((t.updated for t in kb.atlas.techniques.values()), default="1980-01-01")
    epoch = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
    source = source_of(kb.atlas.root)
    interpreter = fetch(pins(source)) if python else None
    with _replacing(out) as new_out, _replacing(docs.absolute()) if docs else _passing() as new_docs:
        site_dir = os.path.relpath(out, docs) if docs else "../site"
        with computing(kb.atlas.root, answers or source / ANSWERS) as place_answers:
            generate(kb, new_docs, site_dir=site_dir, published=published, engine=engine, python=python)
            known, blocks, commands = (_read(new_docs / name) for name in (HEADS, BLOCKS, COMMANDS))
            with running(commands, kb.atlas.root) as outputs:
                run_engine(engine, new_docs, new_out, strict=strict, epoch=epoch)
                blocks |= outputs()
            for folder in (new_docs / "pages", new_out):  # the builder of pages need not read them
                place_answers(folder)
        finish(new_out, known, blocks, published, day)
        if interpreter:
            bundle(kb.atlas.root, interpreter, pins(source), new_out)
    return out


def generate(
    kb: KnowledgeBase,
    folder: Path,
    *,
    site_dir: str = "../site",
    published: Published = UNPUBLISHED,
    engine: str = "mkdocs",
    python: bool = False,
) -> Path:
    """Write `mkdocs.yml` and all pages into an empty folder, and what the built pages get besides.

    That is what goes into their heads, in `heads.json`; drawings and listings, in `blocks.json`; what the guides'
    commands print, which are in `commands.json`.

    Raises:
        AtlasError: the extra `site` is not installed, or a template is faulty.
    """
    require(engine)
    from lvlm_atlas.site.config import configuration
    from lvlm_atlas.site.content import Content
    from lvlm_atlas.site.data import WHOLE
    from lvlm_atlas.site.doors import doors
    from lvlm_atlas.site.finder import DATA, find_data
    from lvlm_atlas.site.heads import heads
    from lvlm_atlas.site.llms import llms_txt
    from lvlm_atlas.site.pages import final, pages
    from lvlm_atlas.site.render import environment, render

    source = source_of(kb.atlas.root)
    content, templates = Content(_predicting(kb), published, python), environment(source)
    made = pages(content)
    blocks: Blocks = {}
    commands: list[str] = []
    files = {page.path: put_aside(shown(render(content, page, templates), commands), blocks) for page in made}
    files[DATA] = find_data(content, made, files)
    for kind, id_, document in _documents(content):
        files[content.routes.path(kind, id_).removesuffix(".md") + ".json"] = document
    for old in kb.atlas.redirects:
        files[f"techniques/{old}.json"] = content.data.forwarding(old, final(content, old))
    files["llms.txt"] = llms_txt(content)
    files |= dict(doors(content))
    shutil.copytree(source / "assets", folder / "pages" / "assets")
    for path, text in files.items():
        place = folder / "pages" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8", newline="\n")
    (folder / "pages" / WHOLE).write_bytes(gzip.compress(content.data.whole.encode(), mtime=0))
    config = configuration(content, made, source / "mkdocs.yml", site_dir)
    (folder / "mkdocs.yml").write_text(config, encoding="utf-8", newline="\n")
    for name, value in ((HEADS, heads(content, made, published)), (BLOCKS, blocks), (COMMANDS, commands)):
        text = json.dumps(value, ensure_ascii=False, indent=1)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return folder


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _predicting(kb: KnowledgeBase) -> KnowledgeBase:
    """The knowledge base with the interactions that the roofline predicts."""
    from lvlm_atlas.planner.planner import Planner
    from lvlm_atlas.planner.predicted import with_predictions

    return with_predictions(Planner(kb.atlas.root, kb))


def _documents(content: Content) -> Iterator[tuple[str, str, str]]:
    """Each record that has a page: kind, id, the record as JSON with what the atlas adds."""
    from lvlm_atlas.roofline.contract import contract
    from lvlm_atlas.site.models import predictions, reference_case

    atlas, data = content.atlas, content.data
    for technique in content.techniques:
        yield "technique", technique.id, data.technique(technique)
    for model in atlas.models.values():
        case = reference_case(content, model.id)
        predicted = [contract(each.bound) for each in predictions(content, case) if each.bound] if case else []
        yield "model", model.id, data.record("model", model, predicted)
    for device in atlas.hardware.values():
        yield "device", device.id, data.record("device", device)
    for runtime in atlas.runtimes.values():
        yield "runtime", runtime.id, data.record("runtime", runtime)
    for system in atlas.systems.values():
        yield "system", system.id, data.record("system", system)


def source_of(root: Path) -> Path:
    """The site's templates: the root's own, or those of the package."""
    own = root / "site"
    return own if (own / "mkdocs.yml").is_file() else data_root() / "site"


@contextmanager
def _passing() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="lvlm-atlas-") as folder:
        yield Path(folder)


def _remove_stale(folder: Path) -> None:
    """Remove what builds that were killed long ago left beside the site."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        with suppress(OSError):
            if left.lstat().st_mtime < time.time() - STALE_S and {each.name for each in left.iterdir()} <= _WORK:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place if all goes well and vanishes if not."""
    if folder.exists() and not folder.is_dir():
        raise AtlasError(f"{folder} is a file; name a folder for the site")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise AtlasError(f"{folder} holds files that are not ours; empty it or name another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise AtlasError(f"cannot write beside {folder}: {error.strerror}") from None
    new, old = work / "new", work / "old"
    try:
        new.mkdir()
        yield new
        (new / MARK).write_text("Made by lvlm-atlas; replaced at the next build.\n", encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
