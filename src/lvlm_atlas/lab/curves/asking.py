"""Asks a model the questions of a sample, as a request or in a session, and says what was right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lvlm_atlas.lab.tasks.sample import Sample
from lvlm_atlas.lab.tasks.task import Task
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
    """What marks the frames of a sample in a model's prompts: several of them are a video's where it knows those."""
    tokens = {vocabulary()[word]: word for word in (IMAGE, VIDEO)}
    ours = [tokens[id_] for id_ in model.config.placeholders]
    return ours[0] if len(sample.frames) > 1 else ours[-1]


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
    mark = placeholder(model, sample)
    token = token_ids(mark)[0]
    frames_F3HW = change(normalised(*(frame.pixels for frame in sample.frames))).to(model.device)
    begin = token_ids(*opening(len(sample.frames), mark))
    if not task.streamed:
        (turn,) = sample.turns
        request = Request(
            frames_F3HW=frames_F3HW, prompt_N=torch.tensor([*begin, *token_ids(*turn.question, ASK)]),
            image_token_id=token, max_new_tokens=MOST_WORDS,
        )  # fmt: skip
        result = model.run(request, [*stack()])
        return Answered((_right(result.tokens_N, turn.answer),), result.trace)
    session = model.stream([*stack()], image_token_id=token)
    session.see(frames_F3HW, torch.tensor(begin))
    right = []
    for turn in sample.turns:
        asked = session.ask(torch.tensor(token_ids(*turn.question, ASK)), MOST_WORDS)
        right.append(_right(asked.tokens_N, turn.answer))
    return Answered(tuple(right), session.trace)


def _right(token_N: Tensor, answer: tuple[str, ...]) -> bool:
    return token_N.tolist() == token_ids(*answer, END)
