"""Layouts of servers that tests of serving share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lvlm_atlas.serving.policy import Policy, Pool

E_, P_, D_ = "encoding", "prefilling", "decoding"
ALL = (E_, P_, D_)


def server(*pools: tuple[Sequence[str], int], **rules: Any) -> Policy:
    """A policy with pools of so many instances that run these stages, named by their letters."""
    made = tuple(
        Pool(name="+".join(stages), stages=frozenset(stages), instances=count) for stages, count in pools
    )  # fmt: skip
    return Policy(id="test", pools=made, **rules)
