"""What the ledger file refuses to every program that writes it, whichever SQLite that program carries.

Each attack is one statement. It must be refused in the guard's words and leave every row as it was.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import apsw
import pytest

from clew.adapters.stores.sqlite.connection import fetch
from clew.adapters.stores.sqlite.ledger import LEDGER_FILE
from clew.domain.conversation.ids import ApprovalId
from clew.domain.ledger.commits import AskApproval
from clew.domain.ledger.rows import CallState, Prefix
from clew.testing.ledgers import (
    ANN,
    START_MS,
    add,
    as_holder,
    ask_tool,
    attachment,
    begin,
    compact,
    do,
    exchange,
    move_call,
    open_turn,
    place,
    receive,
    run_turn,
    say,
    session_id,
    sha256,
    tool_call,
    turn_after,
    undo,
    user,
)
from tests.unit.sqlite.homes import database, opened

MAIN: Final = session_id(1)
FOREIGN: Final = session_id(2)
DELETED: Final = session_id(3)
SHELL: Final = shutil.which("sqlite3")

Case = tuple[str, str]


# -- what is attacked ----------------------------------------------------------------------------------------------
async def furnish(home: Path) -> None:
    """A ledger with two rows or more in every table that has a guard, and one deletion that is under way."""
    pictures = [attachment(content) for content in (b"one picture", b"another")]
    kind, brief = (
        Prefix(sha256=sha256(words), system_prompt=words, tools="[]") for words in ("Be kind.", "Be brief.")
    )
    async with opened(home) as ledger:
        main = await begin(ledger, 1, prefix=kind)
        looked = user("look", *(reference for reference, _ in pictures))
        blobs = tuple(blob for _, blob in pictures)
        main = await add(ledger, main, looked, blobs=blobs, idempotency_key="used")
        main = await run_turn(ledger, main, "read it", tool_text="read")
        main = await compact(ledger, await exchange(ledger, main, "one", "two"), 4)
        main = await compact(ledger, main, 5)
        main = await say(ledger, await undo(ledger, main), "another way")
        turn, call = turn_after(main), tool_call(main)
        main = await ask_tool(ledger, await open_turn(ledger, main, "write it"), turn, call)
        for name in ("asked", "asked again"):
            asked = AskApproval(
                id=ApprovalId(name), call=call.id, args_sha256=sha256("{}"), asker=ANN, expires_at=START_MS
            )
            main = await do(ledger, main, fence=as_holder(main), ask=(asked,))
        await move_call(ledger, main, call.id, CallState.STARTED)
        foreign = await exchange(ledger, await begin(ledger, 2, prefix=brief), "elsewhere")
        await compact(ledger, foreign, 2)
        deleted = await say(ledger, await begin(ledger, 3), "to be deleted")
        conversation = await place(ledger, foreign)
        await receive(ledger, foreign, conversation, "first")
        await receive(ledger, foreign, conversation, "second")
    with database(home / LEDGER_FILE) as db:
        db.execute("INSERT INTO purge(session_id, actor, at) VALUES(?, 'ann', 1)", (deleted.session,))
        db.execute("INSERT INTO identity VALUES('irc', 'home', 'ann-1', 'ann')")
        db.execute(
            "INSERT INTO outbox(session_id, conversation, turn, body, part, kind, state, key, next_at)"
            " VALUES(?, ?, 1, 'hello', 0, 'reply', 'sent', 'one', 1)",
            (foreign.session, conversation),
        )
        db.execute(
            "INSERT INTO usage(owner, session_id, turn, step, attempt, task, model, state, input, output, cache_read, cache_write, at)"
            " VALUES('ann', ?, 1, 1, 1, 'turn', 'model', 'settled', 5, 5, 0, 0, 1)",
            (MAIN,),
        )


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    home = tmp_path_factory.mktemp("furnished")
    asyncio.run(furnish(home))
    assert not (home / f"{LEDGER_FILE}-wal").exists(), "the last connection moves the log into the file"
    return (home / LEDGER_FILE).read_bytes()


@pytest.fixture
def ledger(tmp_path: Path, furnished: bytes) -> Path:
    path = tmp_path / LEDGER_FILE
    path.write_bytes(furnished)
    return path


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    with closing(apsw.Connection(str(path))) as db:
        tables = fetch(db, "SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name: fetch(db, f'SELECT * FROM "{name}"') for (name,) in tables}


# -- who attacks ---------------------------------------------------------------------------------------------------
def by_apsw(path: Path, sql: str) -> str:
    with closing(apsw.Connection(str(path))) as db:
        with pytest.raises(apsw.ConstraintError) as refused:
            db.execute(sql)
    return str(refused.value)


def by_the_standard_library(path: Path, sql: str) -> str:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        with pytest.raises(sqlite3.IntegrityError) as refused:
            db.execute(sql)
    return str(refused.value)


def by_the_shell(path: Path, sql: str) -> str:
    if SHELL is None:
        pytest.skip("the sqlite3 program is not installed")
    command = [SHELL, "-batch", "-bail", "-init", "/dev/null", str(path), sql]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode != 0, done.stdout
    return done.stderr


# -- the attacks ---------------------------------------------------------------------------------------------------
AGAIN: Final[dict[str, str]] = {
    "session": "this session exists",
    "op": "stale",
    "message": "append-only",
    "branch": "append-only",
    "summary": "append-only",
    "turn": "this turn exists",
    "tool_call": "this call exists",
    "approval": "this approval exists",
    "inbox": "received already",
    "prefix": "append-only",
    "blob": "append-only",
    "attachment": "append-only",
    "purge": "this session was deleted",
}
KEYS: Final[dict[str, tuple[str, str]]] = {
    "session": ("id", "a session keeps its identity"),
    "op": ("version", "append-only"),
    "message": ("id", "append-only"),
    "branch": ("id", "append-only"),
    "summary": ("id", "append-only"),
    "turn": ("turn", "a turn keeps its identity"),
    "tool_call": ("id", "a call keeps its identity"),
    "approval": ("id", "an approval keeps its identity"),
    "inbox": ("id", "a received message is settled once"),
    "prefix": ("sha256", "append-only"),
    "blob": ("sha256", "append-only"),
    "attachment": ("sha256", "append-only"),
    "purge": ("session_id", "a deletion is not taken back"),
}
GONE: Final[dict[str, str]] = {
    "session": "sessions are not deleted",
    "op": "append-only",
    "message": "append-only",
    "branch": "append-only",
    "summary": "append-only",
    "turn": "turns are not deleted",
    "tool_call": "calls are not deleted",
    "approval": "approvals are not deleted",
    "inbox": "received messages are not deleted",
    "prefix": "a session still uses this prefix",
    "blob": "a message still names this attachment",
    "attachment": "append-only",
    "purge": "a deletion is not taken back",
}


def replacements() -> list[Case]:
    """Rows put in the place of others: the rows they push out fall to no DELETE trigger."""
    cases = [(f"INSERT OR REPLACE INTO {t} SELECT * FROM {t} LIMIT 1", words) for t, words in AGAIN.items()]
    for table, (key, words) in KEYS.items():
        # every row, each taking the key of the last; of the last, a text gets a new one
        other = f"CASE WHEN {key} = (SELECT max({key}) FROM {table}) THEN 77 ELSE (SELECT max({key}) FROM {table}) END"
        cases.append((f"UPDATE OR REPLACE {table} SET {key} = {other}", words))
    return cases + [(f"DELETE FROM {table}", words) for table, words in GONE.items()]


def op(session: str = MAIN, verb: str = "INSERT", **instead: str) -> str:
    """The op that would be right next in a session, an append of one message, but for the columns given."""
    columns = {
        "session_id": "id",
        "version": "version + 1",
        "kind": "'append'",
        "from_branch": "head_branch",
        "from_seq": "head_seq",
        "to_branch": "head_branch",
        "to_seq": "head_seq + 1",
        "from_summary": "summary_id",
        "to_summary": "summary_id",
        "epoch": "epoch",
        "idempotency_key": "NULL",
        "actor": "'ann'",
        "at": "1",
    } | instead
    return f"{verb} INTO op({', '.join(columns)}) SELECT {', '.join(columns.values())} FROM session WHERE id = '{session}'"


def of(column: str, session: str) -> str:
    return f"(SELECT {column} FROM session WHERE id = '{session}')"


def message(branch: str, seq: str, verb: str = "INSERT") -> str:
    return (
        f"{verb} INTO message(branch, seq, turn, step, role, actor, status, text, created_at)"
        f" VALUES({branch}, {seq}, 1, 0, 'user', 'eve', 'ok', 'planted', 1)"
    )


FOREIGN_HEAD: Final = of("head_branch", FOREIGN)
HEAD: Final = of("head_branch", MAIN)
TIP: Final = of("head_seq", MAIN)
HERE: Final = {"to_seq": "head_seq"}
OPS: Final[list[Case]] = [
    (op(epoch="epoch - 1"), "stale"),
    (op(epoch="epoch + 1"), "stale"),
    (op(version="version"), "stale"),
    (op(version="version", verb="INSERT OR REPLACE"), "stale"),
    (op(version="version + 2"), "stale"),
    (op(from_seq="head_seq - 1"), "stale"),
    (op(from_branch=FOREIGN_HEAD), "stale"),
    (op(from_branch="NULL"), "stale"),
    (op(from_summary="NULL"), "stale"),
    (op(from_summary="summary_id - 1"), "stale"),
    (op(idempotency_key="'used'"), "this key was used"),
    (op(idempotency_key="'used'", verb="INSERT OR REPLACE"), "this key was used"),
    (op(session=DELETED), "this session was deleted"),
    (op(kind="'create'"), "a session is created once"),
    (op(**HERE), "an append continues the head"),
    (op(to_branch=FOREIGN_HEAD), "an append continues the head"),
    (op(to_summary="NULL"), "this op leaves the summary alone"),
    (op(kind="'title'", to_summary="NULL", **HERE), "this op leaves the summary alone"),
    (op(kind="'title'", to_seq="1"), "this op leaves the head alone"),
    (op(kind="'undo'"), "a head stands on a message of its own tree"),
    (op(kind="'undo'", to_seq="-1"), "a head stands on a message of its own tree"),
    (op(kind="'resume'", to_branch=FOREIGN_HEAD, to_seq="1"), "a head stands on a message of its own tree"),
    (op(kind="'import'", to_branch=FOREIGN_HEAD, to_seq="0"), "a head stands on a message of its own tree"),
    (op(kind="'compact'", to_summary=of("summary_id", FOREIGN), **HERE), "a summary of the session stands"),
    (op(kind="'compact'", to_summary="9999", **HERE), "a summary of the session stands"),
]
MESSAGES: Final[list[Case]] = [
    (message(HEAD, f"{TIP} + 1"), "a message follows its op"),
    (message(HEAD, f"{TIP} + 1", "INSERT OR IGNORE"), "a message follows its op"),
    (message(HEAD, TIP), "a message follows its op"),
    (message(HEAD, TIP, "INSERT OR REPLACE"), "a message follows its op"),
    (message(HEAD, f"{TIP} + 2"), "a message follows its op"),
    (message("1", "(SELECT max(seq) + 1 FROM message WHERE branch = 1)"), "a message follows its op"),
    (message("9999", "1"), "a message follows its op"),
    ("UPDATE message SET text = 'never said' WHERE id = 1", "append-only"),
    (f"INSERT INTO branch(session_id) VALUES('{MAIN}')", "a branch starts at the head of its session"),
    (
        f"INSERT INTO branch(session_id, parent_branch, parent_seq) VALUES('{MAIN}', {FOREIGN_HEAD}, 1)",
        "a branch starts at the head of its session",
    ),
    (
        f"INSERT INTO summary(session_id, branch, upto_seq, previous, text, tokens_before, tokens_after, created_at)"
        f" VALUES('{MAIN}', {HEAD}, 1, {of('summary_id', FOREIGN)}, '', 0, 0, 1)",
        "a summary follows one of its own session",
    ),
    (
        "INSERT INTO attachment SELECT max(m.id), min(b.sha256) FROM message m, blob b",
        "an attachment is named by its message",
    ),
]


def session_set(assignment: str, verb: str = "UPDATE") -> str:
    return f"{verb} session SET {assignment} WHERE id = '{MAIN}'"


SESSIONS: Final[list[Case]] = [
    (session_set("head_seq = 1"), "only an op moves the head"),
    (session_set("head_seq = 1, version = version + 1"), "only an op moves the head"),
    (session_set(f"head_branch = {FOREIGN_HEAD}, head_seq = 1"), "only an op moves the head"),
    (session_set("head_branch = NULL", "UPDATE OR REPLACE"), "only an op moves the head"),
    (session_set("version = version + 1"), "only an op moves the head"),
    (session_set("version = version - 1"), "only an op moves the head"),
    (session_set("summary_id = NULL"), "only an op moves the head"),
    (session_set("epoch = epoch - 1"), "an epoch only grows, by one"),
    (session_set("epoch = epoch + 2"), "an epoch only grows, by one"),
    (session_set("epoch = 0", "UPDATE OR REPLACE"), "an epoch only grows, by one"),
    (session_set("epoch = NULL", "UPDATE OR REPLACE"), "an epoch only grows, by one"),
    (session_set("owner = 'eve'"), "a session keeps its identity"),
    (
        session_set(f"parent_session = '{FOREIGN}', parent_branch = {FOREIGN_HEAD}, parent_seq = 1"),
        "a session keeps its identity",
    ),
    (
        "INSERT INTO session(id, owner, surface, origin, version, last_active_at, created_at)"
        " VALUES('planted', 'ann', 'x', 'new', 1, 1, 1)",
        "a session starts empty",
    ),
    (
        "INSERT INTO session(id, owner, surface, origin, parent_session, parent_branch, parent_seq, last_active_at, created_at)"
        f" VALUES('planted', 'eve', 'x', 'fork', '{MAIN}', 1, 1, 1, 1)",
        "a fork starts in the tree of its owner's session",
    ),
    (f"UPDATE session SET title = 'back' WHERE id = '{DELETED}'", "this session was deleted"),
]
EPOCH: Final = of("epoch", MAIN)
STATES: Final[list[Case]] = [
    (f"UPDATE tool_call SET state = 'planned', epoch = {EPOCH} WHERE state = 'started'", "does not go back"),
    (f"UPDATE tool_call SET state = 'not_run', epoch = {EPOCH} WHERE state = 'started'", "does not go back"),
    (f"UPDATE tool_call SET state = 'started', epoch = {EPOCH} WHERE state = 'finished'", "does not go back"),
    (f"UPDATE tool_call SET state = 'planned', epoch = {EPOCH} WHERE state = 'finished'", "does not go back"),
    (f"UPDATE tool_call SET state = 'unknown', epoch = {EPOCH} WHERE state = 'finished'", "does not go back"),
    ("UPDATE tool_call SET state = 'finished', epoch = epoch - 1 WHERE state = 'started'", "fenced"),
    ("UPDATE tool_call SET args_sha256 = 'other' WHERE state = 'started'", "a call keeps its identity"),
    (f"UPDATE turn SET state = 'running', epoch = {EPOCH} WHERE state = 'done'", "this turn has ended"),
    ("UPDATE turn SET state = 'done', epoch = epoch + 1 WHERE state = 'running'", "fenced"),
    (f"UPDATE approval SET state = 'consumed', epoch = {EPOCH}", "an approval is spent once"),
    ("UPDATE approval SET state = 'approved', epoch = epoch - 1", "fenced"),
    ("UPDATE approval SET args_sha256 = 'other'", "an approval keeps its identity"),
    ("UPDATE inbox SET state = 'consumed', epoch = 99", "a received message is settled once"),
    ("UPDATE inbox SET body = 'never sent'", "a received message is settled once"),
    (
        "INSERT INTO tool_call(id, session_id, turn, step, n, provider_id, name, args_sha256, state, safe_to_repeat, epoch, planned_at)"
        " SELECT 'planted', session_id, turn, step, n + 1, provider_id, name, args_sha256, state, 1, epoch, 1 FROM tool_call"
        " WHERE state = 'started'",
        "a call is planned first",
    ),
    (
        "INSERT INTO approval(id, call, n, args_sha256, asker, state, expires_at, epoch)"
        " SELECT 'planted', call, n + 9, args_sha256, asker, 'approved', expires_at, epoch FROM approval",
        "an approval is asked first",
    ),
    (f"INSERT INTO turn SELECT * FROM turn WHERE session_id = '{MAIN}'", "this turn exists"),
]
OTHERS: Final[list[Case]] = [
    ("INSERT OR REPLACE INTO principal VALUES('ann', 'Ann', 'owner')", "this principal exists"),
    ("UPDATE OR REPLACE principal SET id = 'ann' WHERE id = 'eve'", "a principal keeps its identity"),
    ("DELETE FROM principal", "principals are not deleted"),
    (
        "INSERT OR REPLACE INTO identity VALUES('irc', 'home', 'ann-1', 'eve')",
        "this identity is somebody's already",
    ),
    ("UPDATE identity SET principal = 'eve'", "an identity is taken back before it is given to another"),
    ("INSERT OR REPLACE INTO conversation SELECT * FROM conversation", "this conversation exists"),
    ("UPDATE conversation SET version = version + 2", "a conversation moves by a new version"),
    (f"UPDATE conversation SET session_id = '{MAIN}'", "a conversation moves by a new version"),
    ("DELETE FROM conversation", "conversations are not deleted"),
    ("INSERT OR REPLACE INTO outbox SELECT * FROM outbox", "this reply exists"),
    ("UPDATE outbox SET state = 'pending'", "a reply is sent once"),
    ("DELETE FROM outbox", "replies are not deleted"),
    ("INSERT OR REPLACE INTO usage SELECT * FROM usage", "append-only"),
    ("UPDATE usage SET input = 0", "usage is settled once"),
    ("DELETE FROM usage", "usage is not deleted"),
    (
        "INSERT INTO job(kind, key, owner, session_id, payload, state, next_at)"
        f" VALUES('title', 'planted', 'ann', '{DELETED}', '', 'queued', 1)",
        "this session was deleted",
    ),
    (
        f"INSERT INTO fact(owner, text, session_id, created_at) VALUES('ann', 'planted', '{DELETED}', 1)",
        "this session was deleted",
    ),
]
ATTACKS: Final = [*replacements(), *OPS, *MESSAGES, *SESSIONS, *STATES, *OTHERS]


@pytest.mark.parametrize("program", [by_apsw, by_the_standard_library, by_the_shell])
@pytest.mark.parametrize(("sql", "words"), ATTACKS)
def test_refused_in_words_and_nothing_changed(
    ledger: Path, program: Callable[[Path, str], str], sql: str, words: str
) -> None:
    before = content(ledger)
    said = program(ledger, sql)
    assert "clew: " in said
    assert words in said
    assert content(ledger) == before


def test_every_guarded_table_has_rows_to_attack(ledger: Path) -> None:
    """A DELETE of no rows would be refused by nobody and look harmless."""
    rows = content(ledger)
    assert set(AGAIN) == set(KEYS) == set(GONE)
    assert {table for table in AGAIN if len(rows[table]) < 2} <= {"purge"}
    assert {row[8] for row in rows["tool_call"]} == {"started", "finished"}


def test_every_guard_is_needed_by_an_attack(ledger: Path) -> None:
    """With any one of them dropped, some attack passes or is refused in other words."""
    with closing(sqlite3.connect(ledger, isolation_level=None)) as db:
        triggers = db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name <> 'op_moves'")
        idle = [name for (name,) in triggers.fetchall() if not is_missed(db, name)]
    assert idle == []


def is_missed(db: sqlite3.Connection, trigger: str) -> bool:
    """Whether an attack turns out differently without this trigger; puts everything back."""
    db.execute("BEGIN")
    db.execute(f"DROP TRIGGER {trigger}")
    try:
        return any(not is_refused(db, sql, words) for sql, words in ATTACKS)
    finally:
        db.execute("ROLLBACK")


def is_refused(db: sqlite3.Connection, sql: str, words: str) -> bool:
    db.execute("SAVEPOINT attack")
    try:
        db.execute(sql)
    except sqlite3.IntegrityError as error:
        return words in str(error)
    finally:
        db.execute("ROLLBACK TO attack")
        db.execute("RELEASE attack")
    return False


def test_the_right_next_op_is_taken(ledger: Path) -> None:
    """The wrong ops are wrong only in the columns that their row names: without those the statement passes."""
    with closing(apsw.Connection(str(ledger))) as db:
        db.execute(op())
        db.execute(message(HEAD, TIP))
        db.execute(op(kind="'title'", **HERE))
        assert fetch(db, "SELECT count(*) FROM message WHERE text = 'planted'") == [(1,)]
