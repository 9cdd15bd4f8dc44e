"""What a process that ended left of its turn, and what becomes of it.

Pure: from the turn's messages, its calls and who was asked about them. A call whose result is stored is never run again;
one that had started is unknown, and is run again only if that is safe; a planned one is not run, unless a person was asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from clew.domain.conversation.ids import CallId
from clew.domain.conversation.messages import Message, NewMessage, Role, Status, ToolBody, ToolCall
from clew.domain.ledger.rows import CallRow, CallState
from clew.domain.turn.prompt import Overlay

_STATUS: Final = {CallState.NOT_RUN: Status.NOT_RUN, CallState.UNKNOWN: Status.UNKNOWN}
_WORDS: Final = {
    CallState.NOT_RUN: "{who} before this call was run.",
    CallState.UNKNOWN: "{who} while this call ran; whether it took effect is not known.",
}
# A call that is still open is PLANNED because it waits for a yes, and STARTED because it may run once more.
_SAID: Final = {
    CallState.FINISHED: "finished",
    CallState.UNKNOWN: "outcome unknown, not run again",
    CallState.NOT_RUN: "not run",
    CallState.PLANNED: "waits for approval",
    CallState.STARTED: "run again, which is safe",
}


class Interrupted(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that its process left in the middle.

    `settled` are calls that get a result now, each with the state it ends in: NOT_RUN or UNKNOWN. `open` are those that
    still have to run, each with the state it is in: PLANNED and asked about, or STARTED and safe to repeat. `key` names the last tool batch, the same in every recovery of it; None without one.
    """

    step: int
    settled: tuple[tuple[ToolCall, CallState], ...] = ()
    open: tuple[tuple[ToolCall, CallState], ...] = ()
    finished: tuple[ToolCall, ...] = ()
    key: str | None = None

    @property
    def outcomes(self) -> str:
        """What became of each call of the batch, for people and models."""
        each = [(call, CallState.FINISHED) for call in self.finished] + [*self.settled, *self.open]
        each.sort(key=lambda pair: pair[0].id)
        return "; ".join(f"{call.name}: {_SAID[state]}" for call, state in each)


def interrupted(
    messages: Sequence[Message], calls: Mapping[CallId, CallRow], asked: Collection[CallId]
) -> Interrupted:
    """`messages` are the turn's, in order; `asked` the calls that a person was asked about."""
    step = max((m.step for m in messages), default=0)
    batch = next((m.calls for m in reversed(messages) if m.calls), ())
    if not batch:
        return Interrupted(step=step)
    answered = {m.body.call for m in messages if isinstance(m.body, ToolBody)}
    settled: list[tuple[ToolCall, CallState]] = []
    still_open: list[tuple[ToolCall, CallState]] = []
    for call in batch:
        row = calls[call.id]
        if call.id in answered:
            continue
        if row.state == CallState.PLANNED and call.id in asked:
            still_open.append((call, CallState.PLANNED))
        elif row.state == CallState.PLANNED:
            settled.append((call, CallState.NOT_RUN))
        elif row.safe_to_repeat:
            still_open.append((call, CallState.STARTED))
        else:
            settled.append((call, CallState.UNKNOWN))
    return Interrupted(
        step=step,
        settled=tuple(settled),
        open=tuple(still_open),
        finished=tuple(call for call in batch if call.id in answered),
        key=batch_key(batch),
    )


def batch_key(batch: Sequence[ToolCall]) -> str:
    """Names a batch whatever became of its calls: a recovery that is interrupted finds the one before by it."""
    named = "\0".join(f"{call.id} {call.name} {call.arguments}" for call in batch)
    return f"recover:{hashlib.sha256(named.encode()).hexdigest()[:32]}"


def settled_result(call: ToolCall, state: CallState, step: int, who: str) -> NewMessage:
    """The result of a call that has none: `who` says what came between, like "The turn ended"."""
    return NewMessage(
        role=Role.TOOL,
        text=_WORDS[state].format(who=who),
        step=step,
        actor=call.name,
        status=_STATUS[state],
        body=ToolBody(call=call.id, name=call.name),
    )


def recovery_overlay(left: Interrupted) -> Overlay:
    """What the model is told in the requests of the turn that goes on."""
    return Overlay(
        text='<recovery note="not written by the user">\n'
        "The program stopped in the middle of this turn and goes on with it now. The last tool calls: "
        f"{left.outcomes}. Do not repeat what is finished; find out before you repeat what is unknown. "
        "Then answer the message above.\n</recovery>"
    )


def recovery_notice(left: Interrupted) -> str:
    """What the person is told, once a batch."""
    return f"Clew stopped in the middle of this turn, and goes on with it ({left.outcomes})."
