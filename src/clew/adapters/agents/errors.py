"""What can go wrong with an agent, as whoever asked for it has to tell it apart.

AgentError
├── AgentUnavailable  it cannot be had: the sentence says why, and what to do
│   └── UnknownAgent  nobody ever said what program that is
├── AgentGone         it ended, or its connection did, while it was asked, or it does not answer any more
├── AgentRefused      it answered a request with an error
└── PoolClosed        nobody is lent an agent any more
"""

from __future__ import annotations


class AgentError(Exception):
    """One sentence for a person."""


class AgentUnavailable(AgentError):
    """No agent came of it. `for_good` when another try now would only say the same."""

    def __init__(self, sentence: str, *, for_good: bool = False) -> None:
        super().__init__(sentence)
        self.for_good = for_good


class UnknownAgent(AgentUnavailable):
    """There is no such agent."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, for_good=True)


class AgentGone(AgentError):
    """The agent is no more; what it was doing has no end."""


class AgentRefused(AgentError):
    """The agent's own error."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class PoolClosed(AgentError):
    """The program is about to end."""
