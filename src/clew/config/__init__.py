"""Where Clew lives on disk, what it was told to do, and what it must not tell.

Rule: a setting that is wrong is said, with its place, and nothing starts on a guess. This is imported at
every start, so the slow libraries (tomlkit, zoneinfo, difflib) are imported where they are needed.
"""
