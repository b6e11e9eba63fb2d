"""What travels through the LVLM: the request, patches, tokens, entries, attention on demand, and the trace."""
