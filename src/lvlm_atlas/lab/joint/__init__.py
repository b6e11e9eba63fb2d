"""Techniques together on the lab's models: which to run, what they keep, and how far that is from the sum."""
