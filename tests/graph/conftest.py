"""A small atlas over the real vocabularies: a dozen entries, enough for every rule, relation and field."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.bibliography import Paper
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import AnyVocabulary, Vocabulary

TAXONOMY = Path(__file__).resolve().parents[2] / "taxonomy"
SOURCE = {"paper": "doe2025sample", "place": "sec. 4"}
RESULT = frozenset({"benchmark", "metric", "value", "baseline", "unit", "qualifier", "data"})
SCALE = {"scale": "keep_ratio"}
SPECULATION = {
    "quantity": "speculation", "draft_length": 4, "draft_nodes": 4, "draft_passes": 4, "accepted_at_most": 4,
    "draft_vision_tokens": "N_v", "exact": "distribution",
}  # fmt: skip
KV_BITS = {"quantity": "kv.bits", "key": 2, "value": 2, "group_size": 32, "group_overhead_bit": 32}


def interaction(kind: str, target: str, evidence: str = "reported") -> dict[str, Any]:
    return {"kind": kind, "with": target, "reason": f"It {kind} {target}.", "evidence": evidence, "source": SOURCE}


def experiment(model_name: str, **fields: Any) -> dict[str, Any]:
    """An experiment of one number: fields of the number and of the experiment together."""
    result = {key: fields.pop(key) for key in RESULT & set(fields)}
    return {"model_name": model_name, "results": [result], "source": SOURCE, **fields}


ENTRIES: dict[str, dict[str, Any]] = {
    "aks": {
        "name": "AKS", "acts_at": ["frames"], "effects": [{"quantity": "frames", "set": 8}], "modality": ["video"],
        "stage": "encoding", "family": "keyframe-selection.training-free", "mechanism": ["frame-selection"],
        "query_aware": True, "relieves": [{"stage": "encoding", "bound": "compute"}],
    },
    "divprune": {
        "acts_at": ["llm-input"], "effects": [{"quantity": "vision-tokens", **SCALE}],
        "family": "token-compression.diversity-guided", "paper": "roe2023sample",
    },
    "fastv": {
        "name": "FastV", "aliases": ["fast vision"], "acts_at": ["llm-layer"], "needs": ["attention-row"],
        "effects": [{"quantity": "llm.vision-tokens", "from_layer": 2, **SCALE}], "query_aware": True,
        "overheads": [{"stage": "prefilling", "attention_rows": 1, "why": "It reads a row."}],
        "summary": "Drops half of the visual tokens after the second layer.",
        "reported": [
            experiment("LLaVA-1.5-7B", benchmark="gqa", value=60, baseline=62, share_kept=0.5),
            experiment("LLaVA-1.5-7B", metric="ttft", value=1.5, unit="×"),
        ],
        "interactions": [interaction("composes-with", "kivi"), interaction("shifts-bottleneck-to", "h2o", "reasoned")],
    },
    "h2o": {
        "stage": "decoding", "family": "kv-cache-compression.token-level", "acts_at": ["cache-tokens"],
        "effects": [{"quantity": "kv.tokens", **SCALE}], "mechanism": ["cache-eviction"],
        "relieves": [{"stage": "decoding", "bound": "memory-capacity"}], "paper": "roe2023sample",
        "interactions": [interaction("diminishes", "kivi", "reasoned")],
    },
    "kivi": {
        "name": "KIVI", "stage": "decoding", "family": "kv-cache-compression.bit-level", "acts_at": ["cache-bits"],
        "effects": [KV_BITS], "mechanism": ["cache-quantisation"], "status": "described",
        "relieves": [{"stage": "decoding", "bound": "memory-bandwidth"}],
    },
    "minference": {
        "name": "MInference", "family": "sparse-attention", "acts_at": ["attention"],
        "mechanism": ["sparse-attention"], "effects": [{"quantity": "attention.density", "at_most": 0.1}],
        "training": "calibration",
    },
    "old-pruner": {"acts_at": ["llm-layer"], "needs": ["attention-map"], "paper": "roe2023sample"},
    "specvlm-ji": {
        "name": "SpecVLM", "stage": "decoding", "family": "speculative-decoding.training-free",
        "acts_at": ["decode-loop"], "effects": [SPECULATION], "mechanism": ["draft-and-verify"],
        "relieves": [{"stage": "decoding", "bound": "memory"}],
        "interactions": [interaction("builds-on", "speculative-sampling"), interaction("supersedes", "old-pruner")],
    },
    "speculative-sampling": {
        "stage": "decoding", "family": "speculative-decoding.training-free", "acts_at": ["decode-loop"],
        "effects": [SPECULATION], "mechanism": ["draft-and-verify"], "modality": ["text"],
        "relieves": [{"stage": "decoding", "bound": "memory-bandwidth"}],
    },
    "visionzip": {
        "name": "VisionZip", "stage": "encoding", "acts_at": ["encoder-output"], "paper": "roe2023sample",
        "family": "encoding-oriented-token-compression.attention-aware",
        "effects": [{"quantity": "vision-tokens", "set": 64}],
        "upstream": {"repository": "doe/visionzip"}, "training": "finetune",
    },
    "xattention": {
        "name": "XAttention", "family": "sparse-attention", "acts_at": ["attention"],
        "mechanism": ["sparse-attention"], "effects": [{"quantity": "attention.density", "scale": 0.5}],
        "interactions": [interaction("conflicts-with", "old-pruner", "reasoned")],
    },
}  # fmt: skip


def technique(id_: str, **fields: Any) -> Technique:
    """An entry that is sound, with the given fields in place of the common ones."""
    entry = {
        "id": id_, "name": id_.title(), "summary": f"What {id_} does.", "paper": "doe2025sample", "stage": "prefilling",
        "family": "token-compression.attention-guided", "modality": ["image", "video"], "training": "none",
        "query_aware": False, "acts_at": ["llm-layer"], "relieves": [{"stage": "prefilling", "bound": "compute"}],
        "mechanism": ["token-pruning"], "signals": ["received-attention"], "explanation": "It prunes.",
        "algorithm": [{"does": "prune"}], "effects": [{"quantity": "llm.vision-tokens", **SCALE}],
        "parameters": {"keep_ratio": {"type": "float", "default": 0.5, "range": "(0, 1]", "doc": "Share kept."}},
        "status": "implemented", "reference": "lvlm_atlas.reference.techniques.sample:Sample",
        "neutral": {"keep_ratio": 1.0}, "trials": [{"keep_ratio": 0.5}], "verified": "paper", "updated": "2026-11-22",
        **fields,
    }  # fmt: skip
    if entry["status"] == "described":
        entry["reference"] = None
    return Technique.model_validate_json(json.dumps(entry))


@pytest.fixture(scope="session")
def vocabularies() -> Mapping[str, Vocabulary]:
    adapter: TypeAdapter[Any] = TypeAdapter(AnyVocabulary)
    files = sorted(TAXONOMY.glob("*.yaml"))
    read = [adapter.validate_json(json.dumps(yaml.safe_load(file.read_text("utf-8")))) for file in files]
    return {vocabulary.vocabulary: vocabulary for vocabulary in read}


@pytest.fixture(scope="session")
def atlas_of(vocabularies: Mapping[str, Vocabulary]) -> Callable[..., Atlas]:
    """Makes an atlas of entries given as keyword arguments: `atlas_of(a={…}, b={…})`; `_` stands for `-`."""

    def make(redirects: Mapping[str, tuple[str, ...]] | None = None, **entries: Mapping[str, Any]) -> Atlas:
        named = {id_.replace("_", "-"): fields for id_, fields in entries.items()}
        techniques = {id_: technique(id_, **named[id_]) for id_ in sorted(named)}
        papers = {
            key: Paper(key, f"A <b> & {year}", ("Doe, Jane",), year, "arXiv", "https://x.org", None, None, "", 1)
            for key, year in (("doe2025sample", 2025), ("roe2023sample", 2023))
        }
        return Atlas(
            root=Path(),
            vocabularies=vocabularies,
            techniques=techniques,
            redirects=redirects or {},
            papers=papers,
            measurements={},
            paths={id_: Path(f"catalog/techniques/{id_}.yaml") for id_ in techniques},
        )

    return make


@pytest.fixture(scope="session")
def kb(atlas_of: Callable[..., Atlas]) -> KnowledgeBase:
    return KnowledgeBase(atlas_of({"fast-vee": ("fastv",), "old-cache": ("h2o", "kivi")}, **ENTRIES))
