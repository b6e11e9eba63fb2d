"""A session on one cache: frames arrive and are read at once, questions come in between or after.

B batch, F frames, N tokens, A axes of a position.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from copy import deepcopy
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.flow.request import Request, Result
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.answer import answer
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.technique import Acts, Run


class Streaming(Protocol):
    """A model, as far as a session needs it."""

    config: Config

    def begin(self, request: Request, techniques: Seq[Any] = ()) -> Run:
        """A run of the request with techniques; nothing is computed yet."""

    def prepare(self, run: Run) -> Sequence:
        """The prompt of a run's request at the LLM's input, encoded."""

    def prefill(self, inputs: Sequence, run: Run | None = None, cache: Cache | None = None) -> Prefill:
        """Read a prompt into a new cache, or behind what a cache holds."""

    def step(self, token_M: Tensor, cache: Cache, parent_M: Tensor | None = None) -> Tensor:
        """Logits after new tokens, whose entries are added to the cache, unsettled."""


class Stream:
    """A session: rounds that follow one another on one cache. `LVLM.stream` makes it.

    A round reads frames (`see`) or a question that may bring frames of its own (`ask`); a conversation of several turns
    is a session, too. Techniques are begun once, with the first round. `Run` says which round it is, and its `request`,
    `prompt` and `trace` are those of the round. What the encoder gives is dropped once it is in the cache: memory grows
    as the cache does, and stays where a technique bounds it.

    Args:
        model: the model.
        techniques: the stack, in order.
        image_token_id: the placeholder of frames: whether they are stills or a video's.
        temperature: 0 decodes greedily.
        seed: seed of every random draw; each round has its own draws.
        tokenize: as in `Request`.
    """

    def __init__(
        self,
        model: Streaming,
        techniques: Seq[Any] = (),
        *,
        image_token_id: int,
        temperature: float = 0.0,
        seed: int = 0,
        tokenize: Callable[[str], Seq[int]] | None = None,
    ) -> None:
        self.rounds: list[Trace] = []
        """Counts of each round, without the places of tokens."""
        self._model, self._techniques = model, techniques
        self._image_token_id, self._temperature, self._seed = image_token_id, temperature, seed
        self._tokenize = tokenize
        self._run: Run | None = None
        self._cache: Cache | None = None

    @property
    def cache(self) -> Cache:
        """What the session holds.

        Raises:
            ValueError: nothing was read yet.
        """
        if self._cache is None:
            raise ValueError("nothing was read yet, so nothing is cached; call `see` or `ask` first")
        return self._cache

    @property
    def trace(self) -> Trace:
        """Counts of all rounds together; of the cache, what the last round left."""
        return Trace.total(self.rounds)

    @torch.inference_mode()
    def see(
        self,
        frames: Tensor | tuple[Tensor, ...],
        prompt_N: Tensor | None = None,
        *,
        second_F: Tensor | None = None,
        image_token_id: int | None = None,
        video_token_id: int | None = None,
    ) -> Trace:
        """Read frames into the cache.

        Args:
            frames: as in `Request`. They are a clip of their own: frames of a video seen in two rounds stand in two
                clips, as two videos of a prompt do.
            prompt_N: token ids with a placeholder a frame; None: the placeholders alone.
            second_F: when each frame was, seconds.
            image_token_id: the placeholder, if it is another than the session's.
            video_token_id: as in `Request`, where both stills and a video come.

        Returns what was counted in this round.

        Raises:
            Refusal: a technique declines the model or this round.
            ValueError: there is not one placeholder a frame.
        """
        token = self._image_token_id if image_token_id is None else image_token_id
        prompt_N = torch.full((len(frames),), token) if prompt_N is None else prompt_N
        run, inputs = self._prepare(self._request(frames, prompt_N, (token, video_token_id), second_F, 1))
        if inputs.length:  # a technique may have dropped all
            self._prefill(run, inputs)
        return self._close()

    @torch.inference_mode()
    def ask(
        self,
        prompt_N: Tensor,
        max_new_tokens: int = 16,
        *,
        frames: Tensor | tuple[Tensor, ...] = (),
        second_F: Tensor | None = None,
        image_token_id: int | None = None,
        video_token_id: int | None = None,
        keep: bool = True,
    ) -> Result:
        """Answer a question about all that is in the cache.

        Args:
            prompt_N: token ids of the question, with a placeholder for each of `frames`.
            max_new_tokens: as in `Request`.
            frames: frames that come with the question.
            second_F: when each of them was, seconds.
            image_token_id: the placeholder, if it is another than the session's.
            video_token_id: as in `Request`, where both stills and a video come.
            keep: whether question and answer stay in the cache, as turns of a chat do. Else the session, techniques
                included, goes on as if they had never been: all that it holds is copied before.

        Raises:
            Refusal: a technique declines the model or this round.
            ValueError: there is no token, or not one placeholder a frame.
        """
        if len(prompt_N) == 0:
            raise ValueError("a question must have a token, got none; ask something")
        token = self._image_token_id if image_token_id is None else image_token_id
        before = None if keep or self._run is None else self._copy(self._run)
        first = self._run is None
        run, inputs = self._prepare(self._request(frames, prompt_N, (token, video_token_id), second_F, max_new_tokens))
        result = answer(run, self._prefill(run, inputs))
        if keep:
            self._read_last(result)
        elif first:
            self._run = self._cache = None
        elif before is not None:
            self._cache, run.acts = before
        self._close()
        return result

    def _request(
        self,
        frames: Tensor | tuple[Tensor, ...],
        prompt_N: Tensor,
        tokens: tuple[int, int | None],
        second_F: Tensor | None,
        max_new_tokens: int,
    ) -> Request:
        return Request(
            frames_F3HW=frames, prompt_N=prompt_N, image_token_id=tokens[0], video_token_id=tokens[1],
            max_new_tokens=max_new_tokens, temperature=self._temperature, seed=self._seed + len(self.rounds),
            second_F=second_F, tokenize=self._tokenize,
        )  # fmt: skip

    def _prepare(self, request: Request) -> tuple[Run, Sequence]:
        """The run at a new round, and what the round reads."""
        started = self._model.begin(request, self._techniques if self._run is None else ())
        run = self._run = self._run or started
        run.request, run.prompt, run.trace, run.round = request, None, started.trace, len(self.rounds)
        return run, self._model.prepare(run)

    def _prefill(self, run: Run, inputs: Sequence) -> Prefill:
        """Read a round behind those before."""
        if self._cache is not None:
            self._cache.trace = run.trace
            inputs = self._cache.behind(inputs)
        prefill = self._model.prefill(inputs, run, self._cache)
        self._cache = prefill.cache
        return prefill

    def _read_last(self, result: Result) -> None:
        """Add the last token of an answer to the cache: nothing has followed it yet."""
        cache = self.cache
        cache.trace = Trace()
        self._model.step(result.tokens_N[-1:], cache)
        cache.retain(torch.zeros(1, dtype=torch.long, device=cache.next_position.device))

    def _copy(self, run: Run) -> tuple[Cache | None, Acts]:
        """Cache and techniques' state, apart from what they only refer to: models, settings, the run itself."""
        settings = [value for each in run.techniques for value in (each, *vars(each).values())]
        shared = (run, run.target, run.config, run.request, *settings)
        copied: tuple[Cache | None, Acts] = deepcopy((self._cache, run.acts), {id(each): each for each in shared})
        return copied

    def _close(self) -> Trace:
        """End a round."""
        trace = self._run.trace if self._run else Trace()
        self.rounds.append(replace(trace, kept=[], kv_index=[], frame_index=None))
        return trace
