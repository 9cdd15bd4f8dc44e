"""What works beside a session: looks at every change of side sessions, and at what is left of them in the end.

A side session's task is a message of its own and of nobody else's; it comes to one end, however often somebody asked for
it; it spends within the caps of the session that it works beside; and nothing of it is left running.
"""

from __future__ import annotations

from clew.adapters.stores.memory.state import State
from clew.domain.conversation.ids import SessionId
from clew.domain.conversation.messages import EventBody
from clew.domain.ledger.commits import UsageState
from clew.domain.ledger.rows import BACKGROUND, CallState, Origin, SessionRow, TurnState
from clew.runtime.delegating import NAME as DELEGATE
from clew.runtime.sides import side_id
from clew.runtime.turns.waiting import EVENT
from clew.testing.simulation.record import TOKEN, Record


class Beside:
    """One for all processes of a run."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._given: dict[str, SessionId] = {}
        """By a task's token: the subagent that has it."""

    def wrote(self, before: State, after: State) -> None:
        record = self._record
        for session, row in after.sessions.items():
            if session not in before.sessions and row.origin == Origin.SIDE and row.parent is not None:
                is_nested = after.sessions[row.parent].origin == Origin.SIDE
                record.hit(f"beside: {row.surface} begun" + (", by a subagent" if is_nested else ""))
        for (session, _), turn in after.turns.items():
            was = before.turns.get((session, turn.turn))
            if was is turn or after.sessions[session].origin != Origin.SIDE:
                continue
            surface = after.sessions[session].surface
            if was is None or was.state != turn.state:
                record.hit(f"beside: {surface} {turn.state}")
                self._check_once(session, after)
            elif turn.crashes > was.crashes:
                record.hit(f"beside: {surface} gone on with after a crash")
        for call, now in after.calls.items():
            if (
                now.name == DELEGATE
                and now.state == CallState.STARTED
                and before.calls[call].state == CallState.UNKNOWN
            ):
                done = any(_is_done(after, side_id(f"{call}:{n}")) for n in range(8))
                record.hit(f"beside: delegate asked again, {'some were' if done else 'none was'} done")
        for at, message in after.messages.items():
            is_task = isinstance(message.body, EventBody) and message.body.kind == "task"
            if is_task and at not in before.messages:
                self._check_task(after.sessions[after.branches[at.branch].session], message.text)

    def _check_task(self, side: SessionRow, task: str) -> None:
        self._record.require(
            side.origin == Origin.SIDE, f"a task is in the history of {side.id}, {side.origin}"
        )
        for token in TOKEN.findall(task):
            first = self._given.setdefault(token, side.id)
            self._record.require(first == side.id, f"{token} was given to {first} and to {side.id}")

    def check_caps(self, state: State, usd_per_session: float | None, usd_per_day: float | None) -> None:
        """What a session and all that works beside it spent and set aside is within its cap, and all of it within the day's."""
        calls: dict[tuple[SessionId, int, int, int, str], float] = {}
        for used in state.usage.values():
            row = used.row
            call = (used.session, row.turn, row.step, row.attempt, row.task)
            # A summary whose turn was cut meanwhile is there twice: as what was set aside, and as what it came to.
            calls[call] = max(calls.get(call, 0.0), row.cost_usd or 0.0)
        spent: dict[SessionId, float] = {}
        for (session, *_), cost in calls.items():
            root = state.sessions[session]
            while root.origin == Origin.SIDE and root.parent is not None:
                root = state.sessions[root.parent]
            spent[root.id] = spent.get(root.id, 0.0) + cost
        most, total = max(spent.values(), default=0.0), sum(spent.values())
        self._record.require(usd_per_session is None or most <= usd_per_session, f"a session spent {most}")
        self._record.require(usd_per_day is None or total <= usd_per_day, f"a day's sessions spent {total}")

    def check_ended(self, state: State) -> None:
        """At the end, when everybody came back to every session."""
        require = self._record.require
        living = {ident: row for ident, row in state.sessions.items() if ident not in state.purged}
        for (session, number), turn in state.turns.items():
            is_open = session in living and turn.state in (TurnState.RUNNING, TurnState.WAITING)
            require(not is_open, f"turn {number} of {session} is {turn.state} for ever")
        for job in state.jobs.values():
            require(job.state != "queued", f"job {job.key} waits for ever, held by {job.lease_owner}")
        for row in state.usage.values():
            reserved = (
                row.row.state == UsageState.RESERVED and row.row.task == "turn" and row.session in living
            )
            require(not reserved, f"{row.row.task} of {row.session} set money aside for ever")
        for ident, side in living.items():
            if side.origin == Origin.SIDE and side.surface == BACKGROUND and side.parent in living:
                told = [
                    r
                    for r in state.inbox.values()
                    if r.kind == EVENT and r.external_key == f"background:{ident}"
                ]
                require(
                    side.ended_at is not None and len(told) == 1,
                    f"background {ident} was told {len(told)} times",
                )

    def _check_once(self, session: SessionId, state: State) -> None:
        row = state.sessions[session]
        ends = [t for t in state.turns.values() if t.session == session and t.state == TurnState.DONE]
        if row.surface != BACKGROUND:
            self._record.require(len(ends) <= 1, f"{row.surface} {session} was done {len(ends)} times")


def _is_done(state: State, side: SessionId) -> bool:
    return any(turn.session == side and turn.state == TurnState.DONE for turn in state.turns.values())
