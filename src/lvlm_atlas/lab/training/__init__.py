"""Trains the lab's models: small LVLMs of the reference's own classes, from photographs with things on them."""
