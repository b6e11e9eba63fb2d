"""Loads a root into one immutable `Atlas`; all faults at once, each with file, line and column."""
