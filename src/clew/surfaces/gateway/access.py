"""Who may talk to Clew: nobody, but those the settings name and those who showed a pairing code.

A stranger costs no call of a model and leaves nothing behind; in a direct message they are told once an hour what to do.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, assert_never

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.errors import NotFound, Refused
from clew.domain.routing.pairing import Account, Shown, code_sha256
from clew.domain.routing.routes import GROUPS, ChatKind, Route, group_principal
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.platforms import Incoming
from clew.runtime.ports.world import Clock

WRONG_CODES_MAX: Final = 5
QUIET_SECONDS: Final = 3600.0
"""After so many wrong codes nothing is said, and no code is looked at, for so long."""
REMEMBERED_MAX: Final = 10_000
IN_PRIVATE: Final = "A code is between the two of us: make a new one, and send it to me in a direct message."
STRANGER: Final = "I talk to people I know. Whoever runs me can give you a pairing code (clew pair); send it here as /pair CODE."


class Access:
    """Knows the people of one platform."""

    def __init__(self, ledger: Ledger, clock: Clock, platform: str, allow: frozenset[str]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._platform = platform
        self._allow = allow
        self._known: set[PrincipalId] = set()
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._told: OrderedDict[str, float] = OrderedDict()

    async def who(self, sender: str, name: str) -> PrincipalId | None:
        """The person, or None for a stranger."""
        person = await self._whose(sender)
        if person is not None and sender in self._allow:
            await self._made_known(person, name or sender, "user")
        return person

    async def _whose(self, sender: str) -> PrincipalId | None:
        paired = await self._ledger.identified(self._platform, sender)
        if paired is not None or sender not in self._allow:
            return paired
        named = PrincipalId(f"{self._platform}:{sender}")
        person = await self._ledger.person(named)
        # Whoever joined somebody, and whose account was taken back since, shares what they said: they are it no more.
        return named if person is None or person.id == named else None

    async def at(self, route: Route) -> PrincipalId | None:
        """Whose place this is now: whoever was the last to say something there, as they are known now. None when they may
        not talk any more."""
        last = await self._ledger.last_received(route.key)
        if last is None:
            return None
        if last.sent_by is None or last.principal.startswith(GROUPS):
            return last.principal if await self.may_still(last.principal) else None
        return await self._whose(last.sent_by)

    async def refusal(self, route: Route, session: SessionId) -> str | None:
        """Why nothing of a session may be said in a place: nobody there may talk any more, or they do not see it."""
        who = await self.at(route)
        if who is None:
            return "whoever talked there may not talk to Clew any more"
        try:
            await self._ledger.session(who, session)
        except NotFound:
            return f"{who} talks there now, and may not see this session"
        return None

    async def group(self, key: str) -> PrincipalId:
        """Everybody of a shared place, as one: whoever they were before their chat got another id."""
        before = await self._ledger.group_of(self._platform, key)
        return before or await self._made_known(group_principal(key), key, "group")

    async def may_still(self, principal: PrincipalId) -> bool:
        """Whether somebody whose turn was left open may still be answered: a group, whom the settings name, who is paired."""
        kind, _, sender = principal.partition(":")
        if kind == "group" or (kind == self._platform and sender in self._allow):
            return True
        person = await self._ledger.person(principal)
        return person is not None and any(platform == self._platform for platform, _ in person.accounts)

    async def is_admin(self, person: PrincipalId) -> bool:
        """Whether they may decide for others in a shared place."""
        found = await self._ledger.person(person)
        return found is not None and found.role in ("owner", "admin")

    async def pair(self, incoming: Incoming, code: str, *, sure: bool) -> str | None:
        """Shows a code. Returns what to say; None for nothing, after too many wrong ones."""
        if incoming.kind != ChatKind.DM:
            return IN_PRIVATE
        now = self._clock.monotonic()
        count, since = self._wrong.get(incoming.sender, (0, now))
        if now - since > QUIET_SECONDS:
            count, since = 0, now
        if count >= WRONG_CODES_MAX:
            return None
        account = Account(self._platform, incoming.sender)
        known = await self.who(incoming.sender, incoming.sender_name)
        try:
            came = await self._ledger.pair(
                code_sha256(code), account, self._clock.now_ms(), known=known, sure=sure
            )
        except Refused as error:
            return str(error)
        except NotFound as error:
            self._wrong[incoming.sender] = (count + 1, since)
            _forget_oldest(self._wrong)
            return str(error)
        self._wrong.pop(incoming.sender, None)
        match came.shown:
            case Shown.PAIRED:
                return f"Paired: from now on you are {came.principal} here."
            case Shown.NOTED:
                return f"Noted: you are {came.principal}. Now send the same line from your other account."
            case Shown.ASKS:
                before = (
                    "" if came.joined is None else f", and both accounts see all that {came.joined} has said"
                )
                return (
                    f"This makes you {came.principal} here{before}. What came together stays so."
                    f" If the code is your own and that is what you want: /pair {code} yes"
                )
            case Shown.LINKED:
                return (
                    f"Linked: from now on you are {came.principal} here. /sessions lists what came together."
                )
            case _:
                assert_never(came.shown)

    def greeting(self, incoming: Incoming) -> str | None:
        """What a stranger is told, if anything."""
        now = self._clock.monotonic()
        told = self._told.get(incoming.sender)
        if incoming.kind != ChatKind.DM or (told is not None and now - told < QUIET_SECONDS):
            return None
        self._told[incoming.sender] = now
        _forget_oldest(self._told)
        return STRANGER

    async def _made_known(self, principal: PrincipalId, name: str, role: str) -> PrincipalId:
        if principal not in self._known:
            await self._ledger.add_principal(principal, name, role)
            self._known.add(principal)
        return principal


def _forget_oldest(rows: OrderedDict[str, tuple[int, float]] | OrderedDict[str, float]) -> None:
    while len(rows) > REMEMBERED_MAX:
        rows.popitem(last=False)
