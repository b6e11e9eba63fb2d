"""The LVLM: one answer however it is computed, extension points in order, counts that add up."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.caches.store import PlainStore
from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.rounds import PlainDrafter, Speculation, ancestors
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm import LVLM, Stack, StackError, random_request
from lvlm_atlas.reference.lvlm.config import LVLMConfig
from lvlm_atlas.reference.lvlm.contexts import Frames, LlmInput, LlmLayer
from lvlm_atlas.reference.lvlm.points import POINTS
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.attention import causal_mask
from lvlm_atlas.reference.ops.blocks import Blocks
from lvlm_atlas.reference.ops.sampling import distribution

TINY = [name for name in PRESETS if name.startswith("tiny")]


def speechless_of_placeholders(preset: str, device: str) -> LVLM:
    """A model whose answers hold no placeholder, so that they can be read again."""
    lvlm = LVLM.random(preset, device=device)
    lvlm.language_model.lm_head.weight[list(lvlm.config.placeholders)] = 0
    return lvlm


@pytest.fixture(scope="module", params=TINY)
def lvlm(request: pytest.FixtureRequest, device: str) -> LVLM:
    return speechless_of_placeholders(request.param, device)


PLAIN = [name for name in TINY if isinstance(PRESETS[name], LVLMConfig) and not PRESETS[name].image_grid_pinpoints]


@pytest.fixture(scope="module", params=PLAIN)
def llava(request: pytest.FixtureRequest, device: str) -> LVLM:
    """A model that makes as many vision tokens of a frame as it has patches."""
    return speechless_of_placeholders(request.param, device)


def test_decoding_with_a_cache_equals_reading_everything_again(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    answer = lvlm.run(request)
    for told in range(1, len(answer.tokens_N)):
        prompt = torch.cat([request.prompt_N, answer.tokens_N[:told]])
        again = lvlm.run(dataclasses.replace(request, prompt_N=prompt, max_new_tokens=1))
        torch.testing.assert_close(again.logits_NC[0], answer.logits_NC[told], atol=1e-4, rtol=1e-4)


def test_a_token_sees_nothing_that_follows_it(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    inputs = lvlm.prepare(lvlm.begin(request))
    with torch.inference_mode():
        longer = lvlm.prefill(inputs)
        shorter = lvlm.prefill(inputs.keep(torch.arange(20, device=lvlm.device)[None]))
    for long_store, short_store in zip(longer.cache.stores, shorter.cache.stores, strict=True):
        torch.testing.assert_close(long_store.read()[0][:, :, :20], short_store.read()[0])


def test_a_drafted_tree_gives_each_path_the_logits_of_a_chain(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    tokens, parents = torch.tensor([5, 6, 7, 8, 9]), torch.tensor([-1, 0, 0, 1, 3])
    with torch.inference_mode():
        inputs = lvlm.prepare(lvlm.begin(request))
        tree = lvlm.step(tokens, lvlm.prefill(inputs).cache, parents)
        for path in ([0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 3, 4]):
            chain = lvlm.step(tokens[path], lvlm.prefill(inputs).cache)
            torch.testing.assert_close(chain[-1], tree[path[-1]], atol=1e-4, rtol=1e-4)


def test_ancestors_of_a_tree_by_hand() -> None:
    seen = ancestors(torch.tensor([-1, 0, 0, 2]))
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


def test_what_was_drafted_and_rejected_leaves_no_trace_in_the_cache(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=1)
    with torch.inference_mode():
        inputs = lvlm.prepare(lvlm.begin(request))
        one, two = (lvlm.prefill(inputs).cache for _ in range(2))
        lvlm.step(torch.tensor([5, 6, 7]), one)
        one.retain(torch.tensor([0, 1], device=lvlm.device))
        lvlm.step(torch.tensor([5, 6]), two)
        two.retain(torch.tensor([0, 1], device=lvlm.device))
    assert one.next_position.equal(two.next_position)
    for mine, theirs in zip(one.stores, two.stores, strict=True):
        torch.testing.assert_close(mine.read()[0], theirs.read()[0], atol=1e-5, rtol=1e-5)


def test_the_trace_of_a_plain_run_counts_what_the_shapes_say(llava: LVLM) -> None:
    config, trace = llava.config, llava.run(random_request(llava.config)).trace
    patches, layers = config.vision.patches, config.text.num_hidden_layers
    assert trace.encoder_tokens == [patches + 1] * (config.encoder_layers + 1)
    assert trace.vision_tokens == 6 * patches
    assert trace.text_tokens == 16
    length = 6 * patches + 16
    assert trace.llm_tokens == trace.kv_entries == [length] * layers
    assert trace.score_entries == [config.text.num_attention_heads * length * (length + 1) // 2] * layers
    element = 2 * config.text.num_key_value_heads * config.text.head_dim * 4
    assert trace.kv_byte == [length * element] * layers
    assert trace.kv_byte_end == (length + 11) * element * layers
    assert trace.target_passes == 11
    assert trace.probe_entries == 0


def test_the_encoder_stops_at_the_feature_layer(device: str) -> None:
    plain = LVLM.random(device=device)
    changed = LVLM.random(device=device)
    with torch.no_grad():
        for weight in changed.dialect.vision_tower.vision_model.encoder.layers[-1].parameters():
            weight.fill_(9.0)
    request = random_request(plain.config, max_new_tokens=2)
    assert torch.equal(plain.run(request).logits_NC, changed.run(request).logits_NC)


def test_sizes_weigh_in_attention_only_where_they_are_proportional(device: str) -> None:
    class Sizes(Technique):
        acts_at = ("encoder-layer",)

        def __init__(self, proportional: bool) -> None:
            self.proportional = proportional

        def encoder_layer(self, at):
            patches = at.patches
            size_FN = 1.0 + torch.arange(patches.hidden_FND.shape[1], device=patches.hidden_FND.device)
            size_FN = size_FN.expand(patches.hidden_FND.shape[:2])
            return dataclasses.replace(patches, size_FN=size_FN, proportional=self.proportional)

    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=1)
    plain, without, with_ = (lvlm.run(request, stack).logits_NC for stack in ([], [Sizes(False)], [Sizes(True)]))
    torch.testing.assert_close(plain, without)
    assert not torch.allclose(plain, with_)


def test_sampling_repeats_under_a_seed_and_differs_under_another(lvlm: LVLM) -> None:
    def sample(seed: int) -> list[int]:
        request = dataclasses.replace(random_request(lvlm.config, temperature=1.5), seed=seed)
        return lvlm.run(request).tokens_N.tolist()

    assert sample(1) == sample(1)
    assert len({tuple(sample(seed)) for seed in range(5)}) > 1


def test_a_temperature_of_zero_is_one_hot_at_the_argmax() -> None:
    assert distribution(torch.tensor([[0.1, 3.0, 2.0]]), 0.0).tolist() == [[0.0, 1.0, 0.0]]


def test_weights_are_the_same_for_a_seed_and_differ_for_another(device: str) -> None:
    one, two, other = (LVLM.random(seed=seed, device=device) for seed in (3, 3, 4))
    assert torch.equal(one.language_model.lm_head.weight, two.language_model.lm_head.weight)
    assert not torch.equal(one.language_model.lm_head.weight, other.language_model.lm_head.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_runs_and_stays_finite(dtype: torch.dtype, device: str) -> None:
    lvlm = LVLM.random(dtype=dtype, device=device)
    assert lvlm.run(random_request(lvlm.config)).logits_NC.isfinite().all()


def test_the_end_token_ends_the_answer(device: str) -> None:
    lvlm = LVLM.random(device=device)
    first = int(lvlm.run(random_request(lvlm.config)).tokens_N[0])
    lvlm.config = dataclasses.replace(lvlm.config, eos_token_ids=(first,))
    assert lvlm.run(random_request(lvlm.config)).tokens_N.tolist() == [first]


def test_a_prompt_without_a_placeholder_a_frame_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=2)
    broken = dataclasses.replace(request, prompt_N=request.prompt_N[request.prompt_N != lvlm.config.image_token_id])
    with pytest.raises(ValueError, match="0 image placeholders for 2 frames"):
        lvlm.run(broken)


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no preset 'huge'; there are tiny"):
        LVLM.random("huge")


class Recorder(Technique):
    """Acts at every point, changes nothing, and notes when it was called."""

    acts_at = tuple(POINTS)

    def __init__(self) -> None:
        self.calls: list[str] = []

    def answer(self, at):
        self.calls.append("answer")
        return at.ask(at.run.request)

    def select_frames(self, at: Frames) -> Tensor:
        self.calls.append("frames")
        return torch.arange(len(at.request.frames_F3HW))

    def resize(self, at):
        self.calls.append("pixels")
        return at.frames_F3HW

    def encode(self, at):
        self.calls.append("encoder")
        return at.encoder(at.frames_F3HW)

    def attend_patches(self, at):
        self.calls.append("encoder-attention")
        return at.attend()

    def encoder_layer(self, at):
        self.calls.append("encoder-layer")
        return at.patches

    def encoder_output(self, at):
        self.calls.append("encoder-output")
        return at.patches

    def adapt(self, at):
        self.calls.append("adapter")
        return at.adapter(at.hidden_FND)

    def adapter_output(self, at):
        self.calls.append("adapter-output")
        return at.tokens

    def llm_input(self, at):
        self.calls.append("llm-input")
        return at.sequence

    def split_prompt(self, at):
        self.calls.append("prefill-chunks")
        return torch.tensor([at.sequence.length])

    def exchange_projections(self, at) -> None:
        self.calls.append("projections")

    def llm_layer(self, at):
        self.calls.append("llm-layer")
        assert (at.sequence.attention is None) == (at.layer == 0)
        return at.sequence

    def choose_blocks(self, at):
        self.calls.append("attention")
        batch, heads, length = at.query_BHNd.shape[:3]
        return Blocks(torch.ones(batch, heads, 1, 1, dtype=torch.bool, device=at.query_BHNd.device), length)

    def compress_cache(self, at):
        self.calls.append("cache-tokens")
        return at.entries

    def compress_caches(self, at):
        self.calls.append("cache-layers")
        return at.entries

    def new_store(self, at):
        self.calls.append("cache-bits")
        self.groups = at.entries.key_BGSd.shape[1]
        return PlainStore()

    def evict(self, at) -> None:
        self.calls.append("cache-step")

    def choose_entries(self, at):
        self.calls.append("cache-read")
        return torch.arange(at.settled, device=at.query_BHMd.device).expand(1, self.groups, -1)

    def begin_decoding(self, at):
        self.calls.append("decode-loop")
        return Speculation(PlainDrafter(at.run.target.vocab_size), RejectionSampling())

    def stop(self, at) -> bool:
        self.calls.append("stop")
        return False


def test_a_technique_that_does_nothing_at_every_point_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    plain, recorded = lvlm.run(request), lvlm.run(request, [Recorder()])
    assert torch.equal(plain.tokens_N, recorded.tokens_N)
    torch.testing.assert_close(plain.logits_NC, recorded.logits_NC)


def test_the_points_are_met_in_pipeline_order(lvlm: LVLM) -> None:
    recorder = Recorder()
    passes = lvlm.run(random_request(lvlm.config), [recorder]).trace.target_passes
    in_passes = {"cache-read"}
    once = [call for call in recorder.calls if call not in in_passes]
    assert list(dict.fromkeys(once)) == [point for point in POINTS if point not in in_passes]
    assert recorder.calls.count("cache-read") == passes * lvlm.config.text.num_hidden_layers
    assert recorder.calls.count("encoder-layer") == lvlm.config.encoder_layers
    assert recorder.calls.count("llm-layer") == lvlm.config.text.num_hidden_layers


def at(*positions: str, needs: tuple[str, ...] = (), name: str = "Owner") -> Technique:
    """A technique that declares these positions and has the methods of all."""
    return type(name, (Recorder,), {"acts_at": positions, "needs": needs})()


@pytest.mark.parametrize("position", [position for position, point in POINTS.items() if point.exclusive])
def test_two_owners_of_an_exclusive_point_are_refused_with_the_reason(position: str) -> None:
    Stack((at(position),))
    with pytest.raises(StackError, match=f"Owner and Owner both own '{position}'"):
        Stack((at(position), at("stop", position)))


@pytest.mark.parametrize("position", [position for position, point in POINTS.items() if not point.exclusive])
def test_every_other_point_is_shared(position: str) -> None:
    Stack((at(position), at(position)))


@pytest.mark.parametrize("order", [1, -1])
def test_who_needs_what_another_withholds_is_refused_in_either_order(order: int) -> None:
    reader, kernel = at("cache-tokens", needs=("attention-map",), name="Reader"), at("attention", name="Kernel")
    with pytest.raises(StackError, match="Reader needs `attention-map`, which nobody can read once Kernel acts at"):
        Stack((reader, kernel)[::order])
    Stack((at("cache-tokens", needs=("attention-row",)), kernel))
    Stack((at("attention", needs=("attention-map",)),))  # nobody stands in its own way


def test_what_a_technique_withholds_is_missed_by_those_behind_it_alone() -> None:
    drop, pool = at("encoder-output", name="Drop"), at("adapter", needs=("whole-grid",), name="Pool")
    type(drop).withholds = ("whole-grid",)
    for order in (1, -1):
        with pytest.raises(StackError, match="Pool needs `whole-grid`, which nobody finds behind Drop"):
            Stack((drop, pool)[::order])
    same = at("encoder-output", needs=("whole-grid",), name="Same")
    Stack((same, drop))  # at one place the order of the stack decides
    with pytest.raises(StackError, match="Same needs `whole-grid`"):
        Stack((drop, same))
    Stack((at("pixels", needs=("whole-grid",)), drop))


class Bare(Technique):
    """Declares nothing, whatever its methods are called."""

    def resize(self) -> None:
        """A helper with the name of a point's method."""


@pytest.mark.parametrize("thing", [object(), Recorder, 3, Bare(), at("llm-imput")])
def test_what_acts_nowhere_is_a_fault_rather_than_ignored(thing: object) -> None:
    with pytest.raises(TypeError, match=r"is no technique|acts at no extension point"):
        Stack((thing,))


def test_a_helper_named_like_a_point_is_not_taken_for_one(lvlm: LVLM) -> None:
    class Helped(Bare):
        acts_at = ("llm-input",)

        def llm_input(self, at):
            return at.sequence

    request = random_request(lvlm.config, frames=1, max_new_tokens=1)
    assert torch.equal(lvlm.run(request, [Helped()]).logits_NC, lvlm.run(request).logits_NC)


def test_a_declared_point_without_its_method_is_a_fault(lvlm: LVLM) -> None:
    class Silent(Technique):
        acts_at = ("llm-layer",)

    with pytest.raises(TypeError, match="Silent acts at 'llm-layer', but Silent has no method 'llm_layer'"):
        lvlm.run(random_request(lvlm.config, frames=1), [Silent()])


@dataclass(frozen=True)
class Budget(Technique):
    """Keeps shares of the vision tokens that entered the LLM, layer by layer: it must remember how many those were."""

    shares: tuple[float, ...]
    acts_at: ClassVar = ("llm-input", "llm-layer")

    def begin(self, run: Run) -> Spending:
        return Spending(self.shares, run)


class Spending:
    """The state of one run."""

    def __init__(self, shares: tuple[float, ...], run: Run) -> None:
        self.shares, self.run, self.entered = shares, run, 0

    def llm_input(self, at: LlmInput) -> Sequence:
        prompt = self.run.prompt
        assert prompt is not None
        self.entered = int(prompt.vision_BN.sum())
        text_TD = at.sequence.hidden_BND[0, ~at.sequence.vision_BN[0]]
        assert torch.equal(self.run.question_ND, text_TD)
        assert text_TD.shape == (len(self.run.request.text_N), self.run.config.text.hidden_size)
        return at.sequence

    def llm_layer(self, at: LlmLayer) -> Sequence:
        keep = round(self.shares[at.layer] * self.entered)
        return at.sequence.keep_vision(torch.arange(keep, device=at.sequence.hidden_BND.device)[None])


def test_a_technique_remembers_within_a_run_and_forgets_between_runs(llava: LVLM) -> None:
    technique, patches = Budget((1.0, 0.5, 0.5, 0.25)), llava.config.vision.patches
    for frames in (4, 2, 4):
        trace = llava.run(random_request(llava.config, frames=frames), [technique]).trace
        wanted = [round(share * frames * patches) for share in technique.shares]
        assert trace.llm_vision_tokens == wanted[: llava.config.text.num_hidden_layers]


class FirstFrames(Technique):
    acts_at = ("frames",)

    def select_frames(self, at: Frames) -> Tensor:
        return torch.tensor([0, 2])


class EveryOtherVisionToken(Technique):
    acts_at = ("llm-layer",)

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def llm_layer(self, at):
        if at.layer != self.layer:
            return at.sequence
        vision = at.sequence.vision_places().shape[1]
        return at.sequence.keep_vision(torch.arange(0, vision, 2, device=at.sequence.hidden_BND.device)[None])


def test_dropped_frames_take_their_placeholders_along(llava: LVLM) -> None:
    request = random_request(llava.config, frames=4)
    trace = llava.run(request, [FirstFrames()]).trace
    assert (trace.frames_in, trace.frames, trace.vision_tokens) == (4, 2, 2 * llava.config.vision.patches)
    is_image = request.prompt_N == llava.config.image_token_id
    fewer = torch.cat(
        [request.prompt_N[~is_image][:4], request.prompt_N[is_image][:2], request.prompt_N[~is_image][4:]]
    )
    by_hand = dataclasses.replace(request, frames_F3HW=request.frames_F3HW[[0, 2]], prompt_N=fewer)
    assert torch.equal(llava.run(request, [FirstFrames()]).logits_NC, llava.run(by_hand).logits_NC)


def test_techniques_at_one_point_apply_in_the_order_given(llava: LVLM) -> None:
    patches = llava.config.vision.patches
    trace = llava.run(
        random_request(llava.config, frames=2), [EveryOtherVisionToken(1), EveryOtherVisionToken(2)]
    ).trace
    assert trace.llm_vision_tokens[:3] == [2 * patches, patches, patches // 2]
    assert all((index.diff(dim=-1) > 0).all() for index in trace.kept)


def test_a_pruned_layer_equals_masking_what_was_pruned(lvlm: LVLM) -> None:
    """Dropping tokens with their position ids kept is the same as never attending to them."""
    request = random_request(lvlm.config, frames=1, max_new_tokens=1)
    pruned = lvlm.run(request, [EveryOtherVisionToken(1)])
    kept = pruned.trace.kept[1][0]

    class Mask(Technique):
        acts_at = ("attention",)

        def choose_blocks(self, at):
            mask = causal_mask(at.query_BHNd.shape[2], at.query_BHNd.device)
            if at.layer >= 1:
                dead = torch.ones_like(mask[0])
                dead[kept] = False
                mask = mask & ~dead[None, :] | torch.eye(len(mask), dtype=torch.bool, device=mask.device)
            return Blocks(mask.expand(*at.query_BHNd.shape[:2], *mask.shape), size=1)

    torch.testing.assert_close(pruned.logits_NC, lvlm.run(request, [Mask()]).logits_NC, atol=1e-4, rtol=1e-4)


def test_a_stopper_ends_the_answer(lvlm: LVLM) -> None:
    class AfterThree(Technique):
        acts_at = ("stop",)

        def stop(self, at) -> bool:
            lengths.append(len(at.tokens))
            return len(at.tokens) >= 3

    lengths: list[int] = []
    assert len(lvlm.run(random_request(lvlm.config), [AfterThree()]).tokens_N) == 3
    assert lengths == [1, 2, 3]  # asked once after each token
