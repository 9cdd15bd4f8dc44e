"""What arrives while a turn runs and belongs into it: steering messages, and what happened outside the talk.

Rule: it joins right before a call of the model, after the whole tool batch, with the rows it waited in consumed in the
same commit. A message that comes later is not lost: it waits, and starts the next turn.
"""

from __future__ import annotations

from typing import Final

from clew.domain.conversation.ids import PrincipalId
from clew.domain.conversation.messages import NewMessage
from clew.domain.ledger.commits import NewBlob
from clew.domain.ledger.errors import Refused
from clew.domain.ledger.rows import InboxRow
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.people import Joined, Watch
from clew.runtime.turns.recording import Recorder
from clew.runtime.turns.waiting import (
    EVENTS,
    BusyMode,
    event_messages,
    events_among,
    message_of_person,
    messages_among,
    unpack,
)

TRIES_MAX: Final = 20
JOINING_MAX: Final = 100
"""Rows that join in one commit; those after them join before the next call of the model."""


class Steering:
    """Looks into the inbox on behalf of one turn."""

    def __init__(self, ledger: Ledger, principal: PrincipalId, recorder: Recorder, watch: Watch) -> None:
        self._ledger = ledger
        self._principal = principal
        self._recorder = recorder
        self._watch = watch

    async def take(self, step: int) -> None:
        """Commits what waits and may join before this step. Raises what a commit raises."""
        for attempt in range(TRIES_MAX):
            rows = await self._joining(step)
            if not rows:
                return
            messages: list[NewMessage] = [*event_messages(events_among(rows), step)]
            blobs: list[NewBlob] = []
            for row in messages_among(rows):
                body = unpack(row.body)
                message, needed = message_of_person(
                    body.said,
                    body.attached,
                    body.cwd,
                    actor=row.principal,
                    speaker=body.speaker,
                    step=step,
                )
                messages.append(message)
                blobs.extend(needed)
            try:
                await self._recorder.join(tuple(messages), tuple(blobs), tuple(row.id for row in rows))
            except Refused:
                if attempt == TRIES_MAX - 1:
                    raise
                continue  # one was taken back meanwhile: the others may still join
            self._tell(rows)
            return

    async def _joining(self, step: int) -> list[InboxRow]:
        waiting = await self._ledger.queued(self._principal, self._recorder.session)
        joining = [row for row in waiting if row.kind in EVENTS or self._joins(row, step)]
        return sorted(joining, key=lambda row: row.id)[:JOINING_MAX]

    def _joins(self, row: InboxRow, step: int) -> bool:
        if row.principal != self._principal:
            return False  # in a shared session each person's message has its own turn
        body = unpack(row.body)
        return body.mode == BusyMode.STEER and step >= body.not_before

    def _tell(self, rows: list[InboxRow]) -> None:
        for row in rows:
            body = unpack(row.body)
            if not body.event:
                self._watch(Joined(text=body.text, files=tuple(name or kind for kind, _, name in body.files)))
