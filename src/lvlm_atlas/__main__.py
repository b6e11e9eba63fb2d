"""`python -m lvlm_atlas`."""

from lvlm_atlas.cli import main

main()
