"""Clew as an agent of the Agent Client Protocol, version 1: sessions of the ledger in somebody's editor."""
