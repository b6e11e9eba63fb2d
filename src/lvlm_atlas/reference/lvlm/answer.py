"""The decode loop of one request: propose, verify, settle, until the answer ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.decoding import PlainDrafter, ancestors, distribution, draw
from lvlm_atlas.reference.lvlm.points import BeginDecoding, Stack, Stop
from lvlm_atlas.reference.lvlm.prefill import Prefill
from lvlm_atlas.reference.lvlm.request import Request, Result
from lvlm_atlas.reference.lvlm.trace import Trace

if TYPE_CHECKING:
    from lvlm_atlas.reference.lvlm.model import LVLM


def answer(lvlm: LVLM, request: Request, prefill: Prefill, stack: Stack, trace: Trace) -> Result:
    """Decode from what prefill left. The draws of a run depend on the request's seed alone."""
    loop = stack.owner(BeginDecoding)
    drafter = (
        loop.begin_decoding(lvlm, request, prefill, stack, trace) if loop else PlainDrafter(lvlm.config.text.vocab_size)
    )
    generator, cache = torch.Generator().manual_seed(request.seed), prefill.cache
    cache.prompt.clear()
    tokens = [draw(distribution(prefill.logits_C, request.temperature), generator)]
    chosen_from = [prefill.logits_C]

    def ended() -> bool:
        if len(tokens) >= request.max_new_tokens or tokens[-1] in lvlm.config.eos_token_ids:
            return True
        stoppers = list(stack.at(Stop))
        return bool(stoppers) and any(t.stop(tokens, torch.stack(chosen_from)) for t in stoppers)

    while not ended():
        proposal = drafter.propose(tokens)
        token_M = torch.cat([torch.tensor(tokens[-1:]), proposal.token_M.cpu()])
        parent_M = torch.cat([torch.tensor([-1]), proposal.parent_M.cpu() + 1])
        logits_MC = lvlm.step(token_M, cache, parent_M)
        verdict = drafter.verify(proposal, distribution(logits_MC, request.temperature), generator)
        path = [0, *(node + 1 for node in verdict.path)]
        cache.retain(torch.tensor(path, device=lvlm.device))
        trace.target_passes += 1
        trace.draft_nodes.append(len(proposal.token_M))
        trace.draft_lengths.append(int(ancestors(proposal.parent_M.cpu()).sum(1).max()) - 1)
        trace.accepted_lengths.append(len(verdict.path))
        told = [*(int(proposal.token_M[node]) for node in verdict.path), verdict.token]
        for row, token in zip(path, told, strict=True):
            if not ended():
                tokens.append(token)
                chosen_from.append(_own(logits_MC[row], len(path) == len(logits_MC)))
    trace.kv_byte_end, trace.output_tokens = cache.byte, len(tokens)
    return Result(tokens_N=torch.tensor(tokens), logits_NC=torch.stack(chosen_from), trace=trace)


def _own(row_C: Tensor, whole: bool) -> Tensor:
    """A row without the rejected rows that it was cut from, which would live as long as it does."""
    return row_C if whole else row_C.clone()
