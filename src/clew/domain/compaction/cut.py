"""Where the older part of a path may end, so that what stays can stand by itself.

A call and its result stay on one side. What people sent in a turn stays verbatim as long as something of that turn
stays: a cut inside a turn covers the model's steps and leaves the words they answer to. So the newest user message is
in every request, byte for byte, wherever the cut is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clew.domain.compaction.estimate import message_tokens
from clew.domain.conversation.ids import CallId
from clew.domain.conversation.messages import Message, Role, ToolBody
from clew.domain.ledger.rows import SummaryRow


def standing(path: Sequence[Message], summary: SummaryRow | None) -> tuple[Message, ...]:
    """What a request shows of a path beside the summary in force: decided by the two alone, and as long as the
    summary is in force only ever longer."""
    if summary is None:
        return tuple(path)
    after = [message for message in path if message.seq > summary.upto.seq]
    return (*pinned(path[: len(path) - len(after)], after), *after)


def pinned(covered: Sequence[Message], after: Sequence[Message]) -> tuple[Message, ...]:
    """Of the covered messages, what people sent in the turn that goes on behind them."""
    if not after:
        return ()
    last_turn = _last_turn(covered, after[0].turn)
    return tuple(message for message in reversed(last_turn) if message.role == Role.USER)


def _last_turn(covered: Sequence[Message], turn: int) -> list[Message]:
    found = []
    for message in reversed(covered):
        if message.turn != turn:
            break
        found.append(message)
    return found


def find_cut_point(messages: Sequence[Message], keep_tokens: int) -> int | None:
    """How many messages from the first the summary should cover: as few as leave no more than `keep_tokens` standing,
    or as many as may be where even that leaves more. None when nothing can be covered.
    """
    sizes = [message_tokens(message) for message in messages]
    behind = sum(sizes)
    said = 0  # by people, in the turn that the cut would go through
    least: tuple[int, int] | None = None
    for cut, is_legal in enumerate(_cuts(messages), 1):
        message = messages[cut - 1]
        behind -= sizes[cut - 1]
        said += sizes[cut - 1] if message.role == Role.USER else 0
        said = said if messages[cut].turn == message.turn else 0
        if not is_legal:
            continue
        if behind + said <= keep_tokens:
            return cut
        if least is None or behind + said <= least[0]:
            least = behind + said, cut
    return None if least is None else least[1]


def _cuts(messages: Sequence[Message]) -> Iterator[bool]:
    """For the cut behind each message but the last, whether it is legal: it parts no call from its result, wherever
    that is stored, and goes behind the newest user message only inside that one's turn."""
    said = max((i for i, m in enumerate(messages) if m.role == Role.USER), default=None)
    named_last = {call: index for index, message in enumerate(messages) for call in _calls_named(message)}
    answered = {m.body.call for m in messages if isinstance(m.body, ToolBody)}
    reach = 0
    for cut, message in enumerate(messages[:-1], 1):
        for call in _calls_named(message):
            is_awaited = call not in answered and message.turn == messages[-1].turn
            reach = max(reach, len(messages) if is_awaited else named_last[call])
        yield reach < cut and (said is None or cut <= said or messages[cut].turn == messages[said].turn)


def _calls_named(message: Message) -> tuple[CallId, ...]:
    if isinstance(message.body, ToolBody):
        return (message.body.call,)
    return tuple(call.id for call in message.calls)
