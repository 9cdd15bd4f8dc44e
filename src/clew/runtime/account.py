"""What became of everything that was sent: of each message, turn and call, with times and reasons, from the ledger alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import Message, Role, Status, ToolBody
from clew.domain.conversation.text import one_line
from clew.domain.ledger.rows import (
    ApprovalRow,
    ApprovalState,
    CallRow,
    CallState,
    InboxRow,
    InboxState,
    OpKind,
    ReplyRow,
    TurnRow,
)
from clew.runtime.ports.ledger import Ledger
from clew.runtime.turns.waiting import EVENTS, BusyMode, unpack

WORDS_MAX: Final = 50
REASON_MAX: Final = 100
OPS_LOOKED_AT: Final = 200
ACCESS: Final = "access"
"""Why a turn was ended, or a message taken back: whoever sent it may not talk to Clew any more."""


def second(at: int) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def shortened(text: str, limit: int = WORDS_MAX) -> str:
    """The start of a text, on one line."""
    return one_line(text, limit)


def came_out(turn: TurnRow) -> str:
    """How a turn ended, if it did."""
    took = "" if turn.finished_at is None else f" after {(turn.finished_at - turn.started_at) / 1000:.1f} s"
    reason = f" ({turn.end_reason})" if turn.end_reason and turn.end_reason != "answered" else ""
    return f"{turn.state}{reason}{took}"


class Account:
    """One session as it is now. Made by `read_account`."""

    def __init__(
        self,
        path: Sequence[Message],
        turns: dict[int, TurnRow],
        calls: Sequence[CallRow],
        approvals: Sequence[ApprovalRow],
        recoveries: Sequence[int],
    ) -> None:  # fmt: skip
        self._path = path
        self._turns = turns
        self._calls = calls
        self._approvals = approvals
        self._recoveries = recoveries
        self._results = {m.body.call: m for m in path if isinstance(m.body, ToolBody)}

    # -- messages ------------------------------------------------------------------------------------------------
    def received(self, row: InboxRow) -> str:
        """What became of something that was received, in one line."""
        body = unpack(row.body) if row.body else None
        words = f"“{shortened(body.text)}”" if body is not None else "(deleted)"
        steers = body is not None and body.mode == BusyMode.STEER
        what = "event" if row.kind in EVENTS else "steering message" if steers else "message"
        return f"{what} {row.n} {words}, received {second(row.at)}: {self._fate(row)}"

    def _fate(self, row: InboxRow) -> str:
        match row.state:
            case InboxState.QUEUED:
                step = unpack(row.body).not_before
                return "waits" + (f", to join from step {step} of a turn on" if step > 1 else "")
            case InboxState.CONSUMED:
                return self._taken(row)
            case _:
                by = f" by /{row.settled_by}" if row.settled_by else ""
                if row.settled_by == ACCESS:
                    by = ", whoever sent it may not talk to Clew any more,"
                at = f" at {second(row.settled_at)}" if row.settled_at is not None else ""
                return f"{row.state}{by}{at}"

    def _taken(self, row: InboxRow) -> str:
        if row.turn is None:
            return "taken"
        text = unpack(row.body).text if row.body else None
        at = f" at {second(row.settled_at)}" if row.settled_at is not None else ""
        stored = next(
            (m for m in self._path
             if m.turn == row.turn and m.text == text and m.role in (Role.USER, Role.EVENT)
             and m.created_at == row.settled_at),
            None,
        )  # fmt: skip
        if stored is None:
            how = f"taken into turn {row.turn}{at}, off the path now"
        elif stored.step:
            how = f"joined turn {row.turn} before step {stored.step}{at}"
        else:
            how = f"{'told to' if row.kind in EVENTS else 'opened'} turn {row.turn}{at}"
        turn = self._turns.get(row.turn)
        return how if turn is None else f"{how} ({turn.state})"

    @staticmethod
    def undelivered(replies: Sequence[ReplyRow]) -> list[str]:
        """What was not delivered and never will be, a line each."""
        failed = [row for row in replies if row.state == "failed" and row.reason]
        return [
            f"{row.kind} of turn {row.turn} to {row.surface} not delivered: {row.reason}" for row in failed
        ]

    # -- turns ---------------------------------------------------------------------------------------------------
    def turn(self, turn: TurnRow) -> list[str]:
        """A turn, what opened and joined it, and each of its calls."""
        began = f"started {second(turn.started_at)} UTC, model {turn.model}"
        lines = [f"turn {turn.turn}: {came_out(turn)}, {began}"]
        if turn.error:
            lines.append(f"  error: {turn.error}")
        lines += [f"  {self._said(m)}" for m in self._path if m.turn == turn.turn and m.is_asked]
        lines += [f"  {self.call(call)}" for call in self._calls if call.turn == turn.turn]
        lines += [
            f"  went on after a crash, {second(at)}" for at in self._recoveries if self._is_in(turn, at)
        ]
        return lines

    @staticmethod
    def _said(message: Message) -> str:
        if message.role == Role.EVENT:
            return f"told at its start of the event “{shortened(message.text)}”"
        how = (
            "opened by"
            if message.opens_turn
            else f"joined before step {message.step}, {second(message.created_at)}, by"
        )
        return f"{how} “{shortened(message.text)}”"

    @staticmethod
    def _is_in(turn: TurnRow, at: int) -> bool:
        return turn.started_at <= at and (turn.finished_at is None or at <= turn.finished_at)

    def call(self, call: CallRow) -> str:
        """A call, its times and why it came out as it did."""
        times = [f"planned {second(call.planned_at)}"]
        if call.started_at is not None:
            times.append(f"started {second(call.started_at)}")
            if call.finished_at is not None:
                times.append(f"took {call.finished_at - call.started_at} ms")
        told = [
            f"{a.state} approval {a.id}{f' by {a.decided_by}' if a.decided_by else ''}"
            for a in self._asked(call)
        ]
        return f"call {call.id} {call.name}: {call.state}{self._reason(call)}; {', '.join(times + told)}"

    def _asked(self, call: CallRow) -> list[ApprovalRow]:
        return [row for row in self._approvals if row.call == call.id]

    def _reason(self, call: CallRow) -> str:
        result = self._results.get(call.id)
        if result is None or result.status == Status.OK:
            waits = any(row.state == ApprovalState.PENDING for row in self._asked(call))
            return ", waits for /approve or /deny" if waits and call.state == CallState.PLANNED else ""
        status = f", {result.status}" if result.status.value != call.state.value else ""
        return f"{status}: {shortened(result.text, REASON_MAX)}"


async def read_account(
    ledger: Ledger, principal: PrincipalId, session: SessionId, rows: Sequence[InboxRow], *numbers: int
) -> Account:
    """Everything needed to tell of these received rows and these turns. Raises NotFound."""
    turns: dict[int, TurnRow] = {}
    for number in {*numbers, *(row.turn for row in rows if row.turn is not None)}:
        turn = await ledger.turn(principal, session, number)
        if turn is not None:
            turns[number] = turn
    ops = await ledger.ops(principal, session, limit=OPS_LOOKED_AT)
    return Account(
        await ledger.path(principal, session),
        turns,
        await ledger.calls(principal, session),
        await ledger.approvals(principal, session),
        [op.at for op in reversed(ops) if op.kind == OpKind.RECOVER],
    )
