"""Relations between techniques: curated and derived edges, the query language, the graph and its exports."""
