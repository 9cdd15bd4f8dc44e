"""Other people's agents (gemini-cli, claude-agent-acp, codex-acp, …) as models of ours, over the Agent Client Protocol.

Rule: an agent is somebody else's program, and remembers nothing for us. What was said is in the ledger; what an agent
holds of it is a copy that is thrown away whenever it might differ. It may not start, die, hang, flood or say nonsense:
that costs the turns it has, a clear sentence, and nothing else. docs/agents.md says how the parts play together.
"""
