"""Every promise of the ledger that can be verified by reading, asked of the file and not of the code that wrote it.

A sound file first; then the rules are still in it; then the ops are chains, the paths are whole, summaries and calls
stand where they may, contents have the names they are stored under, and the index knows nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import apsw
import msgspec

from clew.adapters.stores.sqlite.connection import FAILURES, fetch, glimpse
from clew.adapters.stores.sqlite.migrate import migrations
from clew.adapters.stores.sqlite.paths import on_path, segments
from clew.domain.conversation.messages import Body, Head
from clew.domain.ledger.errors import StoreUnusable

_decode: Final = msgspec.json.Decoder(Body).decode


class Wrong(NamedTuple):
    """Where something is not as it should be, and what."""

    place: str
    sentence: str


def damage(db: apsw.Connection) -> Iterator[Wrong]:
    """What is wrong with the file as a database."""
    try:
        said = [sentence for (sentence,) in fetch(db, "PRAGMA integrity_check(20)") if sentence != "ok"]
    except apsw.CorruptError as error:  # too damaged even to be checked to its end
        said = [str(error)]
    yield from (Wrong("file", sentence) for sentence in said)
    if said:
        return  # nothing else that it answers can be trusted
    for table, row, parent, _ in fetch(db, "PRAGMA foreign_key_check"):
        yield Wrong(f"{table} {row}", f"names a row of {parent} that is not there")


def broken_promises(db: apsw.Connection) -> Iterator[Wrong]:
    """What is wrong with it as a ledger, given that it is sound as a database."""
    yield from _missing_rules(db)
    yield from _op_chains(db)
    yield from _branches(db)
    for session, branch, seq, summary in fetch(
        db,
        "SELECT id, head_branch, head_seq, summary_id FROM session"
        " WHERE NOT EXISTS (SELECT 1 FROM purge WHERE session_id = session.id) ORDER BY id",
    ):
        yield from _path(db, session, Head(branch, seq), summary)
    for question, place, sentence in _QUESTIONS:
        for (row,) in fetch(db, question):
            yield Wrong(f"{place} {row}", sentence)
    yield from _messages(db)
    yield from _blobs(db)


def _missing_rules(db: apsw.Connection) -> Iterator[Wrong]:
    """Guards, indexes and tables that are not as the migrations made them."""
    with closing(apsw.Connection(":memory:")) as fresh:
        for step in migrations():
            fresh.execute(step.sql)
        expected = schema(fresh)
    found = schema(db)
    for (kind, name), sql in expected.items():
        if (kind, name) not in found:
            yield Wrong(f"{kind} {name}", "is missing: another program removed it")
        elif found[kind, name] != sql:
            yield Wrong(f"{kind} {name}", "was changed by another program")
    for kind, name in found.keys() - expected.keys():
        if kind == "trigger":
            yield Wrong(f"{kind} {name}", "was added by another program")


def schema(db: apsw.Connection) -> dict[tuple[str, str], str]:
    """The SQL of every table, index, view and trigger that was made by a statement."""
    rows = fetch(
        db, "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'migration'"
    )
    return {(kind, name): " ".join(sql.split()) for kind, name, sql in rows if not name.startswith("sqlite_")}


_CHAIN: Final = """
-- ops that do not go on where the one before ended, and sessions that do not stand where their last op left them
SELECT o.session_id, o.version FROM op o LEFT JOIN op p ON p.session_id = o.session_id AND p.version = o.version - 1
WHERE (o.version > 1 AND (p.version IS NULL OR p.to_branch IS NOT o.from_branch OR p.to_seq <> o.from_seq
       OR p.to_summary IS NOT o.from_summary OR p.epoch > o.epoch))
  OR (o.version = 1) <> (o.kind = 'create')
UNION ALL
SELECT s.id, s.version FROM session s LEFT JOIN op o ON o.session_id = s.id AND o.version = s.version
WHERE o.version IS NULL OR o.to_branch IS NOT s.head_branch OR o.to_seq <> s.head_seq OR o.to_summary IS NOT s.summary_id
  OR o.epoch > s.epoch
UNION ALL
SELECT o.session_id, o.version FROM op o JOIN session s ON s.id = o.session_id WHERE o.version > s.version
"""


def _op_chains(db: apsw.Connection) -> Iterator[Wrong]:
    for session, version in fetch(db, _CHAIN):
        yield Wrong(f"session {session}", f"its op {version} does not follow from the one before")


_GAPS: Final = """
-- branches whose messages are not one after the other from where the branch starts
SELECT b.id, b.session_id FROM branch b JOIN message m ON m.branch = b.id
GROUP BY b.id HAVING min(m.seq) <> b.parent_seq + 1 OR max(m.seq) - min(m.seq) + 1 <> count(*)
"""


def _branches(db: apsw.Connection) -> Iterator[Wrong]:
    for branch, session in fetch(db, _GAPS):
        yield Wrong(f"session {session}", f"lacks a message in the middle of branch {branch}")


def _path(db: apsw.Connection, session: str, head: Head, summary: int | None) -> Iterator[Wrong]:
    held = 0
    for branch, low, high in segments(db, head):
        held += fetch(
            db, "SELECT count(*) FROM message WHERE branch = ? AND seq > ? AND seq <= ?", (branch, low, high)
        )[0][0]
    if held != head.seq:
        yield Wrong(f"session {session}", f"holds {held} of the {head.seq} messages on its path")
    while summary is not None:
        rows = fetch(
            db,
            "SELECT branch, upto_seq, previous FROM summary WHERE id = ? AND session_id = ?",
            (summary, session),
        )
        if not rows or not on_path(db, head, Head(*rows[0][:2])):
            yield Wrong(f"session {session}", "its summary does not stand on its path")
            return
        summary = rows[0][2]


_QUESTIONS: Final = (
    (
        "SELECT c.id FROM tool_call c JOIN turn t ON t.session_id = c.session_id AND t.turn = c.turn"
        " WHERE c.state IN ('planned','started') AND t.state NOT IN ('running','waiting')",
        "call",
        "is open though its turn has ended",
    ),
    (
        "SELECT session_id FROM turn WHERE state IN ('running','waiting') GROUP BY session_id HAVING count(*) > 1",
        "session",
        "has more than one turn open",
    ),
    (
        "SELECT r.id FROM (SELECT id, epoch, session_id FROM tool_call UNION ALL SELECT turn, epoch, session_id FROM turn) r"
        " JOIN session s ON s.id = r.session_id WHERE r.epoch > s.epoch",
        "call or turn",
        "was written by an epoch that its session has not reached",
    ),
    (
        "SELECT id FROM inbox WHERE (state = 'queued') <> (epoch IS NULL)",
        "received message",
        "is neither waiting nor settled",
    ),
    (
        "SELECT session_id FROM purge WHERE done = 0",
        "session",
        "is deleted and unreadable, but not yet out of the files: start Clew once to finish that",
    ),
    (
        "SELECT key FROM job WHERE kind = 'scrub' AND state = 'queued'",
        "fact",
        "is forgotten, but not yet out of the files: start Clew once to finish that",
    ),
)


def _messages(db: apsw.Connection) -> Iterator[Wrong]:
    """Rows whose content is not what was once stored. Read as bytes: what cannot be read stops nothing."""
    for ident, text, body in db.execute(
        "SELECT id, CAST(text AS BLOB), CAST(body AS BLOB) FROM message ORDER BY id"
    ):
        try:
            text.decode()
            if body is not None:
                _decode(body)
        except FAILURES as error:
            yield Wrong(f"message {ident}", f"cannot be read ({error})")


def _blobs(db: apsw.Connection) -> Iterator[Wrong]:
    for sha256, content in db.execute("SELECT sha256, bytes FROM blob"):
        if not isinstance(content, bytes) or hashlib.sha256(content).hexdigest() != sha256:
            yield Wrong(f"attachment {str(sha256)[:12]}", "does not have the content it is named after")


_INDEXABLE: Final = """
-- messages that an index which knows all up to an id must have: not those that a deletion under way takes out
SELECT m.id FROM message m JOIN branch b ON b.id = m.branch WHERE m.id <= ?
AND NOT EXISTS (SELECT 1 FROM purge p WHERE p.session_id = b.session_id AND p.done = 0)
"""
_REMEDY: Final = "`clew db rebuild-search` makes it anew"


def index_faults(db: apsw.Connection, index: Path) -> Iterator[Wrong]:
    """What the search file knows that the ledger does not, and the other way round. Rebuilding mends all of it."""
    if not index.exists() or not index.stat().st_size:
        return
    newest = fetch(db, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'message'")[0][0]
    try:
        with glimpse(index) as search:
            upto = fetch(search, "SELECT upto FROM indexed")[0][0]
            # It goes on while we look: what the ledger got since we began is not asked for.
            known = {
                row[0]
                for row in search.execute("SELECT id FROM fts_docsize WHERE id BETWEEN 1 AND ?", (newest,))
            }
            sound = fetch(search, "PRAGMA integrity_check(5)")
    except StoreUnusable as error:
        yield Wrong("search", f"{error} {_REMEDY}.")
        return
    if sound != [("ok",)]:
        yield Wrong("search", f"the index is damaged ({sound[0][0]}): {_REMEDY}")
    stored = {row[0] for row in db.execute(_INDEXABLE, (min(upto, newest),))}
    gone = known - {row[0] for row in db.execute("SELECT id FROM message")}
    if stored - known or gone:
        yield Wrong(
            "search",
            f"the index lacks {len(stored - known)} messages and has {len(gone)} that are gone: {_REMEDY}",
        )
