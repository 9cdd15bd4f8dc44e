"""What people and models do with facts: keep, list, find, forget. One implementation for commands, tools and the command line.

What a person asks for is done, whatever was forgotten before; what a model asks for is done within what they left.
"""

from __future__ import annotations

from typing import Final

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.errors import HeadMoved, NotFound, Refused
from clew.domain.memory.facts import (
    FACTS_MAX,
    Fact,
    Kind,
    NewFact,
    Trace,
    Unusable,
    chain,
    standing,
    stated,
    telling,
    trace_of,
)
from clew.domain.memory.recall import ranked_by
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.world import Chance, Clock

SHOWN_MAX: Final = 100
MATCHES_NAMED_MAX: Final = 5
TYPED_CHARACTERS_MAX: Final = 200
SALT_LENGTH: Final = 26
TRIES_MAX: Final = 20
OFF: Final = "Memory is switched off (memory.enabled): nothing was kept."
BY_MODEL: Final = 0.9
"""How sure a fact is that a model notes by itself; what a person has kept is certain."""
HISTORY: Final = (
    "No prompt holds it and no turn is told it from here on, and nothing that was said until now is looked through for facts"
    " any more. What was said or looked up stays in the history of its session until /delete."
)


class MemoryDesk:
    """Facts on behalf of a principal."""

    def __init__(self, ledger: Ledger, clock: Clock, chance: Chance, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._ledger = ledger
        self._clock = clock
        self._chance = chance

    async def standing(self, who: PrincipalId) -> tuple[Fact, ...]:
        """Everything that is known, oldest first."""
        return standing(await self._ledger.facts(who))

    async def keep(self, who: PrincipalId, text: str) -> tuple[Fact, bool]:
        """What a person wants to be remembered, and whether it is new. Raises Refused."""
        now = self._clock.now_ms()
        new = NewFact(kind=Kind.USER, text=self._usable(text), said_at=now, by_person=True)
        known = await self._known(who)
        (fact,) = await self._ledger.keep_facts(who, (new,), now) or (None,)
        if fact is None:
            raise Refused(_full())
        return fact, all(fact.id != each.id for each in known)

    async def add(self, who: PrincipalId, text: str) -> str:
        """As a command says it."""
        fact, is_new = await self.keep(who, text)
        return f"Kept: {_line(fact)}" if is_new else f"That is known already: {_line(fact)}"

    async def note(
        self, who: PrincipalId, session: SessionId, text: str, kind: Kind, replaces: int = 0
    ) -> str:
        """`Remembers`."""
        usable, known = self._usable(text), await self._known(who)
        old = next((fact for fact in standing(known) if fact.id == replaces), None)
        if replaces and old is None:
            raise NotFound(f"There is no fact {replaces}.")
        said = await self._ledger.turn_starts(who, session, 1)
        now = self._clock.now_ms()
        new = NewFact(
            kind=kind, text=usable, session=session, message=said[0].id if said else None, confidence=BY_MODEL,
            supersedes=None if old is None else old.id, said_at=now,
        )  # fmt: skip
        kept = await self._ledger.keep_facts(who, (new,), now)
        if not kept:
            raise Refused("It was not kept: the person had it forgotten.")
        return f"Kept: {_line(kept[0])}"

    async def listed(self, who: PrincipalId) -> str:
        """One line each, with what takes it back."""
        known = await self.standing(who)
        return _lines(known, len(known)) if known else "Nothing is remembered. /memory add TEXT keeps a fact."

    async def found(self, who: PrincipalId, typed: str) -> str:
        """`Remembers`."""
        known = await self.standing(who)
        hits = ranked_by(known, typed) if typed.strip() else known
        return _lines(hits, len(hits)) if hits else "Nothing is remembered of that."

    async def forget(self, who: PrincipalId, typed: str) -> str:
        """`Remembers`."""
        fact = await self.forgotten(who, typed)
        return f"Forgotten: {_line(fact)}\n{HISTORY}"

    async def forgotten(self, who: PrincipalId, typed: str) -> Fact:
        """Forgets one, with all that it had superseded, and says which. Raises NotFound, Refused."""
        for _ in range(TRIES_MAX):
            known = await self._ledger.facts(who)
            fact = _meant(standing(known), typed)
            doomed = chain(known, fact.id)
            salt = self._chance.token(SALT_LENGTH)
            traces = tuple(Trace(salt=salt, sha256=trace_of(each.text, salt)) for each in doomed)
            try:
                await self._ledger.forget_facts(
                    who, tuple(each.id for each in doomed), traces, self._clock.now_ms()
                )
            except HeadMoved:
                continue  # decided again from what is known now
            return fact
        raise Refused("What is remembered changes too quickly; nothing was forgotten.")

    def _usable(self, text: str) -> str:
        if not self.enabled:
            raise Refused(OFF)
        try:
            return stated(text)
        except Unusable as error:
            raise Refused(str(error)) from error

    async def _known(self, who: PrincipalId) -> tuple[Fact, ...]:
        known = await self._ledger.facts(who)
        if len(known) >= FACTS_MAX:
            raise Refused(_full())
        return known


def _full() -> str:
    return f"{FACTS_MAX} facts are remembered, and there is no room for more: /memory forget makes some."


def _meant(known: tuple[Fact, ...], typed: str) -> Fact:
    """The one fact that a number or words name."""
    named = typed.split()
    if not named:
        raise Refused("/memory forget takes the number of a fact; /memory list shows them.")
    if all(part.isascii() and part.isdigit() for part in named):
        if len(named) > 1:
            raise Refused("/memory forget takes one number; nothing was forgotten.")
        hits = [fact for fact in known if fact.id == int(named[0][:15])]
    else:
        wanted = telling(typed[:TYPED_CHARACTERS_MAX])
        hits = [fact for fact in known if wanted and wanted <= telling(fact.text)]
    if not hits:
        raise NotFound(
            f"There is no fact {typed.strip()[:40]}; /memory list shows them. Nothing was forgotten."
        )
    if len(hits) > 1:
        numbers = ", ".join(str(fact.id) for fact in hits[:MATCHES_NAMED_MAX])
        more = f" and {len(hits) - MATCHES_NAMED_MAX} more" if len(hits) > MATCHES_NAMED_MAX else ""
        raise Refused(f"Facts {numbers}{more} all say that: name one by its number. Nothing was forgotten.")
    return hits[0]


def _line(fact: Fact) -> str:
    return f"{fact.id}: “{fact.text}”"


def _lines(facts: tuple[Fact, ...], count: int) -> str:
    """The first hundred; the others are counted."""
    lines = [_line(fact) for fact in facts[:SHOWN_MAX]]
    if count > SHOWN_MAX:
        lines.append(f"… and {count - SHOWN_MAX} more; clew memory list shows all of them.")
    return "\n".join(lines)
