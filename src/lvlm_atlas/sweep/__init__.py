"""Estimates over models × hardware × workloads × deployments × stacks, as a table that queries can read.

>>> from lvlm_atlas.sweep import sweep
>>> sweep("results", models=["qwen2.5-vl-7b"], hardware=["h200"], workloads=["images-20"],
...       stacks=["none", "fastv:keep_ratio=0.25|0.5+kivi"])  # doctest: +SKIP
"""

from lvlm_atlas.sweep.runner import Summary, sweep

__all__ = ["Summary", "sweep"]
