"""Serving under load: requests that arrive, wait and share devices, simulated on times of the engine."""
