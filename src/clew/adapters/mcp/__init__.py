"""Tools of MCP servers, as tools of ours.

Rule: a server is somebody else's program. It may not start, die, hang or say nonsense: that costs its own tools,
a clear sentence, and nothing else; no process of it outlives us.
"""
