"""Work beside a conversation: `/background` runs a text in a side session, and its result comes back as an event.

The side session is forked from the last turn that was closed and never moves its parent's head. Everything that matters
is a row: the text waits in the side session's inbox before anybody is told that it runs, and the result is received by
the parent under one key before the side session is ended. So whoever opens the parent next finishes what was cut off,
and delivers it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from clew.domain.conversation.ids import SessionId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.commits import SessionPatch
from clew.domain.ledger.errors import Busy, LedgerError, NotFound, Refused
from clew.domain.ledger.rows import BACKGROUND, Origin, SessionRow, TurnRow, TurnState
from clew.runtime.account import shortened
from clew.runtime.commands.values import BackgroundSession
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.ports.people import NobodyToAsk, nobody_watches
from clew.runtime.sending import POLL_SECONDS, Sender
from clew.runtime.talk import Talk
from clew.runtime.turns.waiting import EVENT, MESSAGE, pack_event, pack_message

SURFACE: Final = BACKGROUND
AT_ONCE_MAX: Final = 4
"""Side sessions of one conversation whose result was not delivered yet."""
RESULT_CHARACTERS_MAX: Final = 20_000
TOLD_CHARACTERS_MAX: Final = 300


class Background:
    """The side sessions of one talk. `told` is given a side session and a sentence when its result was delivered."""

    def __init__(
        self,
        talk: Talk,
        *,
        told: Callable[[SessionId, str], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self._talk = talk
        self._services = talk.services
        self._told = told
        self._broken = broken
        self._running: dict[SessionId, asyncio.Task[None]] = {}

    async def begin(self, parent: SessionRow, text: str) -> SessionId:
        """Runs a text beside the conversation. It is on disk when this returns. Raises Refused over the limit."""
        if len(await self._open(parent.id)) >= AT_ONCE_MAX:
            raise Refused(
                f"{AT_ONCE_MAX} background works are not done yet: this one was not taken; see /ps."
            )
        side = await self._services.desk.side(
            self._talk.principal, parent.id, SURFACE, title=shortened(text), cwd=str(self._talk.cwd)
        )
        await self._sender.receive(side.id, MESSAGE, pack_message(text, str(self._talk.cwd), ()))
        self._follow(side.id)
        return side.id

    async def catch_up(self, parent: SessionId) -> None:
        """Goes on with what was begun beside this session and whose result is not there yet, whatever ended it."""
        for row in await self._open(parent):
            if row.id not in self._running:
                self._follow(row.id)

    async def listed(self, parent: SessionId) -> Sequence[BackgroundSession]:
        listed = []
        for row in await self._open(parent):
            turn = await self._services.ledger.turn(self._talk.principal, row.id)
            state = (
                "waiting for approval" if turn is not None and turn.state == TurnState.WAITING else "running"
            )
            listed.append(BackgroundSession(session=row.id, text=row.title or "", state=state))
        return listed

    async def stop(self, parent: SessionId, side: str) -> bool:
        """Ends one; what it has said so far is its result. False when there is none of this id."""
        for row in await self._open(parent):
            if row.id == side:
                await self._services.desk.stop(self._talk.principal, row.id)
                if (running := self._running.get(row.id)) is not None:
                    await asyncio.wait([running])  # it may be telling what was so before
                self._follow(row.id)
                return True
        return False

    async def close(self) -> None:
        """Ends what runs here, and records its end; whoever opens the parent next delivers it."""
        running = tuple(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # -- one side session ----------------------------------------------------------------------------------------
    def _follow(self, side: SessionId) -> None:
        if side not in self._running:
            self._running[side] = asyncio.create_task(self._supervised(side))

    async def _supervised(self, side: SessionId) -> None:
        try:
            await self._finish(side)
            await self._deliver(side)
        except (LedgerError, ModelUnavailable) as error:
            self._told(side, f"It could not go on: {error}")
        except Exception as error:  # noqa: BLE001 - the supervisor of work that nobody waits for
            self._broken(error)
        finally:
            del self._running[side]

    async def _finish(self, side: SessionId) -> None:
        """Returns when nothing of it runs or waits to run; a call that needs a yes waits in the ledger."""
        row = await self._services.ledger.session(self._talk.principal, side)
        talk = Talk(
            self._services, self._talk.principal, self._talk.place, Path(row.cwd or self._talk.cwd), side
        )
        approver = NobodyToAsk()
        try:
            while True:
                await talk.until_idle()
                try:
                    await talk.recover(nobody_watches, approver)
                    waiting = await talk.next_queued()
                    if waiting is None:
                        return
                    await (await talk.begin(waiting, nobody_watches, approver)).finish()
                except Busy:
                    await asyncio.sleep(POLL_SECONDS)  # another process was quicker: its end is waited for
        finally:
            await talk.close()

    async def _deliver(self, side: SessionId) -> None:
        ledger, principal = self._services.ledger, self._talk.principal
        row = await ledger.session(principal, side)
        turn = await ledger.turn(principal, side)
        if row.parent is None or row.ended_at is not None or (turn and turn.state == TurnState.RUNNING):
            return
        waits = turn is not None and turn.state == TurnState.WAITING
        text = await self._result(row, turn)
        key = f"background:{side}:waits" if waits else f"background:{side}"
        try:
            received = await self._sender.receive(row.parent, EVENT, pack_event("background", text), key)
        except NotFound:
            received = None  # the parent was deleted, and with it whoever could be told
        if not waits:
            patch = SessionPatch(ended_at=self._services.clock.now_ms(), end_reason="delivered")
            await self._services.desk.change(principal, side, patch)
        if received is not None and not received.duplicate:
            self._told(side, shortened(text, TOLD_CHARACTERS_MAX))

    async def _result(self, row: SessionRow, turn: TurnRow | None) -> str:
        what = f"The background work “{row.title}” (session {row.id})"
        if turn is None:
            return f"{what} never began."
        if turn.state == TurnState.WAITING:
            return f"{what} waits for an approval: /resume {row.id}, then /approve or /deny."
        path = await self._services.ledger.path(self._talk.principal, row.id)
        said = [m.text for m in path if m.turn == turn.turn and m.role == Role.ASSISTANT and m.text.strip()]
        answer = said[-1] if said else "(It said nothing.)"
        if len(answer) > RESULT_CHARACTERS_MAX:
            answer = f"{answer[:RESULT_CHARACTERS_MAX]}\n(cut here; session {row.id} holds all of it)"
        error = f" {turn.error}" if turn.error else ""
        return f"{what} has ended: {turn.state}.{error}\n{answer}"

    async def _open(self, parent: SessionId) -> list[SessionRow]:
        children = await self._services.ledger.children(self._talk.principal, parent)
        return [
            row for row in children
            if row.origin == Origin.SIDE and row.surface == SURFACE and row.ended_at is None
        ]  # fmt: skip

    @property
    def _sender(self) -> Sender:
        return self._services.sender(self._talk.principal, self._talk.place)
