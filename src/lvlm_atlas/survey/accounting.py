"""The survey's own accounting: one formula a stage, as its equations 2 to 6 and 11 print them.

It stands beside the operator accounting of `estimate` and is never mixed with it: the survey leaves out the
projections of prefilling, the reading of weights there, and all that lies between the operators. What follows from
that is worked out in the files beside this one. Equation 10, the ridge, is `Device.ridge`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.layout import layout
from lvlm_atlas.roofline.model import Llm


def total_s(encode_s: float, prefill_s: float, step_s: float, output_tokens: float) -> float:
    """Time of a request (eq. 2): τ_total = τ_ENC + τ_PFL + N_o · τ_DEC."""
    return encode_s + prefill_s + output_tokens * step_s


def encode_s(flop: float, peak_flop_s: float) -> float:
    """Time of encoding (eq. 3): τ_ENC ≈ FLOPs_ENC / π_peak."""
    return flop / peak_flop_s


def prefill_s(attention_flop: float, kv_byte: float, peak_flop_s: float, bandwidth_byte_s: float) -> float:
    """Time of prefilling (eq. 4): τ_PFL ≈ max(FLOPs_attn / π_peak, |KV|_PFL / β_mem)."""
    return max(attention_flop / peak_flop_s, kv_byte / bandwidth_byte_s)


def kv_width(llm: Llm) -> float:
    """Width of keys, and of values, in a layer (eq. 4, 5): D_L · r_kv with r_kv = KV heads / heads.

    The true width is KV heads × width of a head: the same only where heads × their width is the hidden width.
    """
    return llm.hidden * llm.kv_heads / llm.heads


def kv_byte(llm: Llm, tokens: float, element_byte: float) -> float:
    """Bytes of the cache (eq. 5): |KV|_i ≈ 2 · L · (N_v + N_t + i) · D_L · r_kv · P.

    Args:
        llm: the language model.
        tokens: N_v + N_t + i: vision, text, and tokens generated so far; eq. 4 has i = 0.
        element_byte: P, bytes of a number.
    """
    return 2 * llm.layers * tokens * kv_width(llm) * element_byte


def step_s(weight_byte: float, kv_byte: float, bandwidth_byte_s: float) -> float:
    """Time of decoding step i (eq. 6): τ_DEC ≈ (|ψ| + |KV|_i) / β_mem."""
    return (weight_byte + kv_byte) / bandwidth_byte_s


def decode_intensity(element_byte: float) -> float:
    """FLOP per byte of a decoding step (eq. 11): 2|θ| operations over P|θ| bytes of weights; the cache is left out."""
    return 2 / element_byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """What the survey's equations give for a request."""

    kv_byte: float
    """Cache once the prompt is in, the batch together."""
    encode_s: float
    """Time of encoding."""
    prefill_s: float
    """Time of prefilling."""
    step_s: float
    """Time of a decoding step, the mean over all: TPOT."""
    total_s: float
    """Time of the request."""

    @property
    def ttft_s(self) -> float:
        """Time to the first token: encoding and prefilling."""
        return self.encode_s + self.prefill_s


def accounting(estimate: Estimate) -> Accounting:
    """The survey's accounting of the request that an estimate is of, at its first question.

    Tokens and FLOPs are those of the estimate, techniques included: the survey prints formulas for neither. Devices
    multiply peak and bandwidth (footnote 8); efficiencies are the deployment's. Where techniques leave layers unlike
    caches, the mean over layers stands for N_v + N_t.
    """
    model, device, deployment, state = estimate.model, estimate.device, estimate.deployment, estimate.state
    layout_ = layout(model, estimate.workload.batch, deployment)
    peak = device.peak_flop_s[estimate.dtype] * deployment.efficiency.compute * deployment.devices
    bandwidth = device.bandwidth_byte_s * deployment.efficiency.bandwidth * deployment.devices
    tokens = state.cached.entries
    attention = sum(each.work.flop for each in estimate.stages["prefilling"].operators if each.work.kind == "attention")
    kv = layout_.batch * kv_byte(model.llm, tokens, layout_.kv_byte)
    kv_mean = layout_.batch * kv_byte(model.llm, tokens + state.output / 2, layout_.kv_byte)
    encode = encode_s(estimate.stages["encoding"].flop, peak)
    prefill = prefill_s(attention, kv, peak, bandwidth)
    step = step_s(layout_.llm_byte, kv_mean, bandwidth)
    return Accounting(
        kv_byte=kv, encode_s=encode, prefill_s=prefill, step_s=step,
        total_s=total_s(encode, prefill, step, state.output),
    )  # fmt: skip
