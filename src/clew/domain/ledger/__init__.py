"""What the ledger keeps and the one way to change it, said as values."""
