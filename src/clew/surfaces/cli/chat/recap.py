"""The end of a conversation that is taken up again, as it stood on the screen."""

from __future__ import annotations

from typing import Final

from clew.domain.conversation.messages import EventBody, Message, Role, Status, ToolBody, ToolCall
from clew.domain.ledger.rows import ApprovalState, TurnState
from clew.runtime.commands.looking import when
from clew.runtime.talk import Talk
from clew.surfaces.cli.chat.printable import one_line
from clew.surfaces.cli.chat.screen import Screen

TURNS: Final = 2
CHARACTERS_MAX: Final = 6_000
"""Of one message; /history and `clew sessions show` have all of it."""


async def recap(talk: Talk, screen: Screen) -> None:
    """Shows the last exchanges, and what was left open. Raises LedgerError."""
    assert talk.session is not None, "there is nothing to recall of no session"
    ledger, principal, session = talk.services.ledger, talk.principal, talk.session
    starts = await ledger.turn_starts(principal, session, TURNS + 1)
    if starts:
        above = starts[: min(TURNS, len(starts))][-1].seq - 1
        if above:
            screen.notice(f"… {above} earlier messages; /history lists them")
        _messages(await ledger.path(principal, session, above=above), screen)
        screen.gap()
    await _left_open(talk, screen)


async def describe(talk: Talk) -> str:
    """One line: which session this is."""
    assert talk.session is not None, "there is nothing to say of no session"
    row = await talk.services.ledger.session(talk.principal, talk.session)
    count = row.handle.head.seq
    return (
        f"Session {row.id} · {row.title or 'untitled'} · {count} message{'s' if count != 1 else ''} · "
        f"{when(row.last_active_at)} UTC"
    )


def _messages(path: tuple[Message, ...], screen: Screen) -> None:
    asked: dict[str, ToolCall] = {}
    for message in path:
        match message.role:
            case Role.USER:
                screen.person(_shown(message), tuple(a.name or a.media_type for a in message.attachments))
            case Role.ASSISTANT:
                asked.update((call.id, call) for call in message.calls)
                screen.gap()
                screen.markdown(_shown(message))
                if message.status != Status.OK:
                    screen.notice(f"({message.status})")
            case Role.TOOL:
                _result(message, asked, screen)
            case Role.EVENT:
                kind = message.body.kind if isinstance(message.body, EventBody) else "event"
                screen.notice(f"[{kind}] {one_line(message.text, 200)}")


def _result(message: Message, asked: dict[str, ToolCall], screen: Screen) -> None:
    body = message.body
    call = asked.get(body.call) if isinstance(body, ToolBody) else None
    line = f"{call.name} {call.arguments}" if call else "a call"
    diff = body.diff if isinstance(body, ToolBody) else ""
    screen.call(line, message.status, message.text, diff)


def _shown(message: Message) -> str:
    text = message.text
    return text if len(text) <= CHARACTERS_MAX else f"…\n\n{text[-CHARACTERS_MAX:]}"


async def _left_open(talk: Talk, screen: Screen) -> None:
    """What the last process could not finish, and nobody goes on with."""
    assert talk.session is not None, "as in recap"
    ledger, principal, session = talk.services.ledger, talk.principal, talk.session
    turn = await ledger.turn(principal, session)
    if turn is not None and turn.state == TurnState.ABANDONED:
        screen.notice("The last answer was cut off before it ended. /retry asks for it again.")
    if turn is None or turn.state != TurnState.WAITING:
        return
    for approval in await ledger.approvals(principal, session):
        if approval.state == ApprovalState.PENDING:
            screen.notice(
                f"A call waits for your decision: /approve {approval.id} or /deny {approval.id}; /why shows it."
            )
