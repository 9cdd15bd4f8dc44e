"""May this commit be made on what is there? Every store asks the same, after access and before it writes."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import AsHolder, Commit, Fence
from clew.domain.ledger.errors import Busy, Fenced, HeadMoved

TURN_IS_OVER: Final = "The turn that this subagent works for is over."
_encode: Final = msgspec.json.Encoder().encode


def check_fence(fence: Fence, *, epoch: int, version: int, head: Head) -> None:
    """Raises Fenced for a holder whose epoch is over, HeadMoved for anybody whose picture is old."""
    if isinstance(fence, AsHolder):
        if fence.epoch != epoch:
            raise Fenced("Somebody else took this session over.")
        if fence.head != head:
            raise HeadMoved("The session moved on meanwhile.")
    elif fence.version != version or fence.head != head:
        raise HeadMoved("The session changed meanwhile.")


def check_claim(work: Commit, lease_owner: str | None, lease_beat: int) -> None:
    """Raises Busy while another process holds the turn, or has beaten since it was seen silent."""
    if work.claim is not None and lease_owner not in (None, work.claim, work.evicts):
        raise Busy("Another process is in the middle of a turn of this session.", str(lease_owner))
    if work.seen_beat is not None and (lease_owner, lease_beat) != (work.evicts, work.seen_beat):
        raise Busy("The process in the middle of a turn of this session lives.", str(lease_owner))


def payload_of(work: Commit) -> bytes:
    """What makes two commits with one key the same: what they say, not when, against what, or by which process."""
    return hashlib.sha256(_encode((work.op, work.open_turn, work.plan, work.patch, work.opens))).digest()
