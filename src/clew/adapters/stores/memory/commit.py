"""The one write: checks in a fixed order, then rows in a fixed order, on a copy of the state.

Order: access, key, fence, then epoch, op and messages, turn, calls, approvals, inbox, usage, blobs, replies, patch,
what it opens, conversation.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import asdict, replace

from clew.adapters.stores.memory.jobs import keep_job
from clew.adapters.stores.memory.opening import open_session, point, write_op
from clew.adapters.stores.memory.ops import aim, write_messages
from clew.adapters.stores.memory.small_writes import receive
from clew.adapters.stores.memory.state import FirstUse, State
from clew.adapters.stores.memory.turns import cancel_queued, settle_turns, write_turn_rows
from clew.domain.ledger.commits import Append, Commit, Committed, SessionPatch
from clew.domain.ledger.errors import KeyReused, Refused
from clew.domain.ledger.fences import check_claim, check_fence, payload_of
from clew.domain.ledger.jobs import placed
from clew.domain.ledger.rows import SessionRow, TurnState


def commit(state: State, work: Commit) -> Committed:
    """Does all of it to this copy of the state, or raises."""
    row = state.writable(work.actor, work.session)
    known = _known(state, work)
    if known is not None:
        return known
    check_fence(work.fence, epoch=row.handle.epoch, version=row.handle.version, head=row.handle.head)
    _take_over(state, work, row)
    _write_op(state, work)
    write_turn_rows(state, work)
    cancelled = cancel_queued(state, work) if work.cancel_queued else 0
    if work.patch is not None:
        _patch(state, work, work.patch)
    for item in work.receives:
        receive(state, item)
    for job in work.jobs:
        keep_job(state, placed(job, state.sessions[work.session].handle.head))
    opened = open_session(state, work.opens, work.actor, work.at) if work.opens else None
    if work.conversation is not None:
        point(state, work.conversation)
    return Committed(handle=state.sessions[work.session].handle, opened=opened, cancelled=cancelled)


def _known(state: State, work: Commit) -> Committed | None:
    """The first commit's outcome, when this key was used before."""
    if work.idempotency_key is None:
        return None
    first = state.keys.get((work.session, work.idempotency_key))
    if first is None:
        return None
    if first.payload != payload_of(work):
        raise KeyReused(f"The key {work.idempotency_key} was used for something else.")
    return Committed(handle=first.handle, repeated=True)


def _take_over(state: State, work: Commit, row: SessionRow) -> None:
    """Raises the epoch, by one, where the commit cuts or claims; a lease that is released stops no turn."""
    check_claim(work, row.lease_owner, row.lease_beat)
    if not (work.cut or work.claim):
        lease = None if work.release else row.lease_owner
        state.sessions[row.id] = replace(row, lease_owner=lease)
        return
    handle = replace(row.handle, epoch=row.handle.epoch + 1)
    state.sessions[row.id] = replace(row, handle=handle, lease_owner=work.claim, lease_beat=0)
    if work.cut:
        ended = TurnState.ABANDONED if work.evicts else TurnState.INTERRUPTED
        settle_turns(state, work, ended, work.cut_reason)
    else:
        settle_turns(state, work, TurnState.ABANDONED, work.cut_reason or "abandoned")


def _write_op(state: State, work: Commit) -> None:
    if work.op is None:
        if work.idempotency_key is not None:
            raise Refused("A commit without an op has nothing to hang a key on.")
        return
    row = state.sessions[work.session]
    seen = row.handle
    kind, head, summary = aim(state, work, work.op, seen)
    after = replace(seen, head=head, version=seen.version + 1, summary=summary)
    active = row.last_active_at if head == seen.head else max(row.last_active_at, work.at)
    state.sessions[work.session] = replace(row, last_active_at=active)
    write_op(state, seen, after, kind, actor=work.actor, at=work.at, key=work.idempotency_key)
    if isinstance(work.op, Append):
        write_messages(state, work, work.op, head)
    if work.idempotency_key is not None:
        first = FirstUse(payload=payload_of(work), handle=after)
        state.keys[work.session, work.idempotency_key] = first


def _patch(state: State, work: Commit, patch: SessionPatch) -> None:
    columns = {name: value for name, value in asdict(patch).items() if value is not msgspec.UNSET}
    if isinstance(patch.prefix, msgspec.Struct):
        state.prefixes.setdefault(patch.prefix.sha256, patch.prefix)
        columns["prefix"] = patch.prefix.sha256
    state.sessions[work.session] = replace(state.sessions[work.session], **columns)
