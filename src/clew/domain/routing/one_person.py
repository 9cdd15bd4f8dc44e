"""One person under several ids: the name they are kept under, whatever ids a message comes with.

WhatsApp calls the same person by a phone number, by an id of its own for each business (`US.1349…`, shown also where the
number is hidden), and elsewhere by `…@lid`. Rule: somebody's name here never changes, and nobody gets the name of another: an
id of their own is theirs for good, a number only until it is seen with somebody else's own id (numbers are given anew).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

_NUMBER: Final = re.compile(r"\+?[\d\s().\-/]{3,}\Z", re.ASCII)
_AT_SERVER: Final = re.compile(r"(\d+)(?::\d+)?@(s\.whatsapp\.net|c\.us|lid)\Z", re.ASCII)
_ABROAD: Final = re.compile(r"\A(?:00)+")
"""How many countries begin a number with its country's; one zero alone begins a number at home, and names nobody."""
_OWN: Final = re.compile(r"[A-Z]{2}\.(?:ENT\.)?[0-9A-Za-z]+\Z")


class Met(msgspec.Struct, frozen=True, kw_only=True):
    """Who a message is from. `also` are ids that were not known as theirs yet."""

    name: str
    also: tuple[str, ...]


def spelled(ident: str) -> str:
    """One spelling of an id, however somebody wrote it: `+49 (170) 123-45`, `4917012345:3@s.whatsapp.net`, `us.1349`. A `…@lid`
    is digits too, and never a number. Anything else stays as it is."""
    plain = ident.strip()
    at_server = _AT_SERVER.match(plain.lower())
    if at_server is not None and at_server[2] == "lid":
        return f"{at_server[1]}@lid"
    if at_server is not None or _NUMBER.match(plain):
        digits = at_server[1] if at_server is not None else "".join(filter(str.isdigit, plain))
        return _ABROAD.sub("", digits)
    return plain.upper() if _OWN.match(plain.upper()) else plain


def is_number(ident: str) -> bool:
    """Whether it is a phone number, as `spelled` writes it."""
    return ident.isascii() and ident.isdigit()


def is_own(ident: str) -> bool:
    """Whether it is an id that WhatsApp gave one person for one business."""
    return _OWN.match(ident) is not None


def met(ids: Sequence[str], known: Mapping[str, str], preferred: Collection[str] = ()) -> Met:
    """Who it is that one message calls by all these ids (at least one). `known` has the name behind each id of everybody whom
    one of them may name; of those who are new, the name is an id that is `preferred`, else their number."""
    ids = tuple(dict.fromkeys(map(spelled, ids)))
    own = [ident for ident in ids if not is_number(ident)]
    names = [known[ident] for ident in own if ident in known]
    if not names:
        names = [known[i] for i in ids if i in known and not _is_another(own, known[i], known)]
    if not names:
        free = [ident for ident in ids if ident not in known and ident not in known.values()] or own or ids
        names = sorted(free, key=lambda ident: (ident not in preferred, not is_number(ident)))
    return Met(name=names[0], also=tuple(ident for ident in ids if known.get(ident) != names[0]))


def address(name: str, known: Mapping[str, str]) -> str:
    """The id to write to: the one number that is theirs, else an id of their own; of two numbers one may be somebody else's."""
    theirs = [ident for ident, behind in known.items() if behind == name] or [name]
    numbers = [ident for ident in theirs if is_number(ident)]
    return numbers[0] if len(numbers) == 1 else min(theirs, key=lambda ident: (not is_own(ident), ident))


def _is_another(own: Collection[str], name: str, known: Mapping[str, str]) -> bool:
    """Whether the person of this name has an id of the same kind as one of these, and another one."""
    kinds = {_kind(ident) for ident in own}
    return any(behind == name and _kind(ident) in kinds for ident, behind in known.items())


def _kind(ident: str) -> str:
    if is_number(ident):
        return "number"
    return "lid" if ident.endswith("@lid") else "parent" if ".ENT." in ident else "own"
