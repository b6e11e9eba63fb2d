"""From the catalog to the engine: records, techniques at a setting, stacks, requests, and what fits what."""
