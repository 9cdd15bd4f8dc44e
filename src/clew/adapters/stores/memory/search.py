"""Search by reading everything: slow, and therefore what an index must agree with."""

from __future__ import annotations

from collections.abc import Iterator

from clew.adapters.stores.memory.state import State
from clew.adapters.stores.memory.tree import segments
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Message, ToolBody
from clew.domain.conversation.words import words
from clew.domain.ledger.rows import Hit, Order, SearchResult, SessionRow
from clew.domain.ledger.search import Query, matches, parse, snippet


def search(
    state: State,
    principal: PrincipalId,
    typed: str,
    *,
    limit: int = 20,
    order: Order = Order.RANKED,
    session: SessionId | None = None,
) -> SearchResult:
    """Messages that answer the query and stand on the head path of a session the principal may see."""
    if session is not None:
        state.visible(principal, session)
    query = parse(typed)
    rows = [
        row
        for row in state.sessions.values()
        if state.sees(principal, row) and (session == row.id if session else row.is_searched)
    ]
    found = [
        (message, home)
        for message, home in _living(state, rows)
        if matches(query, words(searchable(message)))
    ]
    found.sort(key=lambda pair: pair[0].id, reverse=True)
    if order == Order.RANKED:
        found.sort(key=lambda pair: score(query, pair[0]), reverse=True)
    return SearchResult(hits=tuple(_hit(message, home, query) for message, home in found[: max(0, limit)]))


def searchable(message: Message) -> str:
    """What a message is found by: its text, and the names and arguments of the tool calls in it."""
    calls = [f"{call.name} {call.arguments}" for call in message.calls]
    tool = [message.body.name] if isinstance(message.body, ToolBody) else []
    return " ".join([message.text, *calls, *tool])


def score(query: Query, message: Message) -> float:
    """How often the words occur, with less and less gain, and less in a long text."""
    text = words(searchable(message))
    wanted = [word for term in query.terms for word in term.words]
    counts = [sum(word.startswith(each) for word in text) for each in wanted]
    return sum(count / (count + 1 + len(text) / 170) for count in counts)


def _living(state: State, rows: list[SessionRow]) -> Iterator[tuple[Message, SessionRow]]:
    """Each message once, with the session it is shown in: its own if it lives there, else a fork's."""
    homes: dict[Head, SessionRow] = {}
    for row in rows:
        for part in segments(state, row.handle.head):
            is_own = state.branches[part.branch].session == row.id
            for seq in range(part.low + 1, part.high + 1):
                at = Head(part.branch, seq)
                if is_own or at not in homes:
                    homes[at] = row
    for at, row in homes.items():
        yield state.messages[at], row


def _hit(message: Message, home: SessionRow, query: Query) -> Hit:
    return Hit(
        session=home.id,
        title=home.title,
        message=message.id,
        position=message.seq,
        role=message.role,
        snippet=snippet(message.text, query),
        created_at=message.created_at,
    )
