"""The ledger in SQLite: one file of truth, one writer thread, a derived search file."""

from clew.adapters.stores.sqlite.ledger import SqliteLedger, open_ledger

__all__ = ["SqliteLedger", "open_ledger"]
