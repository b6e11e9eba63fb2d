"""Torch references: a small, real LVLM with extension points, and a module per technique.

One alphabet of shape letters holds for the whole package; a name such as `key_BGSd` spells its axes:

B batch · F frames · N tokens in the sequence · M new tokens of a step · S cached entries · V vision tokens ·
K kept · R query rows · L layers · H query heads · G key-value heads · d head dimension · D width · C vocabulary.
"""
