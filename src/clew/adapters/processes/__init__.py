"""The operating system's processes: who lives, what they started, and how it is ended with them.

Tools and MCP servers start programs, a turn's holder is a program, and any of them may be killed at any instruction.
Rule: what a tool starts is on record beside its owner before it runs, so that whoever finds the owner dead can end it.
"""
