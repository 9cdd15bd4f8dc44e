"""An answer while it grows: one message that is changed from time to time, until the reply itself takes its place.

It is a convenience: whatever goes wrong with it is left alone, and the reply is delivered all the same. Its id is on disk
before anything else is sent to the chat, so that also after a crash the reply changes it and does not stand beside it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from clew.domain.ledger.commits import AddReply
from clew.domain.ledger.errors import LedgerError
from clew.domain.routing.routes import Route
from clew.domain.routing.splitting import split
from clew.runtime.delivery import chat_of
from clew.runtime.ports.people import AttemptVoid, StepRecorded, TextShown, TurnNews
from clew.runtime.ports.platforms import ChatMoved, MaybeSent, NeverSent, NotSent, PlatformError
from clew.runtime.talk import Talk
from clew.runtime.turns.outbox import PREVIEW, call_key, part_number, preview_key
from clew.runtime.turns.runner import RunningTurn
from clew.surfaces.gateway.channel import Channel, route_of

EVER: Final = 2**62
"""A time that is never reached."""


class Preview:
    """Follows the turns of one talk."""

    def __init__(self, channel: Channel, talk: Talk) -> None:
        self._channel = channel
        self._talk = talk
        self._changed = asyncio.Event()
        self._text = ""
        self._steps = 0
        """Counts the steps that were recorded: what was drawn for one of them must not be sent after it."""
        self._known: dict[tuple[int, int], str | None] = {}
        """(turn, part) of previews that were sent, and their ids; None where nobody knows what became of the sending."""
        self._looked_at: int | None = None
        self._given_up: int | None = None
        self._drawn = ""

    @property
    def _route(self) -> Route:
        return route_of(self._talk.place)

    def watch(self, news: TurnNews) -> None:
        match news:
            case TextShown(text):
                self._text += text
                self._changed.set()
            case AttemptVoid():
                self._text = ""
            case StepRecorded():
                self._text = self._drawn = ""
                self._steps += 1
                self._channel.delivery.wake()
            case _:
                pass

    async def run(self) -> None:
        """Until it is cancelled: shows what changed, not more often than the platform likes.

        What is on its way to the platform is waited for: a preview whose id nobody knows would stand beside its reply.
        """
        traits = self._channel.platform.traits
        if not traits.edits:
            return
        while True:
            await self._changed.wait()
            if not self._drawn:
                await asyncio.sleep(traits.preview_seconds)
            self._changed.clear()
            showing = asyncio.create_task(self._show())
            try:
                await asyncio.shield(showing)
            except asyncio.CancelledError:
                await showing
                raise
            await asyncio.sleep(traits.edit_seconds)

    async def typing(self) -> None:
        """Until it is cancelled: shows that somebody types."""
        seconds = self._channel.platform.traits.typing_seconds
        while seconds:
            if not self._channel.gate.closed_for(chat_of(self._route)):
                with suppress(PlatformError):
                    await self._channel.platform.typing(self._route)
            await asyncio.sleep(seconds)

    async def _show(self) -> None:
        turn, chat, steps = self._talk.running, chat_of(self._route), self._steps
        if turn is None or self._given_up == steps or self._channel.gate.closed_for(chat):
            return
        async with self._channel.gate.through(chat):
            parts = split(self._text, self._channel.platform.traits.holds)
            if not parts or parts[0] == self._drawn or self._steps != steps:
                return
            try:
                await self._draw(turn, parts[0])
                self._drawn = parts[0]
            except NotSent as error:
                if error.after:
                    self._channel.gate.close(chat, error.after)
            except (PlatformError, LedgerError):
                self._given_up = steps  # what was sent by this step is not known: the reply stands by itself

    async def _draw(self, turn: RunningTurn, text: str) -> None:
        ledger = self._channel.services.ledger
        if self._looked_at != turn.turn:
            for row in await ledger.replies(self._talk.principal, turn.session):
                if row.kind == PREVIEW and row.state != "failed":
                    self._known[row.turn, row.part] = row.platform_id
            self._looked_at = turn.turn
        at = (turn.turn, part_number(turn.step))
        if (shown := self._known.get(at)) is not None:
            await self._channel.platform.edit(self._route, shown, text, markdown=True)
            return
        if at in self._known and not self._channel.platform.traits.takes_key:
            raise MaybeSent("an earlier process was killed while it sent this preview")
        key = preview_key(turn.session, turn.turn, turn.step)
        conversation = await self._channel.services.desk.conversation_of(self._talk.place, turn.session)
        if await ledger.undelivered(self._channel.platform.name, EVER, conversation=conversation):
            return  # what was said before comes first
        if await self._channel.delivery.refusal(self._route, turn.session) is not None:
            self._given_up = self._steps  # the reply itself will say so
            return
        preview = AddReply(conversation=conversation, turn=at[0], part=at[1], kind=PREVIEW, key=key, body="")
        now = self._channel.services.clock.now_ms()
        ident = await ledger.add_reply(turn.session, preview, now)
        self._known[at] = None
        try:
            shown = await self._channel.platform.send(
                self._route, text, markdown=True, key=call_key(turn.session, key)
            )
        except (NotSent, NeverSent, ChatMoved):
            await ledger.settle_reply(ident, "failed", None)
            del self._known[at]
            raise
        self._known[at] = shown
        await ledger.settle_reply(ident, "sent", shown)
