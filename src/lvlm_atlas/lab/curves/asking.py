"""Asks a model the questions of a sample, as a request or in a session, and says what was right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lvlm_atlas.lab.tasks.sample import Sample
from lvlm_atlas.lab.tasks.task import TASKS, Task
from lvlm_atlas.lab.tasks.vocabulary import ASK, END, IMAGE, VIDEO, token_ids, vocabulary
from lvlm_atlas.lab.training.batch import normalised, opening
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.model import LVLM

MOST_WORDS = 24
"""Longest answer."""


@dataclass(frozen=True)
class Answered:
    """What came of a sample."""

    right: tuple[bool, ...]
    """Of each of its questions."""
    trace: Trace
    """What was counted, all rounds together."""


def placeholder(model: LVLM, sample: Sample) -> str:
    """What marks the frames of a sample in a model's prompts: those of a clip are a video's where it knows those."""
    tokens = {vocabulary()[word]: word for word in (IMAGE, VIDEO)}
    ours = [tokens[id_] for id_ in model.config.placeholders]
    return ours[0] if sample.video else ours[-1]


def first_request(model: LVLM, sample: Sample) -> Request:
    """The pictures of a sample and its first question."""
    mark = placeholder(model, sample)
    words = [*opening(len(sample.frames), mark), *sample.turns[0].question, ASK]
    return Request(
        frames_F3HW=normalised(*(frame.pixels for frame in sample.frames)).to(model.device),
        prompt_N=torch.tensor(token_ids(*words)), image_token_id=token_ids(mark)[0], max_new_tokens=MOST_WORDS,
    )  # fmt: skip


def to_calibrate(model: LVLM) -> list[Request]:
    """Requests on pictures to train on, one of each task, for what is fitted to a model."""
    return [first_request(model, task.sample(0, training=True)) for task in TASKS.values()]


def ask(
    model: LVLM, task: Task, sample: Sample, stack: Callable[[], Sequence[Any]],
    change: Callable[[Tensor], Tensor] = lambda frames: frames,
) -> Answered:  # fmt: skip
    """Ask a model all questions of a sample.

    Args:
        model: the model.
        task: the task; whether its frames are seen before a question is known.
        sample: one of its samples.
        stack: makes the techniques.
        change: what happens to the frames (F, 3, H, W) before.

    Raises:
        Refusal: a technique declines the model, or sessions.
    """
    asked = first_request(model, sample)
    asked = replace(asked, frames_F3HW=change(torch.stack([*asked.frames_F3HW])))
    if not task.streamed:
        (turn,) = sample.turns
        result = model.run(asked, [*stack()])
        return Answered((_right(result.tokens_N, turn.answer),), result.trace)
    session = model.stream([*stack()], image_token_id=asked.image_token_id)
    opened = len(asked.prompt_N) - len(sample.turns[0].question) - 1
    session.see(asked.frames_F3HW, asked.prompt_N[:opened])
    right = []
    for turn in sample.turns:
        result = session.ask(torch.tensor(token_ids(*turn.question, ASK)), MOST_WORDS)
        right.append(_right(result.tokens_N, turn.answer))
    return Answered(tuple(right), session.trace)


def _right(token_N: Tensor, answer: tuple[str, ...]) -> bool:
    return token_N.tolist() == token_ids(*answer, END)
