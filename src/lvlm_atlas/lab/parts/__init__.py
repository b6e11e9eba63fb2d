"""Trains what techniques bring along, for a model that is trained already: scorers, a draft, heads."""
