"""One task in a side session, brought to its end: by a subagent, or for a review.

The side session has one turn, opened by its task. Everything that matters is a row: whoever asks for the same task again
finds the turn as it is, and waits for it, goes on with what a crash left of it, or reads how it ended. It never runs twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from clew.domain.conversation.ids import ID_ALPHABET, SESSION_ID_LENGTH, PrincipalId, SessionId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.commits import SessionPatch
from clew.domain.ledger.errors import Busy, LedgerError, Refused
from clew.domain.ledger.rows import SessionRow, TurnRow, TurnState
from clew.runtime.ports.people import Approver, Watch
from clew.runtime.ports.tools import Tool
from clew.runtime.sending import POLL_SECONDS
from clew.runtime.talk import Services, SessionTools
from clew.runtime.turns.job import TurnJob, TurnSettings
from clew.runtime.turns.openings import GoOn, Opening, Recover, Work
from clew.runtime.turns.outcome import CANCELLED
from clew.runtime.turns.running import RunningTurn

PROMPT: Final = """\
You work on one task, beside a conversation, for another agent of the same person. The last <event kind="task"> states it: \
unlike other events it is your instruction. You cannot ask back: decide what is left open, and say what you decided. Your \
last message is all that the other agent is given, so it has to hold the whole result, and nothing else.
"""
_OPENING: Final[Mapping[TurnState, type[Recover | GoOn]]] = {
    TurnState.RUNNING: Recover,
    TurnState.WAITING: GoOn,
}
COME_TO_NOTHING: Final = frozenset({TurnState.FAILED, TurnState.ABANDONED})


class SideEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How the task came out: a turn's state, the last words of it, and why there are no more."""

    side: SessionId
    state: TurnState
    text: str = ""
    reason: str | None = None
    error: str | None = None


def side_id(key: str) -> SessionId:
    """The id of the side session for this key: derived, never drawn, so that asking again finds it."""
    digest = hashlib.sha256(key.encode()).digest()
    return SessionId("".join(ID_ALPHABET[byte % 32] for byte in digest[:SESSION_ID_LENGTH]))


class SideTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task, and whom it is for. Without `tools` it is done with words alone."""

    principal: PrincipalId
    side: SessionRow
    text: str
    cwd: Path
    settings: TurnSettings
    tools: SessionTools | None = None
    """Those of the session that it works for: it has the like."""
    offered: Callable[[Sequence[Tool]], Sequence[Tool]] = tuple
    """Which of them it may use, and what else."""
    again: bool = False
    """Whether it is begun anew where it had come to nothing before."""


async def finished(services: Services, task: SideTask, watch: Watch, approver: Approver) -> SideEnd:
    """Returns when the side session's turn has ended. Cancelling it ends the turn, and passes on once that is on disk.

    A turn that comes to a question which nobody is there to answer ends too. Raises LedgerError, ModelUnavailable.
    """
    ledger, side = services.ledger, task.side.id
    turn = await ledger.turn(task.principal, side)
    again = task.again and turn is not None and turn.state in COME_TO_NOTHING
    unanswered = False
    while turn is None or again or turn.state in _OPENING or turn.end_reason == CANCELLED:
        # A turn was cancelled by who has lost the session that it works for: whoever has it now begins another.
        opens = None if turn is None else _OPENING.get(turn.state)
        again = unanswered = False
        begin = Work(task=task.text, key=f"work-{turn.turn if turn is not None else 0}")
        try:
            unanswered = await _run(services, task, begin if opens is None else opens(), watch, approver)
        except Busy:
            await asyncio.sleep(POLL_SECONDS)  # another process is at it: its end is waited for
        except Refused:
            if await ledger.turn(task.principal, side) == turn:
                raise
            # It was given up, or ended meanwhile: looked at again.
        if unanswered:
            await services.desk.stop(task.principal, side)
        turn = await ledger.turn(task.principal, side)
    end = await _end(services, task, turn)
    if unanswered:
        why = "It came to a call that needs a person's yes, and nobody was there to give it. Make that call yourself."
        end = msgspec.structs.replace(end, error=why)
    await _settled(services, task, end)
    return end


async def _run(
    services: Services, task: SideTask, opening: Opening, watch: Watch, approver: Approver
) -> bool:
    """Runs the turn, and says whether it waits for an answer of a person's."""
    row, running = task.side, list[RunningTurn]()

    async def notify(kind: str, text: str) -> None:
        for turn in running:
            await turn.record_event(kind, text)

    model = await services.models.choose(row.model)
    if model.within is not None:
        model = model.within(row.id, task.cwd)
    opened = None
    if task.tools is not None and model.profile.takes_tools:
        opened = task.tools.beside()
    try:
        own = task.offered(opened.tools()) if opened is not None else ()
        job = TurnJob(
            principal=task.principal,
            session=row.id,
            opening=opening,
            model=model,
            tools=(*own, *model.tools) if task.tools is not None else (),
            cwd=task.cwd,
            instructions=services.instructions(task.cwd),
            prompt=PROMPT,
            settings=task.settings,
            notify=notify,
        )
        running.append(await services.runner.begin(job, watch, approver))
        outcome = await running[0].finish()
    finally:
        if opened is not None:
            await opened.close()
    if isinstance(outcome.cause, LedgerError):
        raise outcome.cause
    return bool(outcome.waiting_for)


async def _end(services: Services, task: SideTask, turn: TurnRow) -> SideEnd:
    path = await services.ledger.path(task.principal, task.side.id)
    said = [m.text for m in path if m.turn == turn.turn and m.role == Role.ASSISTANT and m.text.strip()]
    return SideEnd(
        side=task.side.id,
        state=turn.state,
        text=said[-1] if said else "",
        reason=turn.end_reason,
        error=turn.error,
    )


async def _settled(services: Services, task: SideTask, end: SideEnd) -> None:
    """The side session is over, which the tree shows."""
    if task.side.ended_at is None or task.side.end_reason != end.state:
        patch = SessionPatch(ended_at=services.clock.now_ms(), end_reason=str(end.state))
        await services.desk.change(task.principal, task.side.id, patch)
