"""When the older part of a conversation gives way to a summary, which part, and what is asked of the summary model."""
