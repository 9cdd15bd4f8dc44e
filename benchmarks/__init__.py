"""How fast Clew is, measured against bare SQLite in the same run: `python -m benchmarks`, or `make bench`."""
