"""Pairing codes: short enough to be typed, kept as a hash only, spent once.

A code pairs: whoever shows it becomes an account of the person it was made for. Or it links: two accounts that both show it,
the second one twice, are one person from then on. Nobody is merged with somebody who did not show the code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container
from enum import StrEnum
from itertools import count
from typing import Final

import msgspec

from clew.domain.conversation.ids import LOCAL, PrincipalId

CODE_LENGTH: Final = 10
"""Characters of the id alphabet: 50 bits, and five tries an hour."""
CODE_SECONDS: Final = 900
"""For how long a pairing code can be used."""
_PAIR: Final = re.compile(r"/(?:pair|start)\s+(\S{4,40})(\s+yes)?\s*\Z", re.IGNORECASE)


class Account(msgspec.Struct, frozen=True):
    """Somebody's account on a platform."""

    platform: str
    external_id: str


class Shown(StrEnum):
    """What showing a code came to."""

    PAIRED = "paired"
    NOTED = "noted"
    """The first account of a link; the other one is waited for."""
    ASKS = "asks"
    """The second account of a link; it has to say that it is sure."""
    LINKED = "linked"


class Pairing(msgspec.Struct, frozen=True, kw_only=True):
    """`principal` is who the account is from now on, or would be. `joined` is who it was, and is no more."""

    shown: Shown
    principal: PrincipalId
    joined: PrincipalId | None = None


class FirstProof(msgspec.Struct, frozen=True):
    """Who showed a link's code first; without an account it was the terminal."""

    principal: PrincipalId
    account: Account | None = None


def link(first: FirstProof | None, account: Account, who: PrincipalId | None, *, sure: bool) -> Pairing | str:
    """What an account's showing of a link's code comes to, or why it comes to nothing. `who` is the account's person.

    The person of the first account stays, and the second one's joins; but whoever has the terminal stays in any case.
    """
    if first is None:
        if who is None:
            return "I do not know you here yet: show this code first where I do."
        return Pairing(shown=Shown.NOTED, principal=who)
    if first.account == account:
        return Pairing(shown=Shown.NOTED, principal=first.principal)
    if who == first.principal:
        return f"You are {who} here already."
    stays, joins = (LOCAL, first.principal) if who == LOCAL else (first.principal, who)
    return Pairing(shown=Shown.LINKED if sure else Shown.ASKS, principal=stays, joined=joins)


def unlinked(account: Account, taken: Container[PrincipalId]) -> PrincipalId:
    """Who an account is that is nobody's any more: a name that nobody has or had, so that nothing is theirs."""
    named = f"{account.platform}:{account.external_id}"
    names = (PrincipalId(named if n == 1 else f"{named}#{n}") for n in count(1))
    return next(name for name in names if name not in taken)


ONLY_ACCOUNT: Final = "{} is the only account of {}: there is nothing to unlink."


def code_sha256(code: str) -> str:
    """What is kept of a code. Case and dashes do not matter."""
    return hashlib.sha256(code.replace("-", "").casefold().encode("utf-8", "replace")).hexdigest()


def pairing_code(text: str) -> tuple[str, bool] | None:
    """The code in `/pair CODE`, and whether `yes` follows; or None."""
    found = _PAIR.match(text.strip())
    return None if found is None else (found[1], found[2] is not None)
