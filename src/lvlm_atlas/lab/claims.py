"""Which smoke checks a technique is spared because its entry says that they cannot hold. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lvlm_atlas.schema.effect import Effect, LlmVisionTokens, TextTokens
from lvlm_atlas.schema.technique import Technique


def _reorders(effect: Effect) -> bool:
    return getattr(effect, "order", "kept") == "new"


def _drops_text(effect: Effect) -> bool:
    return isinstance(effect, TextTokens)


def _returns_tokens(effect: Effect) -> bool:
    """Whether a later layer may see more tokens. What is removed layer by layer never comes back."""
    if not isinstance(effect, LlmVisionTokens):
        return False
    return effect.order == "new" or (effect.to_layer is not None and effect.remove is None)


_EXCUSES: Mapping[str, tuple[Callable[[Effect], bool], str]] = {
    "kept-in-order": (_reorders, "says `order: new`"),
    "text-is-alive": (_drops_text, "removes text"),
    "never-grows": (_returns_tokens, "lets tokens return"),
}
"""The effects that a check cannot hold under, and what to say of one, by the name of the check."""
NEUTRAL = "neutral-is-identity"
"""The check that a technique without a neutral setting is spared."""


def spared(technique: Technique) -> dict[str, str]:
    """The smoke checks that a technique is not held to, each with the reason from its entry."""
    reasons = {}
    if technique.neutral is None:
        reasons[NEUTRAL] = technique.no_neutral or "no neutral setting"
    for check, (excuses, words) in _EXCUSES.items():
        for effect in technique.effects:
            if excuses(effect):
                reasons[check] = f"the effect on `{effect.quantity}` {words}"
    return reasons
