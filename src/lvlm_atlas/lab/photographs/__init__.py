"""Real photographs, cut-outs and clips from packages of registries, and the scenes made of them."""
