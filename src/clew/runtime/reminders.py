"""Reminders: kept as jobs, and said once in the conversation that asked for them, as an event that starts a turn.

Firing is one transaction: the job goes on from exactly where it was read, the event is in the inbox of the session that its
place is in then, and the words for the person are in the outbox. So of several processes one fires it, and a crash leaves
it due or said. Whoever serves the place starts the turn; what waits when nobody does is found by the next who looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from zoneinfo import ZoneInfoNotFoundError

import msgspec

from clew.domain.conversation.ids import ConversationId, PrincipalId, SessionId
from clew.domain.ledger.commits import AddReply, MoveJob, NewJob, Receive
from clew.domain.ledger.errors import NotFound, Refused
from clew.domain.ledger.rows import JobRow, JobState
from clew.domain.reminders.phrases import NotUnderstood, understood
from clew.domain.reminders.schedule import Firing, Reminder, fire, in_words, moment_in_words
from clew.domain.routing.routes import parse
from clew.domain.routing.splitting import split
from clew.runtime.ports.reminders import KIND
from clew.runtime.ports.world import Chance, Clock
from clew.runtime.sessions import Place, SessionDesk
from clew.runtime.turns.outbox import NOTICE
from clew.runtime.turns.waiting import WAKE, pack_event, written

WAITING_MAX: Final = 100
"""Reminders of one person, or of one shared group, that may wait."""
ATTEMPTS_MAX: Final = 5
RETRY_MS: Final = 60_000
"""The first pause after a reminder could not be fired; it doubles."""
LOOK_SECONDS: Final = 30.0
"""How often whoever serves a place looks for what is due, at least: clocks jump, and others keep reminders too."""
_payload: Final = msgspec.json.Decoder(Reminder).decode


class Reminders:
    """Keeps, lists, cancels and fires. `zone_of` names the time zone of a person."""

    def __init__(
        self, desk: SessionDesk, clock: Clock, chance: Chance, zone_of: Callable[[PrincipalId], str]
    ) -> None:
        self._desk = desk
        self._ledger = desk.ledger
        self._clock = clock
        self._chance = chance
        self._zone_of = zone_of

    # -- for whoever asks ----------------------------------------------------------------------------------------
    async def ask(self, who: PrincipalId, session: SessionId, phrase: str, key: str) -> str:
        """`Scheduler`."""
        turn = await self._ledger.turn(who, session)
        if turn is None or turn.conversation is None:
            raise Refused("There is no place here in which something could be said later.")
        return await self.keep(who, session, turn.conversation, self.understood(who, phrase), key)

    def understood(self, who: PrincipalId, phrase: str) -> Reminder:
        """What somebody asks for, by the clocks of their zone. Raises Refused."""
        try:
            return understood(phrase, self._clock.now_ms(), self._zone_of(who))
        except NotUnderstood as error:
            raise Refused(str(error)) from error

    async def keep(
        self,
        who: PrincipalId,
        session: SessionId,
        conversation: ConversationId,
        reminder: Reminder,
        key: str | None = None,
    ) -> str:
        """Keeps a reminder for a place, and says what was understood. Raises Refused when too many wait."""
        row = await self._ledger.add_job(
            NewJob(
                kind=KIND,
                key=key or self._chance.token(20),
                owner=who,
                session=session,
                conversation=conversation,
                payload=msgspec.json.encode(reminder).decode(),
                next_at=reminder.due_ms,
            ),
            most=WAITING_MAX,
        )
        looked_on = parse(row.route_key) is None
        where = (
            " It is said in the terminal, while a chat is open there or when the next is."
            if looked_on
            else ""
        )
        return f"Reminder {_line(row)}.{where} /remind cancel {row.id} takes it back."

    async def waiting(self, who: PrincipalId) -> Sequence[tuple[JobRow, Reminder]]:
        """Those of this person, the next first."""
        return [(row, _payload(row.payload)) for row in await self._ledger.jobs(who, KIND)]

    async def listed(self, who: PrincipalId) -> str:
        """`Scheduler`."""
        lines = [_line(row) for row in await self._ledger.jobs(who, KIND)]
        return "\n".join(lines) or "There are no reminders."

    async def cancel(self, who: PrincipalId, number: int) -> str:
        """`Scheduler`."""
        for row in await self._ledger.jobs(who, KIND):
            if row.id == number:
                gone = MoveJob(
                    job=row,
                    state=JobState.CANCELLED,
                    at=self._clock.now_ms(),
                    payload=row.payload,
                    next_at=row.next_at,
                )
                if await self._ledger.move_job(gone):
                    return f"Cancelled: reminder {_line(row)}."
                raise Refused(f"Reminder {number} was said just now.")
        raise NotFound(f"There is no reminder {number}; /remind list shows them.")

    # -- for whoever serves a place ------------------------------------------------------------------------------
    async def due(self, *surfaces: str, owner: PrincipalId | None = None) -> tuple[Sequence[JobRow], float]:
        """What is to be fired by now in the places of these surfaces, and the seconds until one should look again."""
        soon = self._clock.now_ms() + int(LOOK_SECONDS * 1000)
        found = [row for s in surfaces for row in await self._ledger.due_jobs(KIND, s, soon, owner=owner)]
        now = self._clock.now_ms()
        ahead = [row.next_at - now for row in found if row.next_at > now]
        return [row for row in found if row.next_at <= now], min(ahead, default=soon - now) / 1000

    async def session_of(self, who: PrincipalId, place: Place, cwd: str) -> SessionId:
        """The session that a place is in; a new one if it has none that this principal sees."""
        here = await self._desk.in_place(who, place)
        return (here or (await self._desk.open(who, place, cwd=cwd)).row).id

    async def fire(self, row: JobRow, place: Place, session: SessionId) -> str | None:
        """Says it in the place, which is in this session. Returns the words for the person; None when somebody was quicker,
        or it cannot be said.

        Raises HeadMoved or NotFound when the place has left the session: look again.
        """
        now = self._clock.now_ms()
        try:
            reminder = _payload(row.payload)
            firing = fire(reminder, now)
        except (msgspec.DecodeError, ZoneInfoNotFoundError) as error:
            await self.put_off(row, f"It cannot be read: {error}")
            return None
        words = _said(reminder, firing)
        key = f"{KIND}:{row.id}:{reminder.due_ms}"
        conversation = await self._desk.conversation_of(place, session)
        event = Receive(
            account=place.surface,
            external_key=key,
            conversation=conversation,
            session=session,
            principal=row.owner,
            kind=WAKE,
            body=written(pack_event(KIND, _told(row, reminder, firing))),
            at=now,
        )
        following = firing.following
        move = MoveJob(
            job=row,
            state=JobState.DONE if following is None else JobState.QUEUED,
            at=now,
            payload=msgspec.json.encode(following or reminder).decode(),
            next_at=row.next_at if following is None else following.due_ms,
            receive=event,
            replies=_notices(place, conversation, words, key),
        )
        return words if await self._ledger.move_job(move) else None

    async def put_off(self, row: JobRow, why: str) -> None:
        """It could not be fired: it is tried again later, and given up after so many attempts."""
        now, attempts = self._clock.now_ms(), row.attempts + 1
        state = JobState.QUEUED if attempts < ATTEMPTS_MAX else JobState.FAILED
        at = max(row.next_at, now) + RETRY_MS * 2**row.attempts
        await self._ledger.move_job(
            MoveJob(
                job=row, state=state, at=now, payload=row.payload, next_at=at, attempts=attempts, error=why
            )
        )


def _notices(place: Place, conversation: ConversationId, words: str, key: str) -> tuple[AddReply, ...]:
    """What a gateway delivers; where a person looks on, whoever fired it shows it."""
    if place.holds is None:
        return ()
    return tuple(
        AddReply(conversation=conversation, turn=0, part=n, kind=NOTICE, key=f"{key}:{n}", body=part)
        for n, part in enumerate(split(words, place.holds))
    )


def _line(row: JobRow) -> str:
    reminder = _payload(row.payload)
    often = in_words(reminder.schedule)
    when = moment_in_words(reminder.due_ms, reminder.zone)
    return f"{row.id}: “{reminder.text}”, {f'{often}, next ' if often else ''}{when}"


def _said(reminder: Reminder, firing: Firing) -> str:
    """For the person."""
    missed = (
        f", and {firing.missed} times before that"
        if firing.missed > 1
        else ", and once before that"
        if firing.missed
        else ""
    )
    late = (
        f" (was due {moment_in_words(firing.due_ms, reminder.zone)}{missed})"
        if firing.is_late or missed
        else ""
    )
    return f"Reminder: {reminder.text}{late}"


def _told(row: JobRow, reminder: Reminder, firing: Firing) -> str:
    """For the model."""
    when = moment_in_words(firing.due_ms, reminder.zone)
    late = " Nobody could say it then, and it is late now." if firing.is_late else ""
    missed = (
        f" It was due {firing.missed} more times before that, of which nothing was said."
        if firing.missed
        else ""
    )
    return (
        f"Reminder {row.id}, asked for in this place, is due: {when}.{late}{missed} The person was shown its text just now: tell"
        f" them what belongs to it, or do what it asks for.\n{reminder.text}"
    )
