"""The OpenAI chat-completions wire, which most servers speak: each a little differently."""
