"""Runs the lab with progress, and writes what comes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from lvlm_atlas import load
from lvlm_atlas.atlas.root import authored_root
from lvlm_atlas.cli.progress import progress
from lvlm_atlas.cli.tensors import need_torch
from lvlm_atlas.fault import AtlasError, suggestion

PART_SAMPLES = 64
"""Held-back samples that parts are judged by, at most, where they are trained behind their model."""
THREADS = 2
"""Of a training: more hardly help matrices of this size, and another number sums in another order."""
PART_THREADS = 1
"""Of a part's training, whose matrices are smaller still: several are trained side by side."""


def run_fetch(given: Path | None) -> None:
    """Fetch the pictures and say where they are.

    Raises:
        AtlasError: a package cannot be had.
    """
    need()
    from lvlm_atlas.lab.photographs.collection import place, prepare
    from lvlm_atlas.lab.photographs.sources import sources

    if place().is_file():
        typer.echo(f"the pictures are there already: {place()}")
        return
    with progress("packages", len(sources().packages)) as advance:
        path = prepare(given, advance)
    typer.echo(f"kept in {path}")
    for name, package in sources().packages.items():
        typer.echo(f"{name} {package.version}: {package.licence}", err=True)


def run_train(root: Path, name: str, seed: int, samples: int, out: Path) -> None:
    """Train a model, judge it, and write it.

    Raises:
        AtlasError: there is no dialect of that name, or no pictures.
    """
    need()
    import torch

    from lvlm_atlas.lab.curves.judging import judged
    from lvlm_atlas.lab.photographs.collection import collection
    from lvlm_atlas.lab.tasks.task import TASKS
    from lvlm_atlas.lab.training import recipe
    from lvlm_atlas.lab.training.checkpoint import write
    from lvlm_atlas.lab.training.shapes import shapes
    from lvlm_atlas.lab.training.trainer import Trainer

    own = authored_root(root)
    if name not in shapes():
        raise AtlasError(f"no dialect {name!r}; {suggestion(name, shapes(), shapes())}")
    collection()
    id_ = _id(name, seed)
    torch.set_num_threads(THREADS)
    trainer = Trainer(shapes()[name], seed, out / f"{id_}-{recipe.digest()}.pt")
    with progress("steps of training", recipe.total(), trainer.step) as advance, _told(out):
        for _ in trainer.run():
            advance()
    trainer.model.requires_grad_(requires_grad=False)
    with progress("tasks", len(TASKS)) as advance:
        about = judged(trainer.model, samples, advance)
    folder = write(
        own, id_, trainer.model, {
            "dialect": name, "seed": seed, "steps": recipe.total(), "pictures": recipe.total() * recipe.FRAMES,
            "samples": samples, **about,
        },
    )  # fmt: skip
    typer.echo(f"wrote {folder}")
    for task, accuracy in about["accuracy"].items():
        typer.echo(f"{task}: {accuracy:.3f}, blind {about['blind'][task]:.3f}", err=True)
    run_train_parts(root, name, seed, min(samples, PART_SAMPLES), (), out)


def run_train_parts(root: Path, name: str, seed: int, samples: int, parts: Sequence[str], out: Path) -> None:
    """Train parts of a model that is trained already, judge them, and write them.

    Args:
        root: the root.
        name: the dialect.
        seed: the model's; the parts have the same.
        samples: held-back samples of each kind to judge by.
        parts: which; none means all that suit the model and that it lacks.
        out: folder that keeps what was begun.

    Raises:
        AtlasError: there is no such part or model, or no pictures.
    """
    need()
    import torch

    from lvlm_atlas.lab.parts.part import lacking, write
    from lvlm_atlas.lab.parts.trainer import PartTrainer
    from lvlm_atlas.lab.parts.trainings import trainings
    from lvlm_atlas.lab.photographs.collection import collection
    from lvlm_atlas.lab.training.checkpoint import known, load

    own, id_, trained = authored_root(root), _id(name, seed), known(root)
    if id_ not in trained:
        raise AtlasError(f"no trained model {id_!r}; {suggestion(id_, trained, trained)}")
    collection()
    torch.set_num_threads(PART_THREADS)
    model = load(root, trained[id_])
    suiting = trainings(model.config)
    for part in chosen_of("part", parts, suiting) if parts else lacking(root, trained[id_], suiting):
        training = suiting[part]
        kept = out / f"{id_}-{part}-{trained[id_].sha256[:8]}-{training.steps}.pt"
        trainer = PartTrainer(training, model, seed, kept)
        with progress(f"steps of {part}", training.steps, trainer.step) as advance, _told(out):
            for _ in trainer.run():
                advance()
        held_back = dict(training.judged(model, trainer.trainable.part, samples))
        about = {"seed": seed, "samples": samples, "held_back": held_back}
        typer.echo(f"wrote {write(own, trained[id_], part, trainer.trainable.part, about)}")
        kept.unlink(missing_ok=True)
        typer.echo(", ".join(f"{kind} {share:.3f}" for kind, share in held_back.items()), err=True)


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """Where a training is interrupted, say that it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted: the run is kept in {out}, and the same command goes on", err=True)
        raise


def _id(dialect: str, seed: int) -> str:
    return f"lab-{dialect.replace('_', '-')}-s{seed}"


def run_curves(
    root: Path, ids: Sequence[str], samples: int, tasks: Sequence[str], checkpoints: Sequence[str], device: str, *,
    again: bool,
) -> int:  # fmt: skip
    """Run, write a record for each technique, and return how many failed.

    Raises:
        AtlasError: a name is unknown, there are no pictures or no trained models, or a technique needs training.
    """
    need()
    need_torch("the lab needs", device)
    from lvlm_atlas.lab.curves.curve import CurveAnswer, CurveJob, about, lost
    from lvlm_atlas.lab.curves.record import missing, write
    from lvlm_atlas.lab.isolation import Bounds, in_processes
    from lvlm_atlas.lab.parts.part import known as known_parts
    from lvlm_atlas.lab.photographs.collection import collection
    from lvlm_atlas.lab.tasks.task import TASKS
    from lvlm_atlas.lab.training.checkpoint import known

    own, atlas = authored_root(root), load(root)
    whole = not (tasks or checkpoints)
    collection()
    trained = known(root)
    chosen_checkpoints = chosen_of("trained model", checkpoints, trained)
    chosen_tasks = chosen_of("task", tasks, TASKS)
    named = [*{each.id: each for each in map(atlas.technique, ids)}.values()]
    hashes = {name: trained[name].sha256 for name in chosen_checkpoints}
    parts = {name: known_parts(root, trained[name]) for name in chosen_checkpoints}
    every = named or [each for each in atlas.atlas.techniques.values() if each.reference]
    curves = atlas.atlas.curves
    jobs = []
    for each in every:
        earlier = curves.get(each.id) if whole and not again else None
        if run := missing(earlier, samples, hashes, parts):
            kept = earlier if len(run) < len(hashes) else None
            jobs.append(CurveJob(
                technique=each, root=str(root), checkpoints=run, samples=samples, tasks=chosen_tasks, device=device,
                again=kept,
            ))  # fmt: skip
    earlier_of = {job.technique.id: job.again for job in jobs}
    failed, bounds = 0, Bounds(time_s=3_600.0)
    with progress(f"techniques on {device}", len(every), len(every) - len(jobs)) as advance:
        try:
            for answer in in_processes(
                jobs, "lvlm_atlas.lab.curves.curve", CurveAnswer, lost, about, device=device, bounds=bounds
            ):
                if answer.failed:
                    failed += 1
                    advance(f"{answer.technique} FAILED: {answer.failed}")
                elif answer.untrained:
                    advance(f"{answer.technique}: brings weights that are not trained here, no curve")
                else:
                    earlier = earlier_of[answer.technique]
                    if whole and (earlier or not answer.unsuited):
                        write(own, answer, samples, hashes, device, earlier=earlier)
                    declines = answer.unsuited and f"no curve on these models: {answer.unsuited}"
                    ran = f"{answer.knob or 'no knob'}, {len(answer.tasks)} curves"
                    advance(f"{answer.technique}: {declines or ran}")
        except KeyboardInterrupt:
            typer.echo("interrupted: records that are written stay, and the same command goes on", err=True)
            raise
    if not whole:
        typer.echo("not recorded: a record holds all tasks and trained models", err=True)
    return failed


def chosen_of(what: str, names: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """The names that were given, or all that are known.

    Raises:
        AtlasError: one is not known.
    """
    for name in names:
        if name not in known:
            raise AtlasError(f"no {what} {name!r}; {suggestion(name, known, known)}")
    return tuple(names) or tuple(known)


def need() -> None:
    """Make sure that the lab's libraries are there.

    Raises:
        AtlasError: one is missing.
    """
    try:
        import numpy  # noqa: F401
        import PIL  # noqa: F401
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise AtlasError(
            f"the lab needs {error.name}; install it with: pip install 'lvlm-atlas[lab]', in a checkout '.[lab]'"
        ) from None
