"""What the runtime needs of the world. Adapters implement these; nothing else of the runtime is theirs to know."""
