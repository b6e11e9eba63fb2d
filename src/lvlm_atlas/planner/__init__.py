"""Asks the engine about the catalog: records in, estimates and plans out."""
