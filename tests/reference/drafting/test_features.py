"""A head on the target's features: what stands beside what, and that the passes of a tree are those of its paths."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.acceptance import GreedyMatch
from lvlm_atlas.reference.drafting.features import FeatureDraft, Prompt
from lvlm_atlas.reference.drafting.rounds import Drafter, Proposal, Speculation, Verdict, Verified
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter, TreeDrafter
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm import LVLM, Request, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop, LlmLayer, PrefillChunks
from lvlm_atlas.reference.modules.feature_head import FeatureHead
from lvlm_atlas.reference.modules.kept import drawn

PRESETS = ["tiny", "tiny-window", "tiny-deepstack"]


def drafting(lvlm: LVLM, head: FeatureHead, prompt: Prompt, trace: Trace | None = None) -> FeatureDraft:
    rows = head.enter(prompt.embed_ND[1:], prompt.feature_ND[:-1])
    return FeatureDraft(lvlm, head.layer, head.enter, rows, prompt.position_N[1:], prompt, trace or Trace())


def head_of(lvlm: LVLM) -> FeatureHead:
    return drawn(lambda: FeatureHead(lvlm.config.text), device=lvlm.device)


@dataclass(frozen=True)
class Headed(Technique):
    """Trees by a head."""

    head: FeatureHead
    nodes: int = 9
    depth: int = 3

    acts_at: ClassVar = ("decode-loop",)

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        run = at.run
        draft = drafting(run.target, self.head, Prompt.of(run.target, at.prefill), run.trace)  # type: ignore[arg-type]
        return Speculation(GrowingTreeDrafter(draft, self.nodes, self.depth, 3), GreedyMatch())


def asked(lvlm: LVLM, frames: int = 1) -> Request:
    return random_request(lvlm.config, frames=frames, max_new_tokens=12)


def by_hand(
    lvlm: LVLM, head: FeatureHead, request: Request, tokens: Seq[int], features: Tensor | None = None
) -> Tensor:
    """The head's features (N, D) in one causal pass over the prompt and these tokens; given ones come last."""
    inputs = lvlm.prepare(lvlm.begin(request))
    prefill = lvlm.prefill(inputs)
    feature = lvlm.final_norm(prefill.outputs.hidden_BND[0])
    if features is not None:
        feature = torch.cat([feature, features])
    embed = torch.cat([inputs.hidden_BND[0, 1:], lvlm.embed(torch.tensor(tokens))])
    x = head.fc(torch.cat([embed, feature], dim=-1))[None]
    position = inputs.position_BN
    after = inputs.next_position[:, None] + torch.arange(len(tokens), device=lvlm.device)
    if position.dim() == 3:
        after = after[..., None].expand(-1, -1, position.shape[2])
    position = torch.cat([position[:, 1:], after], dim=1)
    query, key, value = head.layer.project(x, position)
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), float("-inf"))
    return head.layer.finish(x, scores.softmax(-1) @ value)[0]


@pytest.mark.parametrize("preset", PRESETS)
@torch.inference_mode()
def test_a_head_reads_each_token_beside_the_targets_feature_of_the_place_before(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    head, request, trace = head_of(lvlm), asked(lvlm, frames=2), Trace()
    prefill = lvlm.prefill(lvlm.prepare(lvlm.begin(request)))
    draft = drafting(lvlm, head, Prompt.of(lvlm, prefill), trace)
    logits = draft.read([5])
    expected = by_hand(lvlm, head, request, [5])
    torch.testing.assert_close(logits, lvlm.head(expected[-1:])[0], rtol=1e-3, atol=1e-3)
    assert trace.draft_tokens == prefill.inputs.length
    assert trace.draft_passes == 1
    # Behind it, each token of a tree stands beside the head's own feature of its parent.
    rows = draft.guess(torch.tensor([7, 8]), torch.tensor([-1, -1]))
    rows = torch.cat([rows, draft.guess(torch.tensor([9, 3]), torch.tensor([1, 0]))])
    for path, row in (([7], 0), ([8], 1), ([8, 9], 2), ([7, 3], 3)):
        own = expected[-1:]
        for count in range(1, len(path) + 1):
            own = by_hand(lvlm, head, request, [5, *path[:count]], torch.cat([own[: count - 1], own[-1:]]))[
                -count - 1 :
            ]
        torch.testing.assert_close(rows[row], lvlm.head(own[-1:])[0], rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_after_a_round_the_targets_features_take_the_place_of_the_heads_own(device: str) -> None:
    lvlm = LVLM.random(device=device)
    head, request = head_of(lvlm), asked(lvlm)
    prefill = lvlm.prefill(lvlm.prepare(lvlm.begin(request)))
    draft = drafting(lvlm, head, Prompt.of(lvlm, prefill))
    draft.read([5])
    draft.guess(torch.tensor([7, 8]), torch.tensor([-1, -1]))
    draft.guess(torch.tensor([9]), torch.tensor([1]))
    # The target verifies 7 8 9 behind 5 and accepts 8 and 9.
    proposal = Proposal(torch.tensor([7, 8, 9]), torch.tensor([-1, -1, 1]), torch.zeros(3, 128))
    states = lvlm.hidden_states(torch.tensor([5, 7, 8, 9]), prefill.cache, torch.tensor([-1, 0, 0, 2]))
    draft.keep(0)
    draft.learn(Verified(proposal, Verdict((1, 2), 4), lvlm.logits(states[-1]), states))
    logits = draft.read([5, 8, 9, 4])
    features = lvlm.final_norm(states[-1][[0, 2, 3]])
    expected = by_hand(lvlm, head, request, [5, 8, 9, 4], features)
    torch.testing.assert_close(logits, lvlm.head(expected[-1:])[0], rtol=1e-3, atol=1e-3)
    assert draft.store.length == prefill.inputs.length + 3


def markov(lvlm: LVLM) -> None:
    """Make the target's next token a function of the last one alone: no layer adds anything."""
    for layer in lvlm.language_model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()


def knowing(lvlm: LVLM) -> FeatureHead:
    """The head that knows this: its feature is the embedding of the token that it reads."""
    head = head_of(lvlm)
    width = lvlm.config.text.hidden_size
    head.fc.weight.data = torch.eye(width, 2 * width, device=lvlm.device)
    head.layer.self_attn.o_proj.weight.data.zero_()
    head.layer.mlp.down_proj.weight.data.zero_()
    return head


@pytest.mark.parametrize("preset", ["tiny", "tiny-window"])
def test_a_head_that_knows_the_target_has_all_its_best_paths_accepted(preset: str, device: str) -> None:
    """The embedding is that of the token after the feature: one place off, nothing would be accepted."""
    lvlm = LVLM.random(preset, device=device)
    markov(lvlm)
    request = asked(lvlm)
    plain, result = lvlm.run(request), lvlm.run(request, [Headed(knowing(lvlm), nodes=21)])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    assert set(result.trace.accepted_lengths) == {3}


@pytest.mark.parametrize("preset", PRESETS)
def test_greedy_answers_are_the_targets_own_with_any_head(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = asked(lvlm)
    plain, result = lvlm.run(request), lvlm.run(request, [Headed(head_of(lvlm))])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-4, atol=1e-4)
    rounds = result.trace.target_passes
    assert result.trace.draft_passes == 3 * rounds
    assert result.trace.draft_nodes == [9] * rounds


@dataclass(frozen=True)
class DropHalf(Technique):
    """Drops every other vision token before a layer of the target's LLM."""

    acts_at: ClassVar = ("llm-layer",)

    def llm_layer(self, at: LlmLayer) -> Sequence:
        sequence, vision = at.sequence, at.sequence.vision_places().shape[1]
        return sequence.keep_vision(torch.arange(0, vision, 2)[None]) if at.layer == 2 else sequence


@dataclass(frozen=True)
class Sevens(Technique):
    """Reads prompts by sevens."""

    acts_at: ClassVar = ("prefill-chunks",)

    def split_prompt(self, at: PrefillChunks) -> Tensor:
        whole, rest = divmod(at.sequence.length, 7)
        return torch.tensor([7] * whole + [rest] * bool(rest))


def prompt_of(lvlm: LVLM, *stack: Technique) -> tuple[Prompt, Sequence]:
    run = lvlm.begin(asked(lvlm), stack)
    prefill = lvlm.prefill(lvlm.prepare(run), run)
    return Prompt.of(lvlm, prefill), prefill.outputs


@torch.inference_mode()
def test_what_was_dropped_inside_the_llm_has_no_feature_but_stays(device: str) -> None:
    lvlm = LVLM.random(device=device)
    whole, _ = prompt_of(lvlm)
    cut, outputs = prompt_of(lvlm, DropHalf())
    assert len(cut.embed_ND) == len(whole.embed_ND) > outputs.length
    gone = torch.ones(len(cut.embed_ND), dtype=torch.bool, device=device)
    gone[outputs.index_BN[0]] = False
    assert not cut.feature_ND[gone].any()
    torch.testing.assert_close(cut.feature_ND[~gone], lvlm.final_norm(outputs.hidden_BND[0]))
    assert bool(cut.vision_N[gone].all())


@torch.inference_mode()
def test_a_prompt_read_in_chunks_has_all_its_features(device: str) -> None:
    lvlm = LVLM.random(device=device)
    (whole, _), (chunked, _) = prompt_of(lvlm), prompt_of(lvlm, Sevens())
    torch.testing.assert_close(chunked.feature_ND, whole.feature_ND, rtol=1e-4, atol=1e-4)
    assert torch.equal(chunked.position_N, whole.position_N)


@torch.inference_mode()
def test_a_kept_guess_counts_as_read(device: str) -> None:
    lvlm = LVLM.random(device=device)
    head = head_of(lvlm)
    prompt, _ = prompt_of(lvlm)
    one, two = drafting(lvlm, head, prompt), drafting(lvlm, head, prompt)
    for draft in (one, two):
        draft.read([5])
        draft.guess(torch.tensor([7]))
    one.guess(torch.tensor([3]))
    one.keep(1)
    torch.testing.assert_close(one.guess(torch.tensor([8])), two.guess(torch.tensor([8])), rtol=1e-3, atol=1e-3)
    assert one.store.length == two.store.length
    two.keep(0)
    assert two.store.length == one.store.length - 2


def test_drafters_are_told_what_the_target_computed(device: str) -> None:
    """Trees of either kind pass it on to what predicts."""
    heard: list[Verified] = []

    class Listening:
        def keep(self, count: int) -> None:
            assert count == 0

        def learn(self, verified: Verified) -> None:
            heard.append(verified)

    verified = Verified(Proposal.none(4), Verdict((), 0), torch.zeros(1, 4), ())
    drafters: list[Drafter] = [
        TreeDrafter(Listening(), ((1,),)),  # type: ignore[arg-type]
        GrowingTreeDrafter(Listening(), 1, 1, 1),  # type: ignore[arg-type]
    ]
    for drafter in drafters:
        drafter.settle(verified)
    assert heard == [verified, verified]
