"""`clew serve`: chat platforms, one agent, every conversation in its place."""
