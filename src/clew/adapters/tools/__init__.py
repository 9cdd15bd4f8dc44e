"""The tools a session has on this machine: files, a shell, the web, its own past.

Rule: a call always ends in a result the model can read; what a command started is gone when its call was
cancelled or its session closed. Nothing is confined to a directory: the person who approves a call decides, so
`describe` names absolute paths.
"""
