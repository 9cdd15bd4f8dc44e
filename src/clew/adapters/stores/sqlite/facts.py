"""Facts: kept once, superseded, and forgotten with all that held their words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import apsw
from msgspec.structs import replace

from clew.adapters.stores.sqlite import rows
from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.open_session import store_prefix, write_op
from clew.adapters.stores.sqlite.people import IS_OWNER, now
from clew.domain.conversation.ids import FactId, MessageId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.errors import HeadMoved
from clew.domain.ledger.rows import Handle, OpKind, Prefix, SessionRow
from clew.domain.memory.facts import EXTRACT, FACTS_MAX, Fact, Kind, NewFact, Trace, admitted
from clew.domain.memory.recall import line, without
from clew.domain.turn.prefix import digested

_KIND: Final = {kind.value: kind for kind in Kind}
_COLUMNS: Final = "f.id, f.owner, f.kind, f.text, f.session_id, f.message, f.confidence, f.supersedes, f.said_at, f.created_at"
_MINE: Final = (
    "IN (SELECT ?1 UNION ALL"
    " SELECT external_id FROM identity WHERE platform = 'clew' AND account = '' AND principal = ?1)"
)
"""A principal's own, and those of whoever joined it."""
_FACTS: Final = f"""
SELECT {_COLUMNS} FROM fact f
WHERE f.owner {_MINE} AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = f.session_id)
  AND (?2 IS NULL OR EXISTS (SELECT 1 FROM session s WHERE s.id = ?2 AND {IS_OWNER}))
ORDER BY f.id
"""
SCRUB: Final = "scrub"
"""A job that goes with a fact: the bytes that SQLite leaves of it, which whoever forgets it takes away at once."""
_NEW: Final = """
INSERT INTO fact(owner, kind, text, session_id, message, confidence, supersedes, said_at, created_at) VALUES(?,?,?,?,?,?,?,?,?)
"""
_LAST: Final = f"SELECT {_COLUMNS} FROM fact f WHERE f.id = last_insert_rowid()"


def facts(db: apsw.Connection, principal: PrincipalId, session: SessionId | None = None) -> tuple[Fact, ...]:
    return _facts(fetch(db, _FACTS, (principal, session)))


def _facts(found: Iterable[rows.Row]) -> tuple[Fact, ...]:
    """Made by hand: hundreds are read for a turn, and converting them took longer than all the rest of recalling."""
    return tuple(
        Fact(
            id=ident, owner=owner, kind=_KIND[kind], text=text, session=session, message=message, confidence=confidence,
            supersedes=supersedes, said_at=said_at, created_at=at,
        )
        for ident, owner, kind, text, session, message, confidence, supersedes, said_at, at in found
    )  # fmt: skip


def keep_facts(
    db: apsw.Connection, principal: PrincipalId, new: tuple[NewFact, ...], at: int
) -> tuple[Fact, ...]:
    if not new:
        return ()
    who = now(db, principal)
    traces = rows.many(
        Trace, fetch(db, f"SELECT salt, sha256, upto FROM forgotten WHERE owner {_MINE}", (who,))
    )
    known, kept = list(facts(db, who)), []
    for each in new:
        fact = admitted(known, traces, each)
        if isinstance(fact, NewFact) and len(known) < FACTS_MAX:
            source = (fact.session, fact.message, fact.confidence, fact.supersedes, fact.said_at, at)
            db.execute(_NEW, (who, fact.kind, fact.text, *source))
            (fact,) = _facts(fetch(db, _LAST))
            known.append(fact)
        if isinstance(fact, Fact):
            kept.append(fact)
    return tuple(kept)


def forget_facts(
    db: apsw.Connection,
    principal: PrincipalId,
    ids: tuple[FactId, ...],
    traces: tuple[Trace, ...],
    at: int,
) -> None:
    known = {fact.id: fact for fact in facts(db, principal)}
    if not set(ids) <= set(known) or any(
        fact.supersedes in ids and fact.id not in ids for fact in known.values()
    ):
        raise HeadMoved("This was changed meanwhile.")
    upto = fetch(db, "SELECT coalesce(max(id), 0) FROM message")[0][0]
    for trace in traces:
        db.execute(
            "INSERT INTO forgotten(owner, salt, sha256, upto, at) VALUES(?,?,?,?,?)",
            (principal, trace.salt, trace.sha256, upto, at),
        )
    _drop(db, [known[ident] for ident in ids], principal, at)
    if ids:
        db.execute(
            "INSERT INTO job(kind, key, owner, payload, state, next_at) VALUES(?, ?, ?, '', 'queued', ?)",
            (SCRUB, str(ids[0]), principal, at),
        )
    db.execute(
        f"UPDATE job SET state = 'cancelled', lease_owner = NULL WHERE owner {_MINE} AND kind = ?2 AND state = 'queued'",
        (principal, EXTRACT),
    )


def to_scrub(db: apsw.Connection) -> int:
    """The newest scrub that was asked for and not done; 0 for none."""
    query = "SELECT coalesce(max(id), 0) FROM job WHERE kind = ? AND state = 'queued'"
    return int(fetch(db, query, (SCRUB,))[0][0])


def scrubbed(db: apsw.Connection, upto: int) -> None:
    """Those up to this one are done."""
    done = "UPDATE job SET state = 'done' WHERE kind = ? AND state = 'queued' AND id <= ?"
    db.execute(done, (SCRUB, upto))


def forgotten_upto(db: apsw.Connection, principal: PrincipalId) -> MessageId:
    query = f"SELECT coalesce(max(upto), 0) FROM forgotten WHERE owner {_MINE}"
    return MessageId(fetch(db, query, (now(db, principal),))[0][0])


def drop_facts_of(db: apsw.Connection, session: SessionId, limit: int) -> int:
    """Drops facts that were said in a session that is being deleted; others may stand in their place in their chain."""
    actor, at = fetch(db, "SELECT actor, at FROM purge WHERE session_id = ?", (session,))[0]
    doomed = _facts(
        fetch(db, f"SELECT {_COLUMNS} FROM fact f WHERE session_id = ? LIMIT ?", (session, limit))
    )
    _drop(db, doomed, actor, at)
    return len(doomed)


def quiet_sessions(db: apsw.Connection, kind: str, since: int, until: int) -> tuple[SessionRow, ...]:
    query = (
        f"SELECT {rows.SESSION_COLUMNS} FROM session s WHERE s.last_active_at BETWEEN ?2 AND ?3 AND s.head_seq > 0"
        " AND s.temporary = 0 AND s.origin NOT IN ('side','import') AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = s.id)"
        " AND NOT EXISTS (SELECT 1 FROM job WHERE kind = ?1 AND key = s.id || ':' || s.head_branch || '.' || s.head_seq)"
        " LIMIT 20"
    )
    return tuple(map(rows.session, fetch(db, query, (kind, since, until))))


def _drop(db: apsw.Connection, doomed: Iterable[Fact], actor: PrincipalId, at: int) -> None:
    """From the newest on: each is named by the one after it, which then supersedes what it did."""
    for fact in sorted(doomed, key=lambda fact: -fact.id):
        now = "(SELECT supersedes FROM fact WHERE id = ?1)"
        db.execute(f"UPDATE fact SET supersedes = {now} WHERE supersedes = ?1", (fact.id,))
        db.execute("DELETE FROM fact WHERE id = ?", (fact.id,))
        _refreeze(db, fact, actor, at)


def _refreeze(db: apsw.Connection, fact: Fact, actor: PrincipalId, at: int) -> None:
    """A session whose prompt held the fact has one without it; the one that did is gone, whoever used it before."""
    query = "SELECT sha256, system_prompt, tools FROM prefix WHERE instr(system_prompt, ?)"
    held = rows.many(Prefix, fetch(db, query, (f"\n{line(fact)}\n",)))
    who = now(db, fact.owner)
    for prefix in held:
        other = digested(without(prefix.system_prompt, fact), prefix.tools)
        if other == prefix:
            continue  # it stands elsewhere in it: in a project's instructions
        query = (
            "SELECT id, head_branch, head_seq, version, epoch, summary_id FROM session s"
            f" WHERE owner {_MINE} AND prefix_sha256 = ?2 AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = s.id)"
        )
        for row in fetch(db, query, (who, prefix.sha256)):
            store_prefix(db, other)
            _freeze_anew(db, row, other, actor, at)
        db.execute(
            "DELETE FROM prefix WHERE sha256 = ?1 AND NOT EXISTS (SELECT 1 FROM session WHERE prefix_sha256 = ?1)",
            (prefix.sha256,),
        )


def _freeze_anew(db: apsw.Connection, row: rows.Row, prefix: Prefix, actor: PrincipalId, at: int) -> None:
    session, branch, seq, version, epoch, summary = row
    before = Handle(session=session, head=Head(branch, seq), version=version, epoch=epoch, summary=summary)
    write_op(db, before, replace(before, version=version + 1), OpKind.REFREEZE, actor=actor, at=at)
    db.execute("UPDATE session SET prefix_sha256 = ? WHERE id = ?", (prefix.sha256, session))
