"""Speculative decoding: rounds of proposals and verdicts, draft models, chains and trees."""
