"""Identities. Each is its own type, so that one can never be passed for another.

A session id never changes and never says anything; users may type any unambiguous prefix of it.
"""

from __future__ import annotations

from typing import Final, NewType

SessionId = NewType("SessionId", str)
PrincipalId = NewType("PrincipalId", str)
OwnerId = NewType("OwnerId", str)
"""A process (not a person) that may hold leases; its lock file is `run/<owner>.lock`."""
BranchId = NewType("BranchId", int)
MessageId = NewType("MessageId", int)
SummaryId = NewType("SummaryId", int)
ConversationId = NewType("ConversationId", int)
InboxId = NewType("InboxId", int)
OutboxId = NewType("OutboxId", int)
JobId = NewType("JobId", int)
FactId = NewType("FactId", int)
ApprovalId = NewType("ApprovalId", str)
CallId = NewType("CallId", str)

LOCAL: Final = PrincipalId("local")
"""The owner of CLEW_HOME: whoever sits at the terminal."""

ID_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford base 32, lower case: no letter is mistaken for a digit when read aloud."""
SESSION_ID_LENGTH: Final = 12


def call_id(session: SessionId, turn: int, step: int, n: int) -> CallId:
    """The id of the n-th call of a step: the same in every attempt and after every recovery.

    It is the idempotency key offered to tools, so it is derived, never drawn.
    """
    return CallId(f"{session}-{turn}-{step}-{n}")
