"""Who is who: the accounts of people, the codes with which they are paired and linked, and their roles.

Whoever joined somebody else is kept as an identity on the platform `clew`: its id there is what it was called before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from clew.adapters.stores.sqlite.connection import fetch
from clew.domain.conversation.ids import LOCAL, PrincipalId
from clew.domain.ledger.errors import NotFound, Refused
from clew.domain.ledger.rows import Person
from clew.domain.routing.pairing import ONLY_ACCOUNT, Account, FirstProof, Pairing, Shown, link, unlinked

JOINED: Final = "clew"
"""The platform of those who joined somebody."""
IS_OWNER: Final = (
    "(s.owner = ?1 OR EXISTS (SELECT 1 FROM identity"
    " WHERE platform = 'clew' AND account = '' AND external_id = s.owner AND principal = ?1))"
)
"""Whether ?1 owns the session s, or is who its owner joined."""
_FORGET_PROOF: Final = """
-- what an account has proven for a link, it proved as whoever it was then
UPDATE job SET state = 'spent' WHERE kind = 'linking' AND state = 'shown'
  AND payload ->> '$.account.platform' = ? AND payload ->> '$.account.external_id' = ?
"""
_OPEN: Final = "(kind = 'pairing' OR kind = 'linking') AND (state = 'offered' OR state = 'shown')"


def identified(db: apsw.Connection, platform: str, external_id: str) -> PrincipalId | None:
    query = "SELECT principal FROM identity WHERE platform = ? AND account = '' AND external_id = ?"
    rows = fetch(db, query, (platform, external_id))
    return PrincipalId(rows[0][0]) if rows else None


def now(db: apsw.Connection, principal: PrincipalId) -> PrincipalId:
    """Who somebody is by now: whom they joined, or still themselves."""
    return identified(db, JOINED, principal) or principal


def known_as(db: apsw.Connection, platform: str, ids: Sequence[str]) -> dict[str, str]:
    these = msgspec.json.encode(ids).decode()
    query = (
        "SELECT external_id, name FROM alias WHERE platform = ?1 AND (name IN (SELECT value FROM json_each(?2))"
        " OR name IN (SELECT name FROM alias WHERE platform = ?1 AND external_id IN (SELECT value FROM json_each(?2))))"
    )
    return dict(fetch(db, query, (platform, these)))


def know_as(db: apsw.Connection, platform: str, name: str, ids: Sequence[str]) -> None:
    row = "INSERT INTO alias VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET name = excluded.name"
    for ident in ids:
        db.execute(row, (platform, ident, name))


def offer_pairing(db: apsw.Connection, code_sha256: str, principal: PrincipalId, expires_at: int) -> None:
    db.execute(
        "INSERT INTO job(kind, key, owner, payload, state, next_at) VALUES('pairing', ?, ?, '', 'offered', ?)",
        (code_sha256, principal, expires_at),
    )


def offer_link(db: apsw.Connection, code_sha256: str, first: PrincipalId | None, expires_at: int) -> None:
    """The payload is the first proof, as soon as there is one."""
    proof = "" if first is None else msgspec.json.encode(FirstProof(first)).decode()
    db.execute(
        "INSERT INTO job(kind, key, owner, payload, state, next_at) VALUES('linking', ?, ?, ?, ?, ?)",
        (code_sha256, LOCAL, proof, "shown" if proof else "offered", expires_at),
    )


def pairing_is_open(db: apsw.Connection, at: int) -> bool:
    return bool(fetch(db, f"SELECT 1 FROM job WHERE {_OPEN} AND next_at > ? LIMIT 1", (at,)))


def pair(
    db: apsw.Connection,
    code_sha256: str,
    account: Account,
    at: int,
    *,
    known: PrincipalId | None = None,
    sure: bool = False,
) -> Pairing:
    """Whoever was paired before is paired anew: the newest code counts."""
    query = f"SELECT id, kind, owner, payload FROM job WHERE key = ? AND {_OPEN} AND next_at > ?"
    found = fetch(db, query, (code_sha256, at))
    if not found:
        raise NotFound("There is no such pairing code, or it has expired.")
    job, kind, owner, payload = found[0]
    if kind == "pairing":
        principal = now(db, owner)
        _give(db, account, principal)
        db.execute("UPDATE job SET state = 'spent' WHERE id = ?", (job,))
        return Pairing(shown=Shown.PAIRED, principal=principal)
    first = msgspec.json.decode(payload, type=FirstProof) if payload else None
    came = link(first, account, identified(db, account.platform, account.external_id) or known, sure=sure)
    if isinstance(came, str):
        raise Refused(came)
    if came.shown == Shown.NOTED and first is None:
        proof = msgspec.json.encode(FirstProof(came.principal, account)).decode()
        db.execute("UPDATE job SET state = 'shown', payload = ? WHERE id = ?", (proof, job))
    elif came.shown == Shown.LINKED and first is not None:
        db.execute("UPDATE job SET state = 'spent' WHERE id = ?", (job,))
        if came.joined is not None:
            _join(db, came.joined, came.principal)
        for proven in (account, first.account):
            if proven is not None:
                _give(db, proven, came.principal)
    return came


def _give(db: apsw.Connection, account: Account, principal: PrincipalId) -> None:
    unpair(db, account)
    db.execute(
        "INSERT INTO identity(platform, account, external_id, principal) VALUES(?, '', ?, ?)",
        (account.platform, account.external_id, principal),
    )


_JOIN: Final = (
    # what the one who stays may only read so far
    "DELETE FROM share WHERE principal = ?2 AND may = 'read' AND session_id IN (SELECT id FROM session WHERE owner = ?1)",
    # the sessions of whoever joins, and what others shared with them
    "INSERT INTO share SELECT s.id, ?2, 'write' FROM session s WHERE s.owner = ?1"
    " AND NOT EXISTS (SELECT 1 FROM share WHERE session_id = s.id AND principal = ?2)",
    "INSERT INTO share SELECT h.session_id, ?2, h.may FROM share h JOIN session s ON s.id = h.session_id"
    " WHERE h.principal = ?1 AND s.owner <> ?2"
    " AND NOT EXISTS (SELECT 1 FROM share WHERE session_id = h.session_id AND principal = ?2)",
)


def _join(db: apsw.Connection, joined: PrincipalId, stays: PrincipalId) -> None:
    for statement in _JOIN:
        db.execute(statement, (joined, stays))
    accounts = fetch(
        db, "SELECT platform, external_id FROM identity WHERE account = '' AND principal = ?", (joined,)
    )
    for platform, external_id in accounts:
        _give(db, Account(platform, external_id), stays)
    _give(db, Account(JOINED, joined), stays)


def unpair(db: apsw.Connection, account: Account) -> bool:
    row = (account.platform, account.external_id)
    db.execute(_FORGET_PROOF, row)
    db.execute("DELETE FROM identity WHERE platform = ? AND account = '' AND external_id = ?", row)
    return db.changes() == 1


def unlink(db: apsw.Connection, account: Account) -> PrincipalId:
    was = identified(db, account.platform, account.external_id)
    if was is None:
        raise NotFound(f"{account.platform} {account.external_id} is nobody's account.")
    others = fetch(db, "SELECT count(*) FROM identity WHERE account = '' AND principal = ?", (was,))[0][0] - 1
    if was != LOCAL and not others:
        raise Refused(ONLY_ACCOUNT.format(f"{account.platform} {account.external_id}", was))
    fresh = unlinked(account, {row[0] for row in fetch(db, "SELECT id FROM principal", ())})
    db.execute("INSERT INTO principal(id, name, role) VALUES(?, ?, 'user')", (fresh, account.external_id))
    _give(db, account, fresh)
    return fresh


def set_role(db: apsw.Connection, principal: PrincipalId, role: str) -> None:
    found = person(db, principal)
    if found is None:
        raise NotFound(f"There is nobody called {principal}.")
    if found.role not in ("admin", "user") or role not in ("admin", "user"):
        raise Refused(f"{found.id} is {found.role}: only people are made admin or user.")
    db.execute("UPDATE principal SET role = ? WHERE id = ?", (role, found.id))


def people(db: apsw.Connection) -> tuple[Person, ...]:
    query = (
        "SELECT id FROM principal p WHERE role <> 'group' AND NOT EXISTS (SELECT 1 FROM identity"
        " WHERE platform = 'clew' AND account = '' AND external_id = p.id) ORDER BY id"
    )
    found = (person(db, PrincipalId(row[0])) for row in fetch(db, query, ()))
    return tuple(one for one in found if one is not None)


def person(db: apsw.Connection, principal: PrincipalId) -> Person | None:
    ident = now(db, principal)
    rows = fetch(db, "SELECT id, name, role FROM principal WHERE id = ?", (ident,))
    if not rows:
        return None
    accounts = fetch(
        db,
        "SELECT platform, external_id FROM identity WHERE account = '' AND principal = ? AND platform <> 'clew'"
        " ORDER BY platform, external_id",
        (ident,),
    )
    return Person(
        id=rows[0][0], name=rows[0][1], role=rows[0][2], accounts=tuple((a, b) for a, b in accounts)
    )
