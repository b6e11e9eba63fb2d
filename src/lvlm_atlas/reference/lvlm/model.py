"""The reference LVLM: a dialect's eyes before one decoder, and the extension points between.

B batch, F frames, N tokens, M new tokens of a step, C vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.caches.prefilled import Prefill
from lvlm_atlas.reference.flow.request import Request, Result, Round
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.answer import answer
from lvlm_atlas.reference.lvlm.config import Config, DeepStackLVLMConfig, LVLMConfig, WindowLVLMConfig
from lvlm_atlas.reference.lvlm.contexts import Answer, LlmInput
from lvlm_atlas.reference.lvlm.decoder import LanguageModel
from lvlm_atlas.reference.lvlm.dialect import Dialect
from lvlm_atlas.reference.lvlm.encode import encode, resize, select
from lvlm_atlas.reference.lvlm.llava import Llava
from lvlm_atlas.reference.lvlm.prefill import prefill_in_chunks
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.lvlm.prompt import real_tokens
from lvlm_atlas.reference.lvlm.qwen import QwenVL
from lvlm_atlas.reference.lvlm.qwen3 import Qwen3VL
from lvlm_atlas.reference.lvlm.stack import Stack
from lvlm_atlas.reference.lvlm.step import advance, hidden_states
from lvlm_atlas.reference.lvlm.stream import Stream
from lvlm_atlas.reference.lvlm.technique import Acts, Run, Technique
from lvlm_atlas.reference.lvlm.weights import fill
from lvlm_atlas.reference.refusal import Refusal

__all__ = ["LVLM", "Prefill"]


def dialect_of(config: Config) -> Dialect:
    """The dialect that a configuration is written in."""
    match config:
        case LVLMConfig():
            return Llava(config)
        case WindowLVLMConfig():
            return QwenVL(config)
        case DeepStackLVLMConfig():
            return Qwen3VL(config)


class LVLM(nn.Module):
    """Vision tower, adapter, decoder; techniques act at its extension points."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.dialect = dialect_of(config)
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
        """A preset with random weights, made tensor by tensor in `dtype` on `device`; see `fill`.

        Raises:
            ValueError: no such preset.
        """
        if preset not in PRESETS:
            raise ValueError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        return fill(cls.empty(PRESETS[preset]), seed=seed, dtype=dtype, device=device)

    @classmethod
    def empty(cls, config: Config) -> LVLM:
        """A model of these shapes on the meta device: no memory, no weights."""
        with torch.device("meta"):
            return cls(config).eval()

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> LVLM:
        """A published checkpoint; see `lvlm_atlas.reference.lvlm.checkpoint`.

        Args:
            folder: holds config.json and safetensors.
            dtype: type of the weights; None keeps that of the checkpoint.
            device: where they go.

        Raises:
            ValueError: the folder, its configuration or its tensors are not what the model needs.
        """
        from lvlm_atlas.reference.lvlm.checkpoint import load, read_config, require_layers  # noqa: PLC0415 - safetensors

        config = read_config(Path(folder))
        require_layers(config, Path(folder))
        return load(cls.empty(config), Path(folder), dtype=dtype, device=device)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.language_model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.language_model.lm_head.weight.dtype

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        return self.config.text.vocab_size

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **processed: Tensor | None) -> Tensor:
        """Logits (B, N, C), float32, of what the dialect's published processor returns.

        Args:
            input_ids: (B, N), a placeholder a vision token.
            attention_mask: (B, N), 0 where a row is padded; logits there mean nothing.
            processed: the processor's other fields, such as `pixel_values`.

        Raises:
            ValueError: there are not as many placeholders as vision tokens, or a field has a wrong shape.
        """
        return self.language_model.logits(self._read(input_ids, attention_mask, processed).outputs.hidden_BND)

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int,
        **processed: Tensor | None,
    ) -> Tensor:
        """Greedy answers (B, T) to a batch padded on the left; a row that has ended repeats its end token.

        Arguments and errors as in `forward`.
        """
        begun = self._read(input_ids, attention_mask, processed)
        ends_E = torch.tensor(self.config.eos_token_ids, dtype=torch.long, device=self.device)
        tokens = [begun.logits_BC.argmax(-1)]
        while len(tokens) < max_new_tokens:
            ended_B = torch.isin(tokens[-1], ends_E)
            if bool(ended_B.all()):
                break
            logits_BC = self.advance(tokens[-1][:, None], begun.cache)[:, 0]
            begun.cache.retain(torch.zeros(1, dtype=torch.long, device=self.device))
            tokens.append(torch.where(ended_B, tokens[-1], logits_BC.argmax(-1)))
        return torch.stack(tokens, dim=1).cpu()

    @torch.inference_mode()
    def run(self, request: Request, stack: Seq[Any] | Technique = ()) -> Result:
        """Answer a request with the techniques of `stack`, in order, or with one.

        Returns the generated tokens, the logits each was chosen from, and the trace.

        Raises:
            StackError: the techniques cannot run together; the message says why.
            Refusal: a technique declines this model or request.
            ValueError: the prompt does not have one placeholder of the model's a frame.
        """
        run = self.begin(request, [stack] if isinstance(stack, Technique) else stack)
        policy = run.acts.owner("answer")
        return self._once(run) if policy is None else self._rounds(run, policy)

    def _once(self, run: Run) -> Result:
        return answer(run, self.prefill(self.prepare(run), run))

    def _rounds(self, run: Run, policy: Any) -> Result:
        """An answer that takes several runs, each with the same stack, begun anew."""
        rounds: list[Round] = []

        def ask(request: Request) -> Result:
            result = self._once(self.begin(request, run.techniques))
            # Shares are those of what was asked, whatever of it a round is shown; pixels are those of the frames kept.
            result.trace.frames_in = len(run.request.frames_F3HW)
            pixels = sum(len(frames) * frames[0, 0].numel() for frames in run.request.runs)
            result.trace.pixels_in = round(pixels * result.trace.frames / max(1, result.trace.frames_in))
            rounds.append(Round(request, result))
            return result

        result: Result = policy.answer(Answer(run, ask))
        if not rounds:
            raise ValueError(f"{type(policy).__name__} answers without asking the model; let it ask")
        return replace(result, trace=Trace.total([each.result.trace for each in rounds]), rounds=tuple(rounds))

    def stream(
        self,
        stack: Seq[Any] = (),
        *,
        image_token_id: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        tokenize: Callable[[str], Seq[int]] | None = None,
    ) -> Stream:
        """A session of rounds on one cache, with the techniques of `stack`: frames are seen, questions asked.

        Args:
            stack: techniques, in order.
            image_token_id: the placeholder of frames; None means the model's usual one.
            temperature: 0 decodes greedily.
            seed: of every random draw.
            tokenize: as in `Request`.

        Raises:
            StackError: the techniques cannot run together; the message says why.
            Refusal: the model lacks what a technique needs.
        """
        Stack(tuple(stack)).fit(self.dialect.offers)
        for technique in stack:
            if "answer" in technique.acts_at:
                raise Refusal(
                    f"{type(technique).__name__} answers in runs of its own, a session has one cache; leave it out, or "
                    f"give `run` the request"
                )
        token = self.config.placeholders[0] if image_token_id is None else image_token_id
        return Stream(self, tuple(stack), image_token_id=token, temperature=temperature, seed=seed, tokenize=tokenize)

    def begin(self, request: Request, techniques: Seq[Any] = ()) -> Run:
        """A run of the request, its techniques begun; nothing is computed yet.

        Raises:
            StackError: the techniques cannot run together.
            Refusal: one declines this model or request.
            ValueError: the request's placeholders are not the model's.
        """
        known, asked = self.config.placeholders, (request.video_token_id, request.image_token_id)
        if request.image_token_id not in known:
            raise ValueError(
                f"the request marks its frames with token {request.image_token_id}, the model with "
                f"{' or '.join(map(str, known))}; give the request a placeholder of the model"
            )
        if request.video_token_id is not None and asked != known:
            theirs = (
                f"with {known[0]} and {known[1]}" if len(known) > 1 else f"both with {known[0]}; leave the former out"
            )
            raise ValueError(
                f"the request marks videos with token {asked[0]} and stills with {asked[1]}, the model {theirs}"
            )
        stack = Stack(tuple(techniques))
        stack.fit(self.dialect.offers)
        run = Run(self.config, request, Trace(), self, stack.techniques)
        run.acts = stack.begin(run)
        return run

    def prepare(self, run: Run) -> Sequence:
        """The assembled prompt of a run, techniques up to the LLM's input applied.

        Raises:
            ValueError: there is not one placeholder a frame.
        """
        trace = run.trace
        request = resize(select(run), run.acts, trace)
        tokens = [encode(self, clip, run.acts, trace) for clip in self.dialect.split(request)]
        run.prompt = self.dialect.prompt(self.dialect.expand(request, tokens), None, tokens)
        sequence = run.prompt.embed(self.language_model.model.embed_tokens)
        trace.vision_tokens = int(sequence.vision_BN.sum())
        trace.text_tokens = sequence.length - trace.vision_tokens
        for technique in run.acts.at("llm-input"):
            sequence = technique.llm_input(LlmInput(sequence))
        return sequence

    def prefill(self, inputs: Sequence, run: Run | None = None, cache: Cache | None = None) -> Prefill:
        """Run a prompt through the decoder and fill a cache, or go on with one.

        Without a run no technique acts, nothing is counted; see `lvlm_atlas.reference.lvlm.prefill`.
        """
        acts, trace = (run.acts, run.trace) if run else (Acts(), Trace())
        return prefill_in_chunks(self.language_model, inputs, acts, trace, cache)

    def step(self, token_M: Tensor, cache: Cache, parent_M: Tensor | None = None) -> Tensor:
        """`advance` for a batch of one: (M,) → (M, C)."""
        return self.advance(token_M[None], cache, parent_M)[0]

    def advance(self, token_BM: Tensor, cache: Cache, parent_M: Tensor | None = None) -> Tensor:
        """Logits (B, M, C) after each of M new tokens; see `lvlm_atlas.reference.lvlm.step.advance`."""
        return advance(self.language_model, token_BM, cache, parent_M)

    def hidden_states(
        self, token_M: Tensor, cache: Cache, parent_M: Tensor | None = None, until: int | None = None
    ) -> tuple[Tensor, ...]:
        """`hidden_states` of `lvlm_atlas.reference.lvlm.step` for a batch of one: (M,) → (M, D) a layer."""
        states = hidden_states(self.language_model, token_M[None], cache, parent_M, until)
        return tuple(state_1MD[0] for state_1MD in states)

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """Logits (M, C), float32, of hidden states that left the last layer."""
        return self.language_model.logits(hidden_MD)

    def head(self, hidden_MD: Tensor) -> Tensor:
        """Logits (M, C), float32, of hidden states under the final norm."""
        out: Tensor = self.language_model.lm_head(hidden_MD)
        return out.float()

    def adapt(self, hidden_FND: Tensor) -> Tensor:
        """What the model's own adapter makes of features of the encoder (F, N, D_v)."""
        out: Tensor = self.dialect.adapter(hidden_FND)
        return out

    def final_norm(self, hidden: Tensor) -> Tensor:
        """Hidden states (…, D) under the norm that stands before the head."""
        out: Tensor = self.language_model.model.norm(hidden)
        return out

    @torch.inference_mode()
    def observe(self, request: Request) -> Prefill:
        """Read a request without techniques; every layer's attention is retained."""
        run = self.begin(request)
        run.acts = Acts(retain_attention=True)
        return self.prefill(self.prepare(run), run)

    def embed(self, token_N: Tensor) -> Tensor:
        """Embeddings (N, D) of text tokens."""
        out: Tensor = self.language_model.model.embed_tokens(token_N.to(self.device))
        return out

    def _read(self, input_ids: Tensor, attention_mask: Tensor | None, processed: dict[str, Tensor | None]) -> Prefill:
        """Prefill of what a processor returns, without techniques."""
        tokens = [encode(self, clip, Acts(), Trace()) for clip in self.dialect.clips(**processed)]
        prompt = self.dialect.prompt(input_ids, real_tokens(attention_mask), tokens)
        return self.prefill(prompt.embed(self.language_model.model.embed_tokens))
