"""Checks of the catalog that reach beyond one record: one small object each."""
