"""What waits to be delivered, and to whom: the outbox, and what is asked of the inbox."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from clew.adapters.stores.memory.state import State, StoredReply
from clew.domain.conversation.ids import ConversationId, OutboxId, OwnerId, PrincipalId, SessionId
from clew.domain.ledger.commits import AddReply
from clew.domain.ledger.errors import NotFound, Refused
from clew.domain.ledger.rows import Backlog, InboxState, LastReceived, Undelivered, Waiting
from clew.domain.routing.routes import GROUPS, group_principal, moved

_OUTCOMES: Final = frozenset({"pending", "sending", "sent", "unknown", "failed"})
_UNSETTLED: Final = frozenset({"pending", "sending", "unknown"})


def undelivered(
    state: State, surface: str, at: int, limit: int = 100, *, conversation: ConversationId | None = None
) -> tuple[Undelivered, ...]:
    """The first unsettled row of each place, in order."""
    first: dict[int, tuple[OutboxId, StoredReply]] = {}
    for ident, stored in sorted(state.outbox.items()):
        wanted = conversation in (None, stored.row.conversation)
        if wanted and stored.state in _UNSETTLED and stored.row.kind != "preview":
            first.setdefault(stored.row.conversation, (ident, stored))
    found = []
    for ident, stored in first.values():
        place = state.conversation_by_id(stored.row.conversation)
        if place is None or place.surface != surface or stored.next_at > at or stored.session in state.purged:
            continue
        preview = _preview(state, stored)
        said = "" if stored.message is None else state.messages[stored.message].text
        found.append(
            Undelivered(
                id=ident,
                session=stored.session,
                conversation=stored.row.conversation,
                route_key=place.route_key,
                kind=stored.row.kind,
                part=stored.row.part,
                text=stored.row.body if stored.row.body is not None else said,
                state=stored.state,
                key=stored.row.key,
                attempts=stored.attempts,
                owner=stored.owner,
                shown_as=None if preview is None else preview.platform_id,
                may_be_shown=preview is not None
                and preview.platform_id is None
                and preview.state != "failed",
            )
        )
    return tuple(sorted(found, key=lambda row: row.id)[:limit])


def _preview(state: State, reply: StoredReply) -> StoredReply | None:
    if reply.row.kind != "reply":
        return None
    for other in state.outbox.values():
        same = (other.session, other.row.turn, other.row.part) == (
            reply.session,
            reply.row.turn,
            reply.row.part,
        )
        if same and other.row.kind == "preview":
            return other
    return None


def take_reply(state: State, row: Undelivered, owner: OwnerId) -> bool:
    stored = state.outbox.get(row.id)
    if stored is None or (stored.state, stored.attempts, stored.owner) != (
        row.state,
        row.attempts,
        row.owner,
    ):
        return False
    state.outbox[row.id] = replace(stored, state="sending", attempts=stored.attempts + 1, owner=owner)
    return True


def settle_reply(
    draft: State,
    reply: OutboxId,
    state: str,
    platform_id: str | None,
    reason: str | None = None,
    *,
    next_at: int | None = None,
) -> None:
    """Raises NotFound for no such reply, Refused for no such outcome."""
    stored = draft.outbox.get(reply)
    if stored is None:
        raise NotFound(f"There is no reply {reply}.")
    stays = stored.state == "sent" and (
        stored.row.kind == "notice" or (state != "sent" and stored.row.kind != "preview")
    )
    if state not in _OUTCOMES or stays:
        raise Refused(f"A reply that is {stored.state} cannot become {state}.")
    draft.outbox[reply] = replace(
        stored,
        state=state,
        platform_id=platform_id or stored.platform_id,
        reason=reason or stored.reason,
        next_at=stored.next_at if next_at is None else next_at,
        attempts=max(stored.attempts - (state == "pending"), 0),
    )


def add_reply(state: State, session: SessionId, reply: AddReply, at: int) -> OutboxId:
    known = next((ident for ident, stored in state.outbox.items() if stored.row.key == reply.key), None)
    if known is not None:
        return known
    if session not in state.sessions or session in state.purged:
        raise NotFound(f"There is no session {session}.")
    ident = OutboxId(state.next_id())
    state.outbox[ident] = StoredReply(session=session, message=None, row=reply, state="pending", next_at=at)
    return ident


def waiting(state: State, surface: str) -> tuple[Waiting, ...]:
    found = set()
    for row in state.inbox.values():
        place = state.conversation_by_id(row.conversation)
        if place is None or place.surface != surface:
            continue
        if row.state == InboxState.QUEUED and row.kind != "event":
            found.add((place.route_key, row.session, row.principal))
    return tuple(
        Waiting(route_key=key, session=session, principal=who) for key, session, who in sorted(found)
    )


def backlog(state: State, surface: str) -> Backlog:
    def is_here(conversation: ConversationId) -> bool:
        place = state.conversation_by_id(conversation)
        return place is not None and place.surface == surface

    received = [
        row.at
        for row in state.inbox.values()
        if row.state == InboxState.QUEUED and row.kind != "event" and is_here(row.conversation)
    ]
    replies = [
        stored.next_at
        for stored in state.outbox.values()
        if stored.state in _UNSETTLED
        and stored.row.kind != "preview"
        and is_here(stored.row.conversation)
        and stored.session not in state.purged
    ]
    return Backlog(
        inbox=len(received),
        inbox_since=min(received, default=None),
        outbox=len(replies),
        outbox_since=min(replies, default=None),
    )


def is_received(state: State, account: str, external_key: str) -> bool:
    return any((row.account, row.external_key) == (account, external_key) for row in state.inbox.values())


def last_received(state: State, route_key: str) -> LastReceived | None:
    place = state.conversations.get(route_key)
    rows = [
        row
        for row in state.inbox.values()
        if place is not None and row.conversation == place.id and row.kind not in ("event", "wake")
    ]
    if not rows:
        return None
    last = max(rows, key=lambda row: row.n)
    return LastReceived(principal=last.principal, sent_by=last.sent_by, at=last.at)


def move_chat(state: State, surface: str, old: str, new: str) -> None:
    for key, place in list(state.conversations.items()):
        to = moved(key, old, new)
        if to is None or place.surface != surface or place.session is None:
            continue
        group = state.identities.get((GROUPS + surface, key), group_principal(key))
        if group in state.roles:
            state.identities.setdefault((GROUPS + surface, to), group)
        there = state.conversations.get(to)
        if there is None:
            del state.conversations[key]
            state.conversations[to] = replace(place, route_key=to, version=place.version + 1)
            for ident, job in state.jobs.items():
                if job.conversation == place.id:
                    state.jobs[ident] = replace(job, route_key=to)
        else:
            state.conversations[to] = replace(there, session=place.session, version=there.version + 1)
            state.conversations[key] = replace(place, session=None, version=place.version + 1)


def group_of(state: State, surface: str, route_key: str) -> PrincipalId | None:
    return state.identities.get((GROUPS + surface, route_key))
