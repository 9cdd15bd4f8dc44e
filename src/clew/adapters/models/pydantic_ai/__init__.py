"""Every provider with a wire of its own, through pydantic-ai. Importing `client` takes 1.2 s: do it when it is needed."""
