"""Claims about FLOP per byte: the ridge, and decoding and prefilling beside it."""

from __future__ import annotations

from collections.abc import Callable

from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.survey import accounting
from lvlm_atlas.survey.claim import Claim, Table
from lvlm_atlas.survey.ground import IN_MEMORY, Ground, flop, weight_byte, works

LLMS = {"Qwen2.5-7B": "qwen2.5-vl-7b", "LLaMA-7B": "llava-1.5-7b"}
"""The two LLMs that prefilling is shown for, by model of the catalog."""
PROMPTS = (160, 200, 512, 2_048, 8_192)
CACHES = (0, 4_000, 40_000, 100_000)
WHOLE, FINE = ",.0f", ".2f"


def ridge(ground: Ground) -> Claim:
    """Row 3."""
    devices = [ground.device(id_) for id_ in ("a100-sxm-80", "a100-sxm-40", "l40s", "h200-sxm")]
    rows = {
        each.name: (each.peak_flop_s["fp16"] / 1e12, each.bandwidth_byte_s / 1e9, each.ridge("fp16"))
        for each in devices
    }
    return Claim(
        number=3, where="eq. 10, table 11", title="The ridge of the A100",
        printed="Arithmetic and memory balance at 153 FLOP per byte",
        verdict="holds", ours=f"{devices[0].ridge('fp16'):.1f} FLOP per byte",
        rests_on="the card with 80 GB and SXM, dense FP16",
        arithmetic=(
            f"312 TFLOP/s over 2,039 GB/s is {devices[0].ridge('fp16'):.2f}. The 40 GB card has the same arithmetic "
            "and less bandwidth. The L40S of table 8 and the H200 of table 10 balance elsewhere, so that a stage may "
            "change its wall with the device.",
        ),
        tables=(
            Table("Device", {"FP16, TFLOP/s": WHOLE, "Bandwidth, GB/s": WHOLE, "Ridge, FLOP per byte": ",.1f"}, rows),
        ),
    )  # fmt: skip


def decode_weights(ground: Ground) -> Claim:
    """Row 4."""
    step = ground.step(ground.model("qwen2.5-vl-7b"), "a100-sxm-80", 4_000).stages["decoding"]
    linear = works(step, lambda work: work.kind == "linear")
    read = sum(each.weight_byte for each in linear)
    return Claim(
        number=4, where="eq. 11", title="Intensity of decoding, weights only",
        printed="A decoding step has 1.0 FLOP per byte",
        verdict="holds", ours=f"{flop(linear) / read:.1f} FLOP per byte",
        rests_on="weights alone, one request at a time, 16 bits a number",
        arithmetic=(
            "Each weight is read once, in 2 bytes, and used in one multiply-add, 2 FLOP. For Qwen2.5-7B the products "
            f"of a step are {flop(linear) / 1e9:.2f} GFLOP over {read / 1e9:.2f} GB of weights: exactly "
            f"{accounting.decode_intensity(2):g}. Cache and activations are left out; the next claim has the cache.",
        ),
    )  # fmt: skip


def decode_cache(ground: Ground) -> Claim:
    """Row 5."""
    models = {"LLaMA-7B": "llava-1.5-7b", "Qwen2.5-7B": "qwen2.5-vl-7b", "Qwen2.5-72B": "qwen2.5-vl-72b"}
    specs = {name: ground.model(id_) for name, id_ in models.items()}
    rows = {f"{cached:,}": [_step_intensity(ground, model, cached) for model in specs.values()] for cached in CACHES}
    small = specs["Qwen2.5-7B"]
    step = ground.step(small, "a100-sxm-80", 4_000).stages["decoding"]
    attention = works(step, lambda work: work.kind == "attention")
    four_bit = ground.step(
        small, "a100-sxm-80", 1, Deployment(weight_dtype="int4", activation_dtype="bf16")
    ).stages["decoding"]  # fmt: skip
    linear = works(four_bit, lambda work: work.kind == "linear")
    return Claim(
        number=5, where="table 1, outlook", title="Intensity of decoding, with the cache",
        printed="Decoding has much less than 1 FLOP per byte",
        verdict="does not hold",
        ours=f"{min(min(row) for row in rows.values()):.2f} at the least; {rows['40,000'][1]:.2f} for Qwen2.5-7B "
        "with 40,000 cached tokens",
        rests_on="Equation 11 says 1, and grouped keys and values only raise it; “about 1, far below the ridge of "
        "153” would hold",
        arithmetic=(
            "The cache has an intensity of its own: each key and value is read once and used by every query head of "
            f"its group, so it equals heads over KV heads: {flop(attention) / sum(w.kv_byte for w in attention):.0f} "
            "for Qwen2.5-7B, 8 for Qwen2.5-72B, 1 for LLaMA-7B. A longer cache therefore pulls a step above 1, never "
            f"below. Weights of 4 bits give {flop(linear) / weight_byte(linear):.0f}. Only numbers of more than 16 "
            "bits would give less than 1.",
            "The table divides all operations of a step by the bytes of weights and cache, one request at a time, 16 "
            "bits a number. Activations add a thousandth to the bytes.",
        ),
        tables=(Table("Cached tokens", dict.fromkeys(models, FINE), rows),),
    )  # fmt: skip


def _step_intensity(ground: Ground, model: Model, cached: int) -> float:
    """All operations of a step over the bytes of weights and cache."""
    stage = ground.step(model, "a100-sxm-80", cached).stages["decoding"]
    return stage.flop / sum(each.work.weight_byte + each.work.kv_byte for each in stage.operators)


Way = Callable[[int], float]


def _prefill_ways(ground: Ground, model: Model) -> tuple[Way, Way, Way]:
    """Three ways to divide operations by bytes, as functions of the prompt's length."""

    def weights(tokens: int) -> float:
        stage = ground.prefill(model, tokens)
        return stage.flop / weight_byte(each.work for each in stage.operators)

    def fused(tokens: int) -> float:
        return ground.prefill(model, tokens).intensity or 0.0

    def in_memory(tokens: int) -> float:
        # The operations of the causal half: a kernel that writes the scores computes the hidden ones too, but no
        # answer needs them.
        return ground.prefill(model, tokens).flop / ground.prefill(model, tokens, IN_MEMORY).byte

    return weights, fused, in_memory


def _reached(way: Way, wanted: float, low: int, high: int) -> int:
    """The number of tokens, between two on either side of it, at which a way first gives so much."""
    rises = way(low) < way(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if (way(middle) < wanted) == rises else (low, middle)
    return high


def prefill(ground: Ground) -> Claim:
    """Row 6."""
    names = ("weights only", "fused attention", "scores in memory")
    qwen, llama = (_prefill_ways(ground, ground.model(id_)) for id_ in LLMS.values())
    rows = {
        f"{tokens:,}": [way(tokens) for each in zip(qwen, llama, strict=True) for way in each] for tokens in PROMPTS
    }
    columns = {f"{model}, {name}": WHOLE for name in names for model in LLMS}
    by_weights = _reached(llama[0], 160, 16, 2_048)
    fused = sorted(_reached(each[1], 160, 16, 2_048) for each in (qwen, llama))
    again = sorted(_reached(each[2], 160, 2_048, 32_768) for each in (qwen, llama))
    at_512 = rows["512"]
    product = 512 / (1 + 2 * 512 / 4096)
    return Claim(
        number=6, where="appendix E, figure 4", title="Intensity of prefilling",
        printed="Prefilling has about 160 FLOP per byte at about 512 tokens",
        verdict="does not hold",
        ours=f"{min(at_512):.0f} to {max(at_512):.0f} at 512 tokens; 160 belongs to {by_weights} to {fused[1]} tokens",
        rests_on="No way of counting gives 160 at 512 tokens: not weights alone, not all operators, not a score "
        "matrix in memory",
        arithmetic=(
            f"One product of 512 rows with a matrix of 4096×4096 has 512 / (1 + 2 · 512 / 4096) = {product:.0f} FLOP "
            "per byte in 16 bits. A whole LLM has less, since norms, sums and attention move bytes too, but not as "
            f"little as 160. That is reached at {by_weights} tokens by weights alone (LLaMA-7B), at {fused[0]} and "
            f"{fused[1]} by all operators, and once more on the way down, without fused attention, at "
            f"{again[0] / 1e3:.1f}K and {again[1] / 1e3:.1f}K.",
            "So a visual prompt of 576 to 4,000 tokens is clearly bound by arithmetic on an A100. Counted are the "
            "causal half of the scores and the output matrix for the last position.",
        ),
        tables=(Table("Tokens", columns, rows),),
    )  # fmt: skip
