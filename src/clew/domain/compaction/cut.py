"""Where the older part of a path may end, so that what stays can stand by itself.

A call and its result stay on one side. What people sent in a turn, or the event that began it, stays verbatim as long as
something of that turn stays: a cut inside a turn covers the model's steps and leaves the words they answer to. So the
newest user message is in every request of its turn, byte for byte, wherever the cut is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clew.domain.conversation.ids import CallId
from clew.domain.conversation.messages import AssistantBody, Message, Role, ToolBody
from clew.domain.ledger.rows import SummaryRow


def standing(path: Sequence[Message], summary: SummaryRow | None) -> tuple[Message, ...]:
    """What a request shows of a path beside the summary in force: decided by the two alone, and as long as the
    summary is in force only ever longer."""
    if summary is None:
        return tuple(path)
    after = [message for message in path if message.seq > summary.upto.seq]
    return (*pinned(path[: len(path) - len(after)], after), *after)


def pinned(covered: Sequence[Message], after: Sequence[Message]) -> tuple[Message, ...]:
    """Of the covered messages, what people sent in the turn that goes on behind them; what it began with, if nobody did."""
    if not after:
        return ()
    last_turn = _last_turn(covered, after[0].turn)
    said = tuple(message for message in reversed(last_turn) if message.role == Role.USER)
    return said or tuple(message for message in reversed(last_turn) if message.is_asked)


def _last_turn(covered: Sequence[Message], turn: int) -> list[Message]:
    found = []
    for message in reversed(covered):
        if message.turn != turn:
            break
        found.append(message)
    return found


class Cut(NamedTuple):
    """The summary covers so many messages from the first; those that stand then take so many tokens."""

    covered: int
    kept_tokens: int


def find_cut_point(messages: Sequence[Message], sizes: Sequence[int], keep_tokens: int) -> Cut | None:
    """Covers as few messages as leave no more than `keep_tokens` standing, or as many as may be where even that leaves
    more; `sizes` are their tokens. None when nothing can be covered.
    """
    behind = sum(sizes)
    said = began = 0  # by people in the turn that the cut would go through, and by the events it began with
    least: Cut | None = None
    for covered, is_legal in enumerate(_cuts(messages), 1):
        message, size = messages[covered - 1], sizes[covered - 1]
        behind -= size
        is_said = message.role == Role.USER
        said += size if is_said else 0
        began += size if message.is_asked and not is_said else 0
        if messages[covered].turn != message.turn:
            said = began = 0
        kept = behind + (said or began)
        if is_legal and (kept <= keep_tokens or least is None or kept <= least.kept_tokens):
            least = Cut(covered, kept)
        if is_legal and kept <= keep_tokens:
            break
    return least


def _cuts(messages: Sequence[Message]) -> Iterator[bool]:
    """For the cut behind each message but the last, whether it is legal: it parts no call from its result, wherever
    that is stored, and goes behind the newest that is answered only inside that one's turn."""
    said = next((i for i in reversed(range(len(messages))) if messages[i].is_asked), len(messages))
    named = [_calls_named(message) for message in messages]
    named_last = {call: index for index, calls in enumerate(named) for call in calls}
    answered = {m.body.call for m in messages if isinstance(m.body, ToolBody)}
    reach = 0
    for cut, message in enumerate(messages[:-1], 1):
        for call in named[cut - 1]:
            is_awaited = call not in answered and message.turn == messages[-1].turn
            reach = max(reach, len(messages) if is_awaited else named_last[call])
        yield reach < cut and (cut <= said or messages[cut].turn == messages[said].turn)


def _calls_named(message: Message) -> tuple[CallId, ...]:
    match message.body:
        case ToolBody(call=call):
            return (call,)
        case AssistantBody(calls=calls):
            return tuple(call.id for call in calls)
        case _:
            return ()
