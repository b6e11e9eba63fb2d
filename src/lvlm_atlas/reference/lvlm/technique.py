"""A technique, what it may know of a run, and what acts in one."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor

from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.config import Config
from lvlm_atlas.reference.lvlm.prompt import Prompt


class Technique:
    """Base of every technique: a frozen dataclass whose fields are the parameters of its entry."""

    acts_at: ClassVar[tuple[str, ...]] = ()
    """Positions at which it acts, keys of `POINTS`, as in its entry."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What it must be given, as in its entry."""
    withholds: ClassVar[tuple[str, ...]] = ()
    """Needs that others behind it can no longer be given, as in its entry."""
    only_looks_at: ClassVar[tuple[str, ...]] = ()
    """Those of `acts_at` at which it returns what it is given."""
    admits: ClassVar[bool] = False
    """Whether at `cache-step` it says which new tokens are cached at all; it then comes before those that evict."""

    def expect_at_least(self, least: float, *names: str) -> None:
        """For `__post_init__`: parameters of these names are not below.

        Raises:
            ValueError: one is.
        """
        for name in names:
            if not getattr(self, name) >= least:  # nor NaN
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def expect_shares(self, *names: str) -> None:
        """For `__post_init__`: parameters of these names are in [0, 1].

        Raises:
            ValueError: one is not.
        """
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    def calibrate(self, lvlm: Target, samples: Seq[Request]) -> Self:  # noqa: ARG002 - for those that override it
        """The technique with what it fits to a model beforehand, in its field `calibration`.

        Those that need `calibration-samples` bring it, and cannot run before.

        Args:
            lvlm: the model that it is to run on.
            samples: requests like those that it will be asked.

        Raises:
            TypeError: the technique fits nothing.
        """
        raise TypeError(f"{type(self).__name__} fits nothing to a model beforehand; run it as it is")

    def begin(self, run: Run) -> Any:  # noqa: ARG002 - for those that override it
        """What acts in this run: an object with the method of each point. Itself, unless it holds state."""
        return self


@dataclass(frozen=True)
class Acts:
    """What acts in a run."""

    by_position: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    retain_attention: bool = False
    """Whether prefill keeps every layer's attention for the decoding loop."""
    retain_states: bool = False
    """Whether it keeps what entered every layer."""
    places_lost: bool = False
    """Whether the tokens of the adapter stand on no grid."""
    unrotated: bool = False
    """Whether the cache holds keys as they are before rotary, and rotates them by their places in it."""

    def at(self, position: str) -> tuple[Any, ...]:
        """What acts at a position, in the order of the stack."""
        return self.by_position.get(position, ())

    def owner(self, position: str) -> Any | None:
        """What acts at an exclusive position, if anything does."""
        return next(iter(self.at(position)), None)


@dataclass
class Run:
    """What a technique may know of the run that it begins."""

    config: Config
    """Shapes of the model."""
    request: Request
    """As it was asked; nothing is dropped yet. In a session (`LVLM.stream`) that of the round, as are `trace`,
    `prompt` and `question_ND`: read them from the run when they are needed."""
    trace: Trace
    """What is counted; a draft notes its passes here."""
    target: Target
    """The model that answers."""
    techniques: Seq[Technique]
    """The whole stack, in order."""
    prompt: Prompt | None = None
    """The assembled prompt with modality and spans; None until the vision tokens are there."""
    acts: Acts = field(default_factory=Acts, repr=False)
    round: int = 0
    """Which round of a session is read, from 0."""

    def score(self, request: Request, techniques: Seq[Technique] = ()) -> Prefill:
        """What the target's prefill makes of a request of its own, such as one frame and a question about it.

        For techniques that ask the model itself which frames or tokens matter. `logits_C` of what is returned are those
        of the next token, `outputs` the last hidden states, and `Target.step` goes on from its `cache`. Its trace is
        added to `trace.scoring`; encoder and prefill of it are overheads to declare.

        Raises:
            StackError: the techniques cannot run together.
            Refusal: one declines this model or request.
            ValueError: the request's prompt does not fit its frames or the model.
        """
        run: Run = self.target.begin(request, techniques)
        self.trace.scoring.append(run.trace)
        return self.target.prefill(self.target.prepare(run), run)

    @property
    def question_ND(self) -> Tensor:  # noqa: N802 - names carry shapes
        """Embeddings (N_t, D) of the request's text."""
        return self.target.embed(self.request.text_N)
