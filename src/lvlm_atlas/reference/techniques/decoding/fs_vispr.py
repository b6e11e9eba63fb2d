"""FS-VisPR: the video model answers at once where it is sure, and through a visual program where it is not.

Paper: li2025fsvispr. Its abstract was read, and a public review that restates the confidence and the modules; there is
no official code.
Symbols: Conf(V, Q) = exp(mean log p) → `confidence`; its threshold θ → `threshold`; `top_k` of the module that
retrieves clips → `top_k`.

Stand-in: a tuned language model (FS-LLM) sorts questions into simple and difficult ones and writes a program for the
latter. Here `router` sorts them; without one every question counts as simple, so that confidence alone decides. In
place of a written program stands the paper's simplest: retrieve the clips closest to the question, then ask about them.

Departs:
1. A clip is one frame, retrieved by an image-text matcher, CLIP-shaped with random weights unless one is given.
2. Subtitles, trimming by time and yes-no questions, which other programs use, are not there.
3. A variant that would retrieve all frames is left out: it is the fast answer once more.
4. A program fails if it raises anything or returns nothing; of equally confident variants the first counts.

F frames, K frames that are retrieved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.request import Request, Result
from lvlm_atlas.reference.lvlm.contexts import Answer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher, matcher_of
from lvlm_atlas.reference.ops.certainty import perplexity
from lvlm_atlas.reference.ops.selection import top_places

Program = Callable[[Request, int, Callable[[Request], Result]], Result | None]
"""A visual program: from a request, its parameter `top_k`, and what asks the model, to an answer."""


def confidence(result: Result) -> float:
    """exp(mean log p) of the tokens of an answer, in (0, 1]."""
    return 1 / perplexity(result.logits_NC, result.tokens_N)


def most_confident(results: list[Result]) -> Result | None:
    """The answer with the highest confidence, the first of equal ones; None of none."""
    return max(results, key=confidence, default=None)


def run_variants(program: Callable[[int], Result | None], top_k: tuple[int, ...]) -> list[Result]:
    """The answers of a program for each value of its parameter, without those that fail."""

    def run(value: int) -> Result | None:
        try:
            return program(value)
        except Exception:  # noqa: BLE001 - a program that a model wrote may raise anything
            return None

    answers = [run(value) for value in top_k]
    return [answer for answer in answers if answer is not None]


def about_clips(score_F: Tensor) -> Program:
    """The program that asks about the clips of the best scores, in their order in time."""
    return lambda request, top_k, ask: ask(request.keep_frames(top_places(score_F, top_k)))


@dataclass(frozen=True)
class FsVisPr(Technique):
    """At `answer`: a fast answer, a visual program in some variants, or first the one and then the other.

    Raises:
        ValueError: a parameter out of its range.
    """

    threshold: float = 0.5
    """Confidence with which a fast answer is kept."""
    top_k: tuple[int, ...] = (4, 8)
    """Clips that the variants of a program retrieve."""
    router: Callable[[Request], bool] | None = field(default=None, repr=False)
    """Whether a request is difficult; None: none is."""
    program: Program | None = field(default=None, repr=False)
    """The program of a request; None: retrieve clips, then ask about them."""
    matcher: ImageTextMatcher | None = field(default=None, repr=False)
    """Retrieves clips; None takes the one that the model of the run keeps."""

    acts_at: ClassVar = ("answer",)
    needs: ClassVar = ("training-data", "image-text-matcher")

    def __post_init__(self) -> None:
        self.expect_shares("threshold")
        if not self.top_k or min(self.top_k) < 1 or list(self.top_k) != sorted(set(self.top_k)):
            raise ValueError(f"top_k must be rising numbers of at least 1, got {list(self.top_k)}")

    def begin(self, run: Run) -> FsVisPr:
        """The technique with a matcher."""
        return self if self.matcher else replace(self, matcher=matcher_of(run))

    def answer(self, at: Answer) -> Result:
        """The fast answer if it is sure or the program fails; else that of the most confident variant."""
        request = at.run.request
        fast = None
        if self.router is None or not self.router(request):
            fast = at.ask(request)
            if self.threshold == 0 or confidence(fast) >= self.threshold:
                return fast
        slow = most_confident(self.slow(request, at.ask))
        if slow is not None:
            return slow
        return at.ask(request) if fast is None else fast

    def slow(self, request: Request, ask: Callable[[Request], Result]) -> list[Result]:
        """The answers of the program's variants, none where all would retrieve all frames."""
        variants = tuple(value for value in self.top_k if value < len(request.frames_F3HW))
        if not variants:
            return []
        program = self.program or about_clips(self.scores(request))
        return run_variants(lambda value: program(request, value, ask), variants)

    def scores(self, request: Request) -> Tensor:
        """Similarity (F,) of each frame with the text of the prompt.

        Raises:
            ValueError: nothing scores frames.
        """
        if self.matcher is None:
            raise ValueError("frames are scored by a matcher; give one, or call what `begin` returns")
        return torch.cat([self.matcher.score(frames_F3HW, request.text_N) for frames_F3HW in request.runs]).cpu()
