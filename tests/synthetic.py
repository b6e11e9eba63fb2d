"""Made-up techniques of every shape that an entry can have, on the real taxonomy, for searches of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.schema.effect import Effect, Overhead
from lvlm_atlas.schema.technique import Technique

_EFFECTS: TypeAdapter[tuple[Effect, ...]] = TypeAdapter(tuple[Effect, ...])
_OVERHEADS: TypeAdapter[tuple[Overhead, ...]] = TypeAdapter(tuple[Overhead, ...])

SHAPES = (
    "frames", "pixels", "merging", "after-encoder", "before-llm", "budget", "layer", "pyramid", "sparse", "evicting",
    "vision-cache", "bits", "offloading", "drafting", "stopping", "encoder-sparse", "encoder-reuse", "adapter",
    "text", "picking", "queries", "skipping-mlp", "thinning", "streaming", "sharing", "recurrent", "reading",
    "mixed-bits", "early-exit",
)  # fmt: skip
"""What a made-up technique can do."""


def shape(  # noqa: PLR0912, PLR0915  a case for each shape
    name: str, strength: float, number: int
) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """Place, effects and overheads of a technique.

    Args:
        name: one of `SHAPES`.
        strength: share that it takes away, from 0 to 1.
        number: a whole number that varies the rest.
    """
    keep, why = 1 - strength, {"why": "Made up."}
    rows = {"stage": "prefilling", "attention_rows": 1 + number % 3, **why}
    match name:
        case "frames":
            return "frames", [{"quantity": "frames", "scale": keep}], [{"stage": "encoding", "flop": "1e9 * F", **why}]
        case "pixels":
            return "pixels", [{"quantity": "pixels", "scale": keep}], []
        case "merging":
            removed = f"min({1 + number % 12}, N_p // {4 + number % 3})"
            return "encoder-layer", [{"quantity": "encoder.tokens", "remove": removed}], []
        case "after-encoder":
            cost = {"stage": "encoding", "flop": "2 * N_v * D_v", **why}
            return "encoder-output", [{"quantity": "vision-tokens", "scale": keep}], [cost]
        case "before-llm":
            cost = {"stage": "prefilling", "flop": "2 * N_v ** 2 * D", "byte": "P * N_v ** 2", **why}
            return "llm-input", [{"quantity": "vision-tokens", "scale": keep, "rounding": "up"}], [cost]
        case "budget":
            return "llm-input", [{"quantity": "vision-tokens", "cap": f"N_v // {2 + number % 4} + {number}"}], []
        case "layer":
            return "llm-layer", [{"quantity": "llm.vision-tokens", "scale": keep, "from_layer": 1 + number % 5}], [rows]
        case "pyramid":
            if number % 2:
                every = {"quantity": "llm.vision-tokens", "remove": f"N_v * {strength} / L", "from_layer": number % 4}
                return "llm-layer", [every], [rows]
            stages = [
                {"quantity": "llm.vision-tokens", "scale": keep, "from_layer": f"L * {quarter} // 4"}
                for quarter in (1, 2, 3)
            ]
            return "llm-layer", stages, [rows]
        case "sparse":
            cost = {"stage": "prefilling", "flop": f"2 * N ** 2 * D / {8 + number} * L", **why}
            return "attention", [{"quantity": "attention.density", "set": keep, "from_layer": number % 4}], [cost]
        case "evicting":
            kept = [{"quantity": "kv.tokens", "scale": keep}]
            return "cache-tokens", kept, [{"stage": "prefilling", "attention_rows": f"N * L / {1 + number}", **why}]
        case "vision-cache":
            kept = [{"quantity": "kv.tokens", "of": "vision", "cap": 64 * (1 + number), "from_layer": number % 3}]
            return "cache-tokens", kept, []
        case "bits":
            exact = f"N % {64 * (1 + number % 3)}" if number % 2 else 0
            bits = {
                "quantity": "kv.bits", "key": 2 + number % 4, "value": 4, "group_size": 32,
                "group_overhead_bit": "16 * P", "full_precision_keys": exact,
            }  # fmt: skip
            return "cache-bits", [bits], [{"stage": "decoding", "flop": "4 * L * G * d * N", **why}]
        case "offloading":
            fetched = {"quantity": "kv.resident", "scale": keep, "fetch": strength / (2 + number % 3)}
            return "cache", [fetched], [{"stage": "decoding", "memory_byte": "1024 * N", **why}]
        case "drafting":
            draft = {
                "quantity": "speculation", "draft_length": 2 + number % 6, "draft_nodes": 2 + number % 6,
                "draft_passes": 2 + number % 6, "accepted_at_least": 1 + number % 2, "accepted_at_most": 2 + number % 6,
                "draft_vision_tokens": "N_v", "exact": ("distribution", "greedy", "no")[number % 3],
                "draft_cost": {"value": strength / 4, "setting": "made up",
                               "source": {"paper": "zhang2026survey", "place": "table 10"}},
            }  # fmt: skip
            memory = {"stage": "decoding", "memory_byte": "2 * L * G * d * P * N", **why}
            return "decode-loop", [draft], [memory]
        case "stopping":
            return "stop", [{"quantity": "output-tokens", "scale": keep}], []
        case "encoder-sparse":
            cost = {"stage": "encoding", "attention_rows": 2, "from_layer": "L_v - 3", "heads": "H_v // 2", **why}
            density = {"quantity": "encoder.density", "set": f"{keep} + {strength} / N_p", "from_layer": number % 4}
            return "encoder-layer", [density], [cost]
        case "encoder-reuse":
            how = {"scale": keep} if number % 2 else {"set": 1e12 * keep}
            return (
                "encoder-layer",
                [{"quantity": "encoder.flop", **how}],
                [{"stage": "encoding", "host_syncs": 3, **why}],
            )
        case "adapter":
            return "adapter", [{"quantity": "adapter.flop", "set": "2 * N_v * D_v * D"}], []
        case "text":
            cost = {"stage": "prefilling", "flop": "2 * N_t * N_v * D", **why}
            return "llm-input", [{"quantity": "text-tokens", "scale": keep, "rounding": "up"}], [cost]
        case "picking":
            cost = {"stage": "prefilling", "sequential_steps": "N_v // 8", "serialises_batch": bool(number % 2), **why}
            return "llm-input", [{"quantity": "vision-tokens", "scale": keep}], [cost]
        case "queries":
            some = {"quantity": "llm.vision-queries", "scale": keep, "from_layer": number % 5}
            one_layer = {"stage": "prefilling", "attention_rows": 4, "from_layer": number % 5, "to_layer": "L // 2"}
            return "llm-layer", [some], [{**one_layer, "heads": 1 + number % 2, **why}]
        case "skipping-mlp":
            return "llm-layer", [{"quantity": "llm.vision-mlp", "cap": f"N_in * {keep}", "from_layer": number % 5}], []
        case "thinning":
            return (
                "llm-layer",
                [{"quantity": "llm.weights", "scale": keep}],
                [{"stage": "decoding", "flop": "N_t", **why}],
            )
        case "streaming":
            of = ("all", "vision", "text")[number % 3]
            limit = {
                "quantity": "kv.tokens",
                "of": of,
                "limit": f"N // {1 + number % 4} + 32",
                "from_layer": number % 2,
            }
            return "cache-tokens", [limit if number % 4 else {**limit, "scale": keep}], []
        case "sharing":
            return "cache-tokens", [{"quantity": "kv.layers", "scale": keep, "rounding": "up"}], []
        case "recurrent":
            state = {"quantity": "kv.state", "elements": "d * d", "from_layer": f"L * {1 + number % 3} // 4"}
            return "attention", [{**state, "to_layer": "L - 1"} if number % 2 else state], []
        case "reading":
            waits = {"stage": "decoding", "sequential_steps": 2, "host_syncs": "L", **why}
            return "cache-tokens", [{"quantity": "kv.read", "set": keep, "from_layer": number % 3}], [waits]
        case "mixed-bits":
            all_ = {"quantity": "kv.bits", "key": 4, "value": 4, "group_size": 32, "group_overhead_bit": 32}
            vision = {**all_, "of": "vision", "key": 2, "from_layer": number % 6, "full_precision_values": "N % 48"}
            return "cache-bits", [all_, {**vision, "to_layer": "L - 1"}], []
        case "early-exit":
            return "decode-loop", [{"quantity": "llm.depth", "scale": keep}], []
    raise AssertionError(name)


def synthetic(base: Technique, id_: str, name: str, strength: float, number: int) -> Technique:
    """A made-up technique; what `shape` does not say is taken from `base`."""
    place, effects, overheads = shape(name, strength, number)
    return base.model_copy(
        update={
            "id": id_, "name": id_, "aliases": (), "acts_at": (place,), "needs": (), "parameters": {}, "trials": (),
            "neutral": None, "interactions": (), "mechanism": ("token-pruning",), "modality": ("image", "video"),
            "effects": _EFFECTS.validate_python(effects), "overheads": _OVERHEADS.validate_python(overheads),
            "reported": base.reported if number % 2 else (), "training": ("none", "finetune")[number % 5 == 4],
        }
    )  # fmt: skip


def base_of(atlas: Atlas, techniques: Sequence[Technique]) -> KnowledgeBase:
    """The atlas with these techniques in place of its own, and without what is said of its own."""
    return KnowledgeBase(
        replace(
            atlas,
            techniques={each.id: each for each in sorted(techniques, key=lambda each: each.id)},
            paths={each.id: atlas.paths[min(atlas.paths)] for each in techniques},
            redirects={},
            measurements={},
            systems={},
        )
    )


def varied(atlas: Atlas, count: int) -> KnowledgeBase:
    """The atlas with so many made-up techniques, all shapes in turn, no two alike."""
    base = atlas.techniques["fastv"]
    made = [
        synthetic(base, f"made-{i:03}", SHAPES[i % len(SHAPES)], 0.15 + 0.7 * (i * 7 % count) / count, i)
        for i in range(count)
    ]
    return base_of(atlas, made)
