"""References of techniques that the survey files under prefilling."""
