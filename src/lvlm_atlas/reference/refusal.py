"""Refusals: what a technique, a stack or a model declines to run on purpose. Any other exception is a crash."""

from __future__ import annotations


class Refusal(ValueError):  # noqa: N818 - a legitimate outcome of a run
    """A setting that this model or request cannot take; the message says which, what it is, and the repair."""


class StackError(Refusal):
    """Techniques that cannot run together."""
