"""Tasks: each question has the answer that its pictures give, and the same number is the same sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvlm_atlas.lab.photographs.scene import labels
from lvlm_atlas.lab.photographs.sources import sources
from lvlm_atlas.lab.tasks.stills import cell_word
from lvlm_atlas.lab.tasks.task import TASKS, Task, training_sample
from lvlm_atlas.lab.tasks.vocabulary import ASK, END, IMAGE, token_ids, vocabulary
from lvlm_atlas.lab.training.batch import UNJUDGED, batch, shown
from lvlm_atlas.lab.training.shapes import shapes
from lvlm_atlas.lab.training.trainer import PICTURES

SAMPLES = range(8)
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


pytestmark = pytest.mark.usefixtures("noise")


@every_task
def test_a_number_is_always_the_same_sample(task: Task) -> None:
    for number in SAMPLES:
        one, again = task.sample(number), task.sample(number)
        assert one.turns == again.turns
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one.frames, again.frames, strict=True))
    assert len({task.sample(number).turns for number in SAMPLES}) > 1


@every_task
def test_samples_held_back_are_none_of_those_trained_on(task: Task) -> None:
    assert any(
        not np.array_equal(task.sample(number).frames[0].pixels, task.sample(number, training=True).frames[0].pixels)
        for number in SAMPLES
    )


@every_task
def test_the_answer_is_what_the_pictures_show(task: Task) -> None:
    for number in SAMPLES:
        sample = task.sample(number)
        for turn in sample.turns:
            about, *rest = turn.question
            (first, *_), scene = turn.answer, sample.frames[0]
            match about:
                case "name":
                    (cell,) = [cell for cell in range(9) if cell_word(cell) == rest[0]]
                    assert first == scene.at(cell)
                case "where":
                    (thing,) = [thing for thing in scene.things if thing.word == rest[0]]
                    assert first == cell_word(thing.cell)
                case "count":
                    assert first == str(scene.count(rest[0]))
                case "read":
                    assert "".join(turn.answer) == scene.label
                case "tallest":
                    assert scene.bars[int(first) - 1] == max(scene.bars)
                case "describe":
                    assert 8 <= len(turn.answer) <= 20
                    assert [word for word in turn.answer if word in sources().things.files] == [
                        thing.word for thing in scene.things
                    ]
                case "which":
                    showing = [at for at, each in enumerate(sample.frames) if each.count(rest[0])]
                    assert showing == [int(first) - 1]
                case _:
                    raise AssertionError(about)


def test_every_word_has_a_token_of_its_own() -> None:
    ids = [*vocabulary().values()]
    assert len(set(ids)) == len(ids)
    assert set(labels()) - {"bar", "tallest bar"} <= set(vocabulary())


@pytest.mark.parametrize("kind", PICTURES)
def test_a_batch_judges_answers_alone_and_has_a_place_for_each_vision_token(kind: str) -> None:
    random = np.random.default_rng(0)
    samples = [training_sample(random, kind, 48) for _ in range(2)]
    made = batch(samples, shapes()["llava"])
    assert int((made.ids_BN == token_ids(IMAGE)[0]).sum()) == 144 * len(made.frames_F3HW)
    for row, sample in enumerate(samples):
        judged = made.target_BN[row][made.target_BN[row] != UNJUDGED].tolist()
        assert judged == [id_ for turn in sample.turns for id_ in token_ids(*turn.answer, END)]
        before = made.ids_BN[row][made.target_BN[row] != UNJUDGED]
        assert int((before == token_ids(ASK)[0]).sum()) == len(sample.turns)
    following = made.ids_BN[:, 1:][made.target_BN[:, :-1] != UNJUDGED]
    assert torch.equal(following, made.target_BN[made.target_BN != UNJUDGED])


def test_a_patch_shows_what_covers_most_of_it() -> None:
    scene = TASKS["where"].sample(0).frames[0]
    told = shown(scene, 8).reshape(12, 12)
    for row in range(12):
        for column in range(12):
            pixels = scene.shown[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            counts = np.bincount(pixels.ravel(), minlength=len(labels()))
            counts[0] = 0
            expected = int(counts.argmax()) if counts.max() > 16 else 0
            assert int(told[row, column]) == expected
