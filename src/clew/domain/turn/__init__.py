"""A turn: what is asked of the model, and which move may follow which."""
