"""Which technique prunes between the layers of the LLM, where one counts on being the only one."""

from __future__ import annotations

from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.refusal import Refusal


def expect_alone(run: Run, technique: Technique, why: str) -> None:
    """Refuse a run in which another technique beside this one acts at `llm-layer` and does not only look there.

    Args:
        run: the run.
        technique: the one that counts on finding what it left itself.
        why: what it counts, as the beginning of the message.

    Raises:
        Refusal: there is another one.
    """
    for other in run.techniques:
        if other is not technique and "llm-layer" in other.acts_at and "llm-layer" not in other.only_looks_at:
            raise Refusal(f"{why}, and {type(other).__name__} may drop some between its layers; leave one out")
