"""Performs what the domain decides: sessions, turns, commands. Speaks to the outside through `ports` only."""
