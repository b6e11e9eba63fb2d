"""Training: resumable, the same for the same seed, and what it writes is what is read again."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.curves.asking import ask, first_request
from lvlm_atlas.lab.curves.judging import judged
from lvlm_atlas.lab.photographs.scene import SIDE
from lvlm_atlas.lab.tasks.task import TASKS
from lvlm_atlas.lab.training import interrupted, recipe
from lvlm_atlas.lab.training.batch import batch
from lvlm_atlas.lab.training.checkpoint import WEIGHTS, known, load, write
from lvlm_atlas.lab.training.reading import encoded, sequence
from lvlm_atlas.lab.training.recipe import Phase
from lvlm_atlas.lab.training.shapes import patch_order, shapes, vision_tokens
from lvlm_atlas.lab.training.trainer import Trainer
from lvlm_atlas.reference.lvlm.config import Config, LVLMConfig
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.weights import fill
from lvlm_atlas.reference.lvlm.windows import to_patches
from lvlm_atlas.site.trained import trained

every_shape = pytest.mark.parametrize("name", shapes())
PHASES = (
    Phase(2, {"still": 1.0}, language=False),
    Phase(3, {"still": 0.5, "needle": 0.5}),
    Phase(2, {"still": 0.5, "needle": 0.5}, sparse=1.0, placed=1.0),
)


pytestmark = pytest.mark.usefixtures("noise")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe of seven steps that is kept after each."""
    monkeypatch.setattr(recipe, "PHASES", PHASES)
    monkeypatch.setattr(recipe, "FRAMES", 8)
    monkeypatch.setattr(interrupted, "SAVE_EVERY", 1)


def small(config: Config) -> Config:
    vision, text = config.vision, config.text
    return replace(
        config,
        vision=replace(vision, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=1),
        text=replace(text, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=1,
                     num_key_value_heads=1),
    )  # fmt: skip


def a_model(config: Config, seed: int = 0) -> LVLM:
    return fill(LVLM.empty(config), seed=seed, dtype=torch.float32, device="cpu")


@pytest.mark.usefixtures("short")
@every_shape
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    config = small(shapes()[name])
    whole = Trainer(config, 3, tmp_path / "whole.pt")
    first = whole.tell.weight.detach().clone()
    losses = [*whole.run()]
    assert len(losses) == recipe.total()
    assert not torch.equal(first, whole.tell.weight)
    begun = Trainer(config, 3, tmp_path / "parts.pt")
    assert len([*itertools.islice(begun.run(), 3)]) == 3
    resumed = Trainer(config, 3, tmp_path / "parts.pt")
    assert resumed.step == 3
    assert [*resumed.run()] == losses[3:]
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_rates_start_anew_where_a_phase_says_so_and_end_at_a_tenth() -> None:
    first, peak = 0, 1.0
    for at, phase in enumerate(recipe.PHASES):
        if phase.rate is not None:
            peak = phase.rate
            assert recipe.rate_share(first) == pytest.approx(peak / recipe.WARM_UP, rel=0.01)
        first += phase.steps
        following = recipe.PHASES[at + 1 : at + 2]
        if not following or following[0].rate is not None:
            assert recipe.rate_share(first - 1) == pytest.approx(0.1 * peak, abs=0.01)


@every_shape
def test_the_models_keep_to_their_size(name: str) -> None:
    config = shapes()[name]
    assert 144 <= vision_tokens(config) <= 256
    assert sum(weight.numel() for weight in LVLM.empty(config).parameters()) <= 5e6


@every_shape
def test_what_is_written_is_read_again_and_answers_alike(name: str, tmp_path: Path) -> None:
    config = shapes()[name]
    model = a_model(config)
    about = {"dialect": name, "seed": 0, "steps": 1, "pictures": 32, "samples": 1,
             "accuracy": {}, "blind": {}, "downsampled": {}}  # fmt: skip
    folder = write(tmp_path, "lab-x", model, about)
    (checkpoint,) = known(tmp_path).values()
    again = load(tmp_path, checkpoint)
    assert again.config == config
    shown = trained(tmp_path)["lab-x"]  # as pages read it, without torch
    assert (shown.vision_tokens, shown.layers) == (vision_tokens(config), config.text.num_hidden_layers)
    for (name_1, one), (name_2, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name_1 == name_2
        assert torch.allclose(one, other, atol=1e-2)
    (folder / WEIGHTS).write_bytes(b"changed")
    with pytest.raises(AtlasError, match="restore it"):
        load(tmp_path, checkpoint)


def test_without_trained_models_the_lab_says_so(tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="holds no trained model"):
        known(tmp_path)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_can_be_asked_and_counts_each_question(task) -> None:
    (config,) = (each for each in shapes().values() if isinstance(each, LVLMConfig))
    model, sample = a_model(small(config)), task.sample(0)
    answered = ask(model, task, sample, tuple)
    assert len(answered.right) == len(sample.turns)
    assert answered.trace.frames == len(sample.frames)


def test_judging_has_every_task_under_every_change() -> None:
    model = a_model(small(next(iter(shapes().values()))))
    shares = judged(model, 1, lambda _: None)
    assert all(set(each) == set(TASKS) for each in shares.values())


@every_shape
def test_a_few_steps_make_the_loss_smaller(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "PHASES", (Phase(16, {"still": 1.0}),))
    monkeypatch.setattr(recipe, "WARM_UP", 2)
    monkeypatch.setattr(recipe, "FRAMES", 4)
    losses = [
        answers + patches for _, answers, patches in Trainer(small(shapes()[name]), 0, tmp_path / "kept.pt").run()
    ]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


@every_shape
def test_what_is_trained_reads_as_requests_are_read(name: str) -> None:
    model = a_model(small(shapes()[name]))
    for task in (TASKS["where"], TASKS["images"], TASKS["needle"]):
        sample = task.sample(0)
        shown = batch([sample], model.config)
        entered = sequence(model, shown, encoded(model, shown.frames_F3HW))
        run = model.begin(first_request(model, sample))
        prompt = model.prepare(run)
        length = prompt.length
        assert torch.allclose(entered.hidden_BND[:, :length], prompt.hidden_BND, atol=1e-5)
        assert torch.equal(entered.position_BN[:, :length], prompt.position_BN)


@every_shape
def test_labels_of_patches_stand_where_the_encoder_has_their_pixels(name: str) -> None:
    config = shapes()[name]
    side, patch = SIDE // config.vision.patch_size, config.vision.patch_size
    marked = torch.zeros(2, 3, SIDE, SIDE)
    marked[:, :, 3 * patch : 4 * patch, 5 * patch : 6 * patch] = 1
    order = patch_order(config)
    assert sorted(order.tolist()) == [*range(side**2)]
    if not isinstance(config, LVLMConfig):
        seen_P = to_patches(marked, config.vision)[0].sum(-1)
        assert order[int(seen_P.argmax())] == 3 * side + 5
