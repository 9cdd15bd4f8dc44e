"""Reminders: what a person typed, when it is due, and what is said then. Pure: the time of now is given."""
