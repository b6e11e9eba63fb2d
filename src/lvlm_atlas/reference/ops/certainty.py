"""How sure a model is of what it generated, from the logits that its tokens were chosen from.

N tokens, C vocabulary.
"""

from __future__ import annotations

from torch import Tensor


def perplexity(logits_NC: Tensor, token_N: Tensor) -> float:
    """exp(−mean log p) of the tokens, 1 or more; 1/p of a single token.

    Args:
        logits_NC: what each token was chosen from; temperature 1, all tokens.
        token_N: the tokens, one at least.

    Raises:
        ValueError: there is no token.
    """
    if len(token_N) == 0:
        raise ValueError("the perplexity is that of at least one token, got none")
    log_NC = logits_NC.cpu().double().log_softmax(-1)
    return float(log_NC.gather(1, token_N.cpu()[:, None]).mean().neg().exp())


def margin_uncertainty(logits_NC: Tensor) -> Tensor:
    """1 − (p₁ − p₂) of each place (N,), float32: 0 where one token has all probability, 1 where two share the lead."""
    best_N2 = logits_NC.float().softmax(-1).topk(2, dim=-1).values
    return 1 - (best_N2[:, 0] - best_N2[:, 1])
