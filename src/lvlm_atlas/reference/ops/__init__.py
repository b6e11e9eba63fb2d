"""Functions that several techniques share."""
