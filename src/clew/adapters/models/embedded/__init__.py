"""The demo model that needs no key and no account: its weights, and the engine that runs them in this process."""
