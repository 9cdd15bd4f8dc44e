"""When a conversation begins a new session by itself."""
