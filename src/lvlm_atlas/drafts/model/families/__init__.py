"""One module a family, named after the `model_type` of its configurations, with a function `parts`.

A new family is a new file: no list is kept.
"""
