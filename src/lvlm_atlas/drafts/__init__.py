"""Drafts of new entries and records, from what is known already."""
