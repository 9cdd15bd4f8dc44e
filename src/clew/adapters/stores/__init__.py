"""Ledgers: `sqlite` keeps one in a file, `memory` keeps one as long as its object lives."""
