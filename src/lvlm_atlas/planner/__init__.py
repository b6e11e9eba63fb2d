"""Asks the engine about the catalog: records in, estimates and plans out."""

from lvlm_atlas.planner.planner import Planner

__all__ = ["Planner"]
