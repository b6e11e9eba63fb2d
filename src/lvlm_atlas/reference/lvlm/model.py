"""The reference LVLM in the LLaVA dialect, and the run of a request through it."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.lvlm.attention import Probe, attend, causal_mask
from lvlm_atlas.reference.lvlm.cache import Cache, PlainStore, Store
from lvlm_atlas.reference.lvlm.config import PRESETS, LVLMConfig
from lvlm_atlas.reference.lvlm.decoder import LanguageModel, Layer
from lvlm_atlas.reference.lvlm.decoding import PlainDrafter, ancestors, distribution, draw
from lvlm_atlas.reference.lvlm.points import (
    Adapt,
    Attend,
    BeginDecoding,
    CompressCache,
    EncoderOutput,
    LlmInput,
    LlmLayer,
    NewStore,
    Resize,
    SelectFrames,
    Stack,
    Stop,
)
from lvlm_atlas.reference.lvlm.request import Request, Result
from lvlm_atlas.reference.lvlm.states import Entries, Sequence
from lvlm_atlas.reference.lvlm.trace import Trace
from lvlm_atlas.reference.lvlm.vision import VisionTower


class Projector(nn.Module):
    """LLaVA-1.5's adapter: linear, GELU, linear."""

    def __init__(self, config: LVLMConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(config.vision.hidden_size, config.text.hidden_size)
        self.linear_2 = nn.Linear(config.text.hidden_size, config.text.hidden_size)

    def forward(self, hidden_FND: Tensor) -> Tensor:
        """(F, N, D_v) → (F, N, D)."""
        out: Tensor = self.linear_2(functional.gelu(self.linear_1(hidden_FND)))
        return out


@dataclass(frozen=True)
class Prefill:
    """What prefill leaves behind."""

    inputs: Sequence
    """The prompt as it entered the first decoder layer."""
    cache: Cache
    logits_C: Tensor
    """Logits after the last token of the prompt."""
    attention: tuple[tuple[Probe, Tensor], ...]
    """Each layer's attention and the prompt places (B, N) of its tokens; empty unless retained."""


class LVLM(nn.Module):
    """CLIP ViT, MLP adapter, Llama decoder; techniques act at its extension points."""

    def __init__(self, config: LVLMConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config)
        self.multi_modal_projector = Projector(config)
        self.language_model = LanguageModel(config.text)

    @classmethod
    def random(
        cls,
        preset: str = "tiny",
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> LVLM:
        """A preset with random weights, the same for a seed on every device.

        Matrices are drawn from N(0, 1/fan_in) and norms are 1, so that attention is far from uniform.

        Raises:
            ValueError: no such preset.
        """
        if preset not in PRESETS:
            raise ValueError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        model = cls(PRESETS[preset])
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("bias"):
                    weight.zero_()
                elif "norm" in name:
                    weight.fill_(1)
                else:
                    fan_in = 1 if "embed" in name and weight.dim() < 3 else weight[0].numel()
                    weight.copy_(torch.randn(weight.shape, generator=generator) * fan_in**-0.5)
        return model.to(device=device, dtype=dtype).eval()

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._head().device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self._head().dtype

    def select(self, request: Request, stack: Stack, trace: Trace) -> Request:
        """The request with the frames that enter the encoder; placeholders of the others are gone."""
        index_K = torch.arange(len(request.frames_F3HW))
        trace.frames_in = len(index_K)
        for technique in stack.at(SelectFrames):
            chosen = technique.select_frames(request).cpu()
            is_image = request.prompt_N == request.image_token_id
            kept_N = ~is_image
            kept_N[is_image.nonzero()[:, 0][chosen]] = True
            request = replace(request, frames_F3HW=request.frames_F3HW[chosen], prompt_N=request.prompt_N[kept_N])
            index_K = index_K[chosen]
        trace.frames, trace.frame_index = len(index_K), index_K
        return request

    def encode(self, frames_F3HW: Tensor, stack: Stack, trace: Trace) -> Tensor:
        """Vision tokens (F, N, D) of each frame."""
        frames_F3HW = frames_F3HW.to(self.device, self.dtype)
        for resizing in stack.at(Resize):
            frames_F3HW = resizing.resize(frames_F3HW)
        side = self.config.vision.image_size
        if frames_F3HW.shape[-2:] != (side, side):
            frames_F3HW = functional.interpolate(frames_F3HW, (side, side), mode="bicubic", antialias=True)

        def on_read(entries: int) -> None:
            trace.probe_entries += entries

        patches = self.vision_tower(frames_F3HW, stack, trace.encoder_tokens.append, on_read)
        for technique in stack.at(EncoderOutput):
            patches = technique.encoder_output(patches)
        hidden_FND = patches.hidden_FND
        if self.config.vision_feature_select_strategy == "default":
            hidden_FND = hidden_FND[:, patches.prefix :]
        adapter = stack.owner(Adapt)
        tokens: Tensor = adapter.adapt(self, hidden_FND) if adapter else self.multi_modal_projector(hidden_FND)
        return tokens

    def assemble(self, prompt_N: Tensor, vision_FND: Tensor) -> Sequence:
        """The prompt with each placeholder replaced by its frame's vision tokens, batch of one.

        Raises:
            ValueError: the prompt has not one placeholder a frame.
        """
        is_image_N = prompt_N == self.config.image_token_id
        if int(is_image_N.sum()) != len(vision_FND):
            raise ValueError(
                f"the prompt has {int(is_image_N.sum())} image placeholders for {len(vision_FND)} frames; "
                f"give one a frame"
            )
        repeat_N = torch.where(is_image_N, vision_FND.shape[1], 1)
        vision_N = is_image_N.repeat_interleave(repeat_N).to(self.device)
        word_ND = self.language_model.model.embed_tokens(prompt_N[~is_image_N].to(self.device))
        hidden_ND = word_ND.new_empty(len(vision_N), word_ND.shape[-1])
        hidden_ND[~vision_N], hidden_ND[vision_N] = word_ND, vision_FND.flatten(0, 1)
        place_1N = torch.arange(len(vision_N), device=self.device)[None]
        return Sequence(hidden_ND[None], place_1N, vision_N[None], place_1N)

    def prepare(self, request: Request, stack: Stack, trace: Trace) -> Sequence:
        """The assembled prompt, techniques up to the LLM's input applied.

        Raises:
            ValueError: the request's placeholder is not the model's, or there is not one a frame.
        """
        if request.image_token_id != self.config.image_token_id:
            raise ValueError(
                f"the request marks its frames with token {request.image_token_id}, the model with "
                f"{self.config.image_token_id}; give the request the model's `image_token_id`"
            )
        request = self.select(request, stack, trace)
        sequence = self.assemble(request.prompt_N, self.encode(request.frames_F3HW, stack, trace))
        trace.vision_tokens = int(sequence.vision_BN.sum())
        trace.text_tokens = sequence.length - trace.vision_tokens
        for technique in stack.at(LlmInput):
            sequence = technique.llm_input(sequence)
        return sequence

    def prefill(self, inputs: Sequence, stack: Stack, trace: Trace) -> Prefill:
        """Run the prompt through the decoder and fill the cache."""
        store_owner, loop = stack.owner(NewStore), stack.owner(BeginDecoding)
        layers, retained = self.config.text.num_hidden_layers, []
        cache = Cache([], [], next_position=int(inputs.position_BN.max()) + 1)
        sequence = inputs

        def on_read(entries: int) -> None:
            trace.probe_entries += entries

        for index, layer in enumerate(self._layers()):
            for technique in stack.at(LlmLayer):
                sequence = technique.llm_layer(index, layers, sequence)
            trace.kept.append(sequence.index_BN)
            trace.llm_tokens.append(sequence.length)
            trace.llm_vision_tokens.append(int(sequence.vision_BN.sum()))

            query, key, value = layer.project(sequence.hidden_BND, sequence.position_BN)
            out_BHNd, scores = self._attend_prompt(index, query, key, value, stack.owner(Attend))
            trace.score_entries.append(scores)
            probe = Probe(query, key, causal=True, on_read=on_read)
            if loop and loop.retain_attention:
                retained.append((probe, sequence.index_BN))

            per_head = (key.shape[0], key.shape[1], sequence.length)
            entries = Entries(
                key, value, sequence.vision_BN[:, None].expand(per_head), sequence.index_BN[:, None].expand(per_head)
            )
            for compressor in stack.at(CompressCache):
                entries = compressor.compress_cache(index, layers, entries, probe)
            store = store_owner.new_store(index) if store_owner else PlainStore()
            store.append(entries.key_BGSd, entries.value_BGSd)
            store.settle()
            _note_cache(trace, cache, entries, store)
            sequence = replace(sequence, hidden_BND=layer.finish(sequence.hidden_BND, out_BHNd), attention=probe)
        logits_C = self.language_model.logits(sequence.hidden_BND[:, -1:])[0, 0]
        return Prefill(inputs, cache, logits_C, tuple(retained))

    def step(self, token_M: Tensor, cache: Cache, parent_M: Tensor | None = None) -> Tensor:
        """Logits (M, C) after each of M new tokens; their entries are added to the cache, unsettled.

        Args:
            token_M: tokens that nobody has settled yet.
            cache: the cache; tokens of earlier steps that are still unsettled may be followed, too.
            parent_M: the unsettled token that each one follows, counted from the oldest; −1 is the last
                settled token. Absent means that each follows the one before.
        """
        old = len(cache.parents)
        if parent_M is None:
            parent_M = torch.arange(old, old + len(token_M)) - 1
        cache.parents += parent_M.tolist()
        seen_MU = ancestors(torch.tensor(cache.parents))[1 + old :, 1:]
        depth_M = seen_MU.sum(1) - 1
        position_1M = (cache.next_position + depth_M)[None].to(self.device)
        hidden = self.language_model.model.embed_tokens(token_M.to(self.device))[None]
        for layer, store in zip(self._layers(), cache.stores, strict=True):
            query, key, value = layer.project(hidden, position_1M)
            settled = store.length - old
            store.append(key, value)
            mask_MS = functional.pad(seen_MU, (settled, 0), value=True).to(self.device)
            hidden = layer.finish(hidden, attend(query, *store.read(), mask_MS))
        return self.language_model.logits(hidden)[0]

    @torch.inference_mode()
    def run(self, request: Request, stack: Seq[Any] = ()) -> Result:
        """Answer a request with the techniques of `stack`, in order.

        Returns the generated tokens, the logits each was chosen from, and the trace.

        Raises:
            StackError: the techniques cannot run together; the message says why.
            ValueError: the prompt does not have one placeholder of the model's a frame.
        """
        techniques, trace = Stack(tuple(stack)), Trace()
        prefill = self.prefill(self.prepare(request, techniques, trace), techniques, trace)
        loop = techniques.owner(BeginDecoding)
        drafter = (
            loop.begin_decoding(self, request, prefill, techniques, trace)
            if loop
            else PlainDrafter(self.config.text.vocab_size)
        )
        generator, cache = torch.Generator().manual_seed(request.seed), prefill.cache
        tokens = [draw(distribution(prefill.logits_C, request.temperature), generator)]
        chosen_from = [prefill.logits_C]
        while not self._ended(tokens, chosen_from, request, techniques):
            proposal = drafter.propose(tokens)
            token_M = torch.cat([torch.tensor(tokens[-1:]), proposal.token_M.cpu()])
            parent_M = torch.cat([torch.tensor([-1]), proposal.parent_M.cpu() + 1])
            logits_MC = self.step(token_M, cache, parent_M)
            verdict = drafter.verify(proposal, distribution(logits_MC, request.temperature), generator)
            cache.retain(torch.tensor([0, *(node + 1 for node in verdict.path)], device=self.device))
            trace.target_passes += 1
            trace.draft_lengths.append(len(proposal.token_M))
            trace.accepted_lengths.append(len(verdict.path))
            for row, token in zip(
                (0, *(node + 1 for node in verdict.path)),
                (*(int(proposal.token_M[node]) for node in verdict.path), verdict.token),
                strict=True,
            ):
                if not self._ended(tokens, chosen_from, request, techniques):
                    tokens.append(token)
                    chosen_from.append(logits_MC[row])
        trace.kv_byte_end, trace.output_tokens = cache.byte, len(tokens)
        return Result(tokens_N=torch.tensor(tokens), logits_NC=torch.stack(chosen_from), trace=trace)

    def _head(self) -> Tensor:
        return self.language_model.lm_head.weight

    def _layers(self) -> Iterator[Layer]:
        return (layer for layer in self.language_model.model.layers if isinstance(layer, Layer))

    def _attend_prompt(
        self, index: int, query: Tensor, key: Tensor, value: Tensor, owner: Attend | None
    ) -> tuple[Tensor, int]:
        """Attention of prefill and how many scores it computed; causal and dense unless a technique owns it."""
        if owner:
            return owner.attend(index, query, key, value)
        batch, heads, length = query.shape[:3]
        out = attend(query, key, value, causal_mask(length, query.device))
        return out, batch * heads * length * (length + 1) // 2

    def _ended(self, tokens: list[int], logits: list[Tensor], request: Request, stack: Stack) -> bool:
        if len(tokens) >= request.max_new_tokens or tokens[-1] == self.config.eos_token_id:
            return True
        stoppers = list(stack.at(Stop))
        return bool(stoppers) and any(t.stop(tokens, torch.stack(logits)) for t in stoppers)


def _note_cache(trace: Trace, cache: Cache, entries: Entries, store: Store) -> None:
    cache.stores.append(store)
    cache.prompt.append(entries)
    trace.kv_entries.append(store.length)
    trace.kv_vision_entries.append(float(entries.vision_BGS.sum(-1).float().mean()))
    trace.kv_index.append(entries.index_BGS)
    trace.kv_byte.append(store.byte)
