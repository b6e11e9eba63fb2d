"""A complete catalog of made-up records: what the rules' examples break, and tests start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lvlm_atlas.rules.rule import Files

ALPHA = "catalog/techniques/prefilling/token-pruning/alpha.yaml"
BETA = "catalog/techniques/decoding/kv-compression/beta.yaml"
RUN = "catalog/measurements/first-run.yaml"
MODEL = "catalog/models/gamma.yaml"
DEVICE = "catalog/hardware/delta.yaml"
WORKLOAD = "catalog/workloads/short-clip.yaml"
SYSTEM = "catalog/systems/epsilon.yaml"
LIST = "catalog/lists/iota.yaml"
RUNTIME = "catalog/runtimes/lambda.yaml"
TIMING = "catalog/timings/mu.yaml"
BIB = "papers.bib"

_SOURCE = {"paper": "doe2025alpha", "place": "sec. 1"}


def sound() -> Files:
    """The files of a catalog without a fault; a fresh copy at each call."""
    return {
        **{f"taxonomy/{name}.yaml": _vocabulary(name, terms) for name, terms in _terms().items()},
        ALPHA: _alpha(),
        BETA: _beta(),
        RUN: _run(),
        MODEL: _model(),
        DEVICE: _device(),
        WORKLOAD: _workload(),
        SYSTEM: _system(),
        LIST: _list(),
        RUNTIME: _runtime(),
        TIMING: _timing(),
        BIB: _work("doe2025alpha", "Alpha"),
    }


class _Plain(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc] # a wheel may lack the C one
    """Writes equal parts out instead of referring to the first, since entries may not use aliases."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def as_yaml(data: Mapping[str, Any]) -> str:
    """A record as YAML that the atlas reads."""
    return yaml.dump(data, Dumper=_Plain, sort_keys=False, allow_unicode=True)


def write(files: Mapping[str, Any], root: Path) -> Path:
    """Write the files under `root` and return it. Strings are written as they are, other data as YAML."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = data if isinstance(data, str) else as_yaml(data)
        path.write_text(text, encoding="utf-8")
    return root


def _work(key: str, title: str) -> str:
    return (
        f"@misc{{{key},\n  title = {{{title}}},\n  author = {{Doe, Jane and Roe, Richard}},\n"
        f"  year = {{2025}},\n  url = {{https://example.org/{key}}},\n}}\n"
    )


def unused_work() -> str:
    """A work that nothing in the sample cites, as it would stand in papers.bib."""
    return _work("roe2024omega", "Omega")


def _vocabulary(name: str, terms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    common = {"definition": "A word of the sample.", "source": dict(_SOURCE)}
    return {
        "vocabulary": name,
        "definition": f"The sample's words for {name}.",
        "terms": [{"id": id_, "name": id_, **common, **extra} for id_, extra in terms.items()],
    }


def _terms() -> dict[str, dict[str, dict[str, Any]]]:
    return {
        "stage": {
            "encoding": {"order": 1},
            "prefilling": {"order": 2, "metric": "ttft"},
            "decoding": {"order": 3},
            "serving": {"order": 4},
        },
        "bound": {"compute": {}, "memory": {}, "memory-capacity": {"parent": "memory"}},
        "family": {
            "token-pruning": {"stage": "prefilling"},
            "token-pruning.by-attention": {"parent": "token-pruning"},
            "kv-compression": {"stage": "decoding"},
            "serving-systems": {"stage": "serving"},
        },
        "mechanism": {"pruning": {}, "eviction": {}},
        "signal": {"attention": {}, "recency": {}},
        "position": {
            "llm-input": {"order": 6, "stage": "prefilling"},
            "llm-layer": {"order": 7, "stage": "prefilling"},
            "cache-tokens": {"order": 9, "stage": "decoding"},
        },
        "interaction": {
            "composes-with": {"symmetric": True},
            "conflicts-with": {"symmetric": True},
            "cascades-to": {"inverse": "is fed by"},
        },
        "quantity": {
            "vision-tokens": {"position": "llm-input"},
            "llm.vision-tokens": {"position": "llm-layer"},
            "attention.density": {"position": "llm-layer"},
            "kv.tokens": {"position": "cache-tokens"},
        },
        "symbol": {"N": {}, "N_v": {}, "L": {}, "d": {}},
        "metric": {"ttft": {"unit": "s", "better": "lower"}},
        "benchmark": {
            "quiz": {
                "tests": "Nothing",
                "modality": "image",
                "metric": "accuracy",
                "unit": "%",
                "better": "higher",
                "highest": 100,
            },
        },
        "evidence": {"reported": {}, "reasoned": {}},
        "training": {"none": {}},
        "modality": {"image": {}, "video": {}},
        "need": {"attention-map": {}, "vision-in-sequence": {"follows_from": ["llm.vision-tokens"]}},
        "verification": {"code": {}},
        "engine": {"zeta": {"aliases": ["Zeta engine"], "repository": "doe/zeta"}, "eta": {}},
    }


def _alpha() -> dict[str, Any]:
    return {
        "id": "alpha",
        "name": "Alpha",
        "aliases": ["Alpha pruning"],
        "summary": "Drops the vision tokens that later layers look at least.",
        "paper": "doe2025alpha",
        "stage": "prefilling",
        "family": "token-pruning.by-attention",
        "modality": ["image", "video"],
        "training": "none",
        "query_aware": True,
        "acts_at": ["llm-layer"],
        "relieves": [{"stage": "prefilling", "bound": "compute"}, {"stage": "decoding", "bound": "memory-capacity"}],
        "mechanism": ["pruning"],
        "signals": ["attention"],
        "needs": ["attention-map", "vision-in-sequence"],
        "explanation": "Tokens that receive little attention early receive little attention later.",
        "algorithm": [{"does": "Rank the tokens by the attention they receive.", "code": "rank"}],
        "parameters": {
            "keep_ratio": {"type": "float", "default": 0.5, "range": "(0, 1]", "doc": "Share of tokens kept."},
            "layer": {"type": "int", "default": 2, "range": "[1, inf)", "doc": "The layer after which they go."},
        },
        "effects": [{"quantity": "llm.vision-tokens", "scale": "keep_ratio", "from_layer": "layer"}],
        "overheads": [{"stage": "prefilling", "flop": "2 * N * d", "why": "One row of attention is formed again."}],
        "interactions": [
            {
                "kind": "cascades-to",
                "with": "beta",
                "reason": "Fewer tokens reach the cache.",
                "evidence": "reasoned",
                "source": dict(_SOURCE),
            }
        ],
        "reported": [
            {
                "model": "gamma",
                "setting": {"keep_ratio": 0.5},
                "tokens_kept": 2,
                "tokens_full": 4,
                "device": "D1",
                "results": [
                    {"benchmark": "quiz", "value": 60.1, "baseline": 62.0},
                    {"metric": "ttft", "value": 2.0, "unit": "×", "data": "the quiz"},
                ],
                "source": dict(_SOURCE),
            }
        ],
        "neutral": {"keep_ratio": 1.0},
        "trials": [{"keep_ratio": 0.25, "layer": 1}],
        "also_in": [{"family": "kv-compression", "section": "5.1", "note": "Named in passing."}],
        "shipped_in": [
            {
                "engine": "zeta",
                "since": "1.2",
                "how": "`--prune`",
                "departs": "Keeps the first token.",
                "refuses": "Batches.",
                "source": dict(_SOURCE),
            }
        ],
        "status": "described",
        "verified": "code",
        "updated": "2026-11-22",
    }


def _beta() -> dict[str, Any]:
    return {
        "id": "beta",
        "name": "Beta",
        "summary": "Keeps the latest entries of the cache.",
        "paper": "doe2025alpha",
        "stage": "decoding",
        "family": "kv-compression",
        "modality": ["image"],
        "training": "none",
        "query_aware": False,
        "acts_at": ["cache-tokens"],
        "relieves": [{"stage": "decoding", "bound": "memory"}],
        "mechanism": ["eviction"],
        "signals": ["recency"],
        "explanation": "Recent tokens matter most.",
        "algorithm": [{"does": "Keep the last entries."}],
        "parameters": {"budget": {"type": "int", "default": 64, "range": "[1, inf)", "doc": "Entries kept."}},
        "effects": [{"quantity": "kv.tokens", "cap": "budget"}],
        "status": "described",
        "verified": "code",
        "updated": "2026-11-22",
    }


def _run() -> dict[str, Any]:
    return {
        "id": "first-run",
        "kind": "smoke",
        "date": "2026-11-22",
        "version": "0.1.0",
        "machine": {"device": "CPU", "kind": "cpu", "python": "3.11", "torch": "2.9", "system": "Linux"},
        "workload": {
            "preset": "tiny", "dtype": "float32", "seed": 0, "frames": 1, "text_tokens": 8, "output_tokens": 4,
        },
        "results": [{"technique": "alpha", "setting": {"keep_ratio": 0.25}, "passed": ["runs"]}],
    }  # fmt: skip


_READ = {"source": "made up", "verified": "code"}


def _model() -> dict[str, Any]:
    heads = {"layers": 4, "heads": 4, "head_dim": 16}
    return {
        "id": "gamma", "name": "Gamma", "hf_id": "doe/gamma-chat", "year": 2025, "dtype": "bf16",
        "vision": {
            "name": "Tiny ViT", **heads, "head_dim": 8, "layers_needed": 3, "hidden": 32, "mlp": 64, "gated_mlp": False,
            "activation": "gelu", "norm": "layernorm", "patch_size": 14, "image_size": 28, "cls_token": True,
            "position": "learned", "attention": "full", **_READ,
        },
        "adapter": {"type": "linear", "widths": [32, 64], "merge": 1, "steps": "One matrix.", **_READ},
        "llm": {
            "name": "Tiny LLM", **heads, "hidden": 64, "intermediate": 128, "kv_heads": 2, "vocab": 100,
            "tied_embeddings": True, "qkv_bias": False, "qk_norm": False, **_READ,
        },
        "injection": {"type": "concat", "where": "first", "verified": "code"},
        "params": {"vision": 52_000, "adapter": 2_048, "llm": 154_000, "total": 208_048, **_READ},
        "tokens": {
            "image": {"rule": "fixed", "params": {"tile": 28, "patch": 14, "class_token": True, "token_per_tile": 4}},
            "formula": "(28/14)^2 = 4",
            "examples": [{"image": [28, 28], "vit_tokens": 5, "llm_tokens": 4}],
            **_READ,
        },
    }  # fmt: skip


def _device() -> dict[str, Any]:
    return {
        "id": "delta", "name": "Delta", "aliases": ["D1"], "vendor": "Doe", "year": 2025, "architecture": "first",
        "peak_tflop_s": {"fp16": 100, "bf16": 100, "fp8": 200}, "bandwidth_gb_s": 1000, "memory_gb": 16,
        "host_link": {"type": "PCIe", "per_direction_gb_s": 32}, **_READ,
    }  # fmt: skip


def _workload() -> dict[str, Any]:
    return {
        "id": "short-clip", "name": "Short clip", "description": "A clip.", "rationale": "Made up.",
        "videos": [{"width": 64, "height": 64, "duration_s": 5}], "text_tokens": 8, "output_tokens": 4,
    }  # fmt: skip


def _system() -> dict[str, Any]:
    return {
        "id": "epsilon", "name": "Epsilon", "aliases": ["E1"], "kind": "serving-system",
        "summary": "Encodes and prefills on two devices.", "paper": "doe2025alpha", "family": "serving-systems",
        "stages": ["encoding", "prefilling"], "modality": ["image"], "lossless": True, "explanation": "Made up.",
        "policy": [{"decides": "routing", "rule": "In turn.", "source": dict(_SOURCE)}],
        "resources": [{"name": "encoders", "stages": ["encoding"], "holds": "The encoder's weights."}],
        "communication": [{"start": "encoders", "end": "LLM", "carries": "Embeddings.", "byte": "2 * N_v * d"}],
        "reported": [{"metric": "ttft", "value": "half", "setting": "Made up.", "source": dict(_SOURCE)}],
        "relations": [
            {"kind": "composes-with", "with": "alpha", "reason": "Fewer tokens are sent.", "evidence": "reasoned",
             "source": dict(_SOURCE)}
        ],
        "shipped_in": [{"engine": "eta", "how": "`--split`", "source": dict(_SOURCE)}],
        "code": "released", "upstream": {"repository": "doe/epsilon"}, "verified": "code", "updated": "2026-11-22",
    }  # fmt: skip


def _runtime() -> dict[str, Any]:
    return {
        "id": "lambda", "name": "Lambda", "versions": "1.0", "summary": "Starts kernels one by one.",
        "kernels": {"linear": {"compute": 0.5, "bandwidth": 0.8}}, "host": {"layer_us": 500},
        "fit": {"timings": ["mu"], "points": 1, "residual": 0.05, "left_out": 0.1, "left_out_by": "request"},
        "sources": {},
    }  # fmt: skip


def _timing() -> dict[str, Any]:
    point = {
        "model": "gamma", "hardware": "delta", "args": ["--text", "8"], "metric": "tpot_s", "value": 0.01,
        "stated": "100 tokens/s",
    }  # fmt: skip
    return {"id": "mu", "runtime": "lambda", "version": "1.0", "source": dict(_SOURCE), "points": [point]}


def _list() -> dict[str, Any]:
    works = [{"name": "Alpha", "technique": "alpha", "training_free": True}, {"name": "Kappa", "technique": "kappa"}]
    return {
        "id": "iota", "name": "Iota", "summary": "A made-up list.", "source": dict(_SOURCE),
        "sections": [{"heading": ["Prefilling"], "stage": "prefilling", "works": works}],
    }  # fmt: skip
