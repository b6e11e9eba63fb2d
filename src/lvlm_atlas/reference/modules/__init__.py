"""Modules with weights of their own that techniques bring along."""
