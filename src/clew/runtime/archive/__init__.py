"""Sessions on their way out, for people and for other ledgers, and on their way in.

Imports nothing: whoever only has to know `errors` starts without the formats.
"""
