"""The decode loop of one request: propose, verify, settle, until the answer ends."""

from __future__ import annotations

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.rounds import PlainDrafter, Speculation, Verified, ancestors
from lvlm_atlas.reference.flow.request import Result
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop, Stop
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.ops.sampling import draw


def answer(run: Run, prefill: Prefill) -> Result:
    """Decode from what prefill left. The draws of a run depend on the request's seed alone."""
    target, request, trace = run.target, run.request, run.trace
    loop, stops = run.acts.owner("decode-loop"), run.acts.at("stop")
    plain = Speculation(PlainDrafter(target.vocab_size), RejectionSampling())
    speculation: Speculation = loop.begin_decoding(DecodeLoop(run, prefill)) if loop else plain
    drafter, acceptance = speculation.drafter, speculation.acceptance
    generator, cache = torch.Generator().manual_seed(request.seed), prefill.cache
    tokens = [draw(request.distribution(prefill.logits_C), generator)]
    chosen_from = [prefill.logits_C]

    def ended() -> bool:
        if len(tokens) >= request.max_new_tokens or tokens[-1] in run.config.eos_token_ids:
            return True
        return bool(stops) and any(each.stop(Stop(tokens, torch.stack(chosen_from))) for each in stops)

    done = ended()
    while not done:
        proposal = drafter.propose(tokens)
        token_M = torch.cat([torch.tensor(tokens[-1:]), proposal.token_M.cpu()])
        parent_M = torch.cat([torch.tensor([-1]), proposal.parent_M.cpu() + 1])
        waiting = cache.waiting  # tokens whose first layers the drafter has run
        states = target.hidden_states(token_M[waiting:], cache, parent_M[waiting:])
        logits_MC = target.logits(states[-1])
        verdict = acceptance.judge(proposal, request.distribution(logits_MC), generator)
        verified = Verified(proposal, verdict, logits_MC, states)
        path = verified.rows
        trace.target_passes += 1
        trace.draft_nodes.append(len(proposal.token_M))
        trace.draft_lengths.append(int(ancestors(proposal.parent_M.cpu()).sum(1).max()) - 1)
        trace.accepted_lengths.append(len(verdict.path))
        told = [*(int(proposal.token_M[node]) for node in verdict.path), verdict.token]
        before = len(tokens)
        for row, token in zip(path, told, strict=True):
            if not done:
                tokens.append(token)
                chosen_from.append(_own(logits_MC[row], len(path) == len(logits_MC)))
                done = ended()
        # What was accepted behind the end of the answer does not stay.
        cache.retain(torch.tensor(path[: len(tokens) - before], device=target.device))
        drafter.settle(verified)
    trace.kv_byte_end, trace.output_tokens = sum(cache.layer_byte()), len(tokens)
    return Result(tokens_N=torch.tensor(tokens), logits_NC=torch.stack(chosen_from), trace=trace)


def _own(row_C: Tensor, whole: bool) -> Tensor:
    """A row without the rejected rows that it was cut from, which would live as long as it does."""
    return row_C if whole else row_C.clone()
