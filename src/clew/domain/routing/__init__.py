"""Where somebody talks, as one unambiguous key, and what fits into one message there."""
