"""A deleted session's words are in no byte of any file, whatever crashed on the way, and nothing else is missing."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

import apsw
import pytest

from clew.adapters.stores.sqlite import SqliteLedger, keeper
from clew.adapters.stores.sqlite.connection import connect, fetch
from clew.adapters.stores.sqlite.heirs import doomed_messages
from clew.adapters.stores.sqlite.scrub import scrub
from clew.adapters.stores.sqlite.search_file import SearchFile
from clew.domain.conversation.ids import ApprovalId, SessionId
from clew.domain.conversation.messages import ToolCall
from clew.domain.ledger.commits import AddReply, Append, AskApproval, OpenTurn, SessionPatch, SetTurn
from clew.domain.ledger.errors import NotFound, StoreUnusable
from clew.domain.ledger.rows import CallState, Handle, Prefix, TurnState
from clew.domain.memory.facts import Fact, Kind, NewFact, Trace, trace_of
from clew.domain.memory.recall import core_text
from clew.domain.turn.prefix import digested
from clew.testing.invariants import check, check_all
from clew.testing.ledgers import (
    ANN,
    START_MS,
    add,
    as_holder,
    ask_tool,
    assistant,
    attachment,
    begin,
    compact,
    do,
    exchange,
    fork,
    handle_of,
    move_call,
    new_session,
    place,
    receive,
    say,
    session_id,
    sha256,
    texts,
    tool_call,
    tool_result,
    turn_after,
    undo,
    user,
)
from tests.unit.sqlite.homes import database, opened, python

pytestmark = pytest.mark.anyio
WORD: Final = "xylophonequartz"
SIZES: Final = (1, 5, 20, 60, 200, 800)


SCAN = """
import sys
from pathlib import Path
home, words = Path(sys.argv[1]), sys.argv[2:]
for path in sorted(p for p in home.rglob("*") if p.is_file()):
    content = path.read_bytes().lower()
    for word in words:
        if count := content.count(word.encode()):
            print(f"{path.name} {word} {count}")
"""


def traces(home: Path, *words: str) -> list[str]:
    """Where a word is in any byte of any file under the home. Read by another program: this one has the files open."""
    done = python(SCAN, home, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def plant(ledger: SqliteLedger, number: int, word: str) -> Handle:
    """A session that has the word everywhere a session can have one."""
    prefix = Prefix(sha256=sha256(word), system_prompt=f"You know {word}.", tools=json.dumps([word]))
    new = new_session(
        number,
        title=f"About {word}",
        cwd=f"/home/{word}",
        settings=json.dumps({"note": word}),
        prefix=prefix,
    )
    handle = await ledger.open(new, actor=ANN, at=START_MS)
    chat = await place(ledger, handle, f"telegram:{number}")
    for key in ("taken", "waiting", "cancelled"):
        await receive(ledger, handle, chat, f"{number}-{key}", body=f"{key} {word}")
    taken, *_ = await ledger.queued(ANN, handle.session)
    image, blob = attachment(f"pixels of {word}".encode(), name=f"{word}.png")
    raw, original = attachment(word.encode() + b"\xff")
    said = user(f"Tell me of {word}", image, original=raw.sha256)
    opened_turn = OpenTurn(turn=turn_after(handle), principal=ANN, model="m", conversation=chat)
    turn = turn_after(handle)
    call = ToolCall(id=tool_call(handle).id, name=f"find_{word}", arguments=json.dumps({"q": word}))
    handle = await add(
        ledger,
        handle,
        said,
        open_turn=opened_turn,
        claim="this-process",
        blobs=(blob, original),
        take=(taken.id,),
    )
    handle = await ask_tool(ledger, handle, turn, call)
    asks = AskApproval(
        id=ApprovalId(f"apv-{number}"), call=call.id, args_sha256="x", asker=ANN, expires_at=START_MS * 2
    )
    handle = await do(ledger, handle, fence=as_holder(handle), ask=(asks,))
    handle = await move_call(ledger, handle, call.id, CallState.STARTED)
    result = Append(messages=(tool_result(call, f"{word} found"),), turn=turn)
    handle = await move_call(ledger, handle, call.id, CallState.FINISHED, op=result)
    notice = AddReply(
        conversation=chat, turn=turn, part=0, kind="notice", key=f"{number}-n", body=f"note: {word}"
    )
    reply = AddReply(conversation=chat, turn=turn, part=1, kind="reply", key=f"{number}-r")
    handle = await do(
        ledger,
        handle,
        fence=as_holder(handle),
        op=Append(messages=(assistant(f"{word} is a word", step=2),), turn=turn),
        set_turn=SetTurn(turn=turn, state=TurnState.FAILED, error=f"no {word} left"),
        replies=(notice, reply),
        release=True,
    )
    handle = await undo(ledger, await exchange(ledger, handle, f"undone {word}"))
    handle = await compact(ledger, handle, 2, f"They spoke of {word}.")
    handle = await compact(ledger, handle, 4, f"Again of {word}.")
    return await do(ledger, handle, patch=SessionPatch(title=f"Still about {word}"), op=None)


def plant_where_nothing_writes_yet(home: Path, session: SessionId, word: str) -> None:
    """Facts and jobs of a session, as their parts of the program will write them."""
    with database(home / "clew.db") as db:
        for number in range(2):
            db.execute(
                "INSERT INTO fact(owner, kind, text, session_id, confidence, supersedes, said_at, created_at)"
                " VALUES('ann', 'user', ?, ?, 1, ?, 1, 1)",
                (f"likes {word}", session, number or None),
            )
        db.execute(
            "INSERT INTO job(kind, key, owner, session_id, payload, state, next_at) VALUES('k', 'j', 'ann', ?, ?, 'queued', 1)",
            (session, json.dumps({"text": word})),
        )


async def test_a_word_planted_everywhere_is_in_no_byte_of_any_file(tmp_path: Path) -> None:
    """Titles, prefix, settings, messages, calls, attachments, summaries, queues, replies, errors, facts, jobs, index: not
    while Clew still runs, and not after it ended. The session beside it, with a word of its own, keeps all of it."""
    async with opened(tmp_path) as ledger:
        kept = await plant(ledger, 2, "keptword")
        doomed = await plant(ledger, 1, WORD)
        plant_where_nothing_writes_yet(tmp_path, doomed.session, WORD)
        assert (await ledger.search(ANN, WORD)).hits
        before = await texts(ledger, kept.session)
        assert {line.split()[0] for line in traces(tmp_path, WORD)} >= {"clew.db-wal", "clew-search.db-wal"}
        gone = await ledger.forget(ANN, doomed.session, START_MS)
        assert (gone.messages, gone.blobs) == (6, 2)
        assert traces(tmp_path, WORD) == []
        assert await texts(ledger, kept.session) == before
        assert len((await ledger.search(ANN, "keptword")).hits) == 4
        await check_all(ledger, ANN)
    assert traces(tmp_path, WORD) == []
    assert traces(tmp_path, "keptword")


async def many_sessions(ledger: SqliteLedger, seed: int, sessions: int, rounds: int) -> dict[str, Handle]:
    """Sessions with a word each, written in turns with texts of all sizes, so that pages are split and joined."""
    rng = random.Random(seed)
    handles: dict[str, Handle] = {}
    for number in range(sessions):
        word = f"word{number:03d}zq"
        prefix = Prefix(sha256=sha256(word), system_prompt=f"{word} " * rng.randrange(1, 300), tools="[]")
        new = new_session(number + 1, title=word, prefix=prefix)
        handles[word] = await ledger.open(new, actor=ANN, at=START_MS + number)
    for _ in range(rounds):
        at_once = rng.sample(list(handles), sessions // 2)
        spoken = [say(ledger, handles[word], f"{word} " * rng.choice(SIZES)) for word in at_once]
        handles |= zip(at_once, await asyncio.gather(*spoken), strict=True)
        word = rng.choice(at_once)
        title = SessionPatch(title=f"{word} " * rng.randrange(1, 40))
        handles[word] = await do(ledger, handles[word], patch=title)
    return handles


@pytest.mark.parametrize("seed", [4, 8, 9, 10])
async def test_no_copy_is_left_where_pages_were_split(tmp_path: Path, seed: int) -> None:
    """Deletions among many sessions: whatever SQLite moved from page to page on the way is gone with the words. (These are
    seeds with which a word was left without the scrub.)"""
    async with opened(tmp_path) as ledger:
        handles = await many_sessions(ledger, seed, sessions=40, rounds=50)
        doomed = random.Random(seed).sample(list(handles), 20)
        for word in doomed:
            await ledger.forget(ANN, handles[word].session, START_MS)
        assert traces(tmp_path, *doomed) == []
        await check_all(ledger, ANN)


def test_pages_of_back_pointers_are_left_alone(tmp_path: Path) -> None:
    """A file that gives empty pages back has pages that only look like others: scrubbed, it is whole and can go on."""
    path = tmp_path / "plain.db"
    made = apsw.Connection(str(path))
    made.execute("PRAGMA auto_vacuum=INCREMENTAL").fetchall()
    made.execute("CREATE TABLE more(x TEXT)")
    with made:
        made.executemany("INSERT INTO more VALUES(hex(randomblob(?)))", [(1700,)] * 1000)
    made.close()
    words = moved_and_deleted(path, random.Random(3))
    assert scrub(path)
    assert traces(tmp_path, *words) == []
    with connect(path) as db:
        assert fetch(db, "PRAGMA auto_vacuum") == [(2,)]
        assert fetch(db, "PRAGMA page_count")[0][0] > 1000  # more than one page of back pointers
        assert fetch(db, "PRAGMA freelist_count")[0][0] > 100
        fetch(db, "PRAGMA incremental_vacuum(100)")
        assert fetch(db, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("vacuum", ["NONE", "INCREMENTAL"])
@pytest.mark.parametrize("page_size", [1024, 4096])
def test_secure_delete_alone_leaves_words_behind(tmp_path: Path, vacuum: str, page_size: int) -> None:
    """The reason for the scrub: with `secure_delete` on, a deleted word is still in the gaps of pages; scrubbed it is not,
    and the file is whole, also where it has pointer maps, whose pages look like tree pages."""
    path = tmp_path / "plain.db"
    left = 0
    for seed in range(4):
        with closing(apsw.Connection(str(path))) as db:
            fetch(db, f"PRAGMA page_size={page_size}")
            fetch(db, f"PRAGMA auto_vacuum={vacuum}")
            db.execute("VACUUM")
        words = moved_and_deleted(path, random.Random(seed))
        left += len(traces(tmp_path, *words))
        assert scrub(path)
        assert traces(tmp_path, *words) == []
        with closing(apsw.Connection(str(path))) as db:
            assert fetch(db, "PRAGMA integrity_check") == [("ok",)]
        path.unlink()
    assert left


def moved_and_deleted(path: Path, rng: random.Random) -> list[str]:
    """Tables in which cells moved, and then went. Returns the words that were deleted."""
    words = [f"word{number:03d}zq" for number in range(40)]
    db = connect(path)
    db.execute("CREATE TABLE said(id INTEGER PRIMARY KEY, word INT, text TEXT)")
    db.execute("CREATE TABLE t(id TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID")
    with db:
        for _ in range(1200):
            number = rng.randrange(40)
            times = rng.choice([1, 5, 20, 60, 200, 800])
            db.execute("INSERT INTO said(word, text) VALUES(?, ?)", (number, f"{words[number]} " * times))
        for number in range(40):
            db.execute(
                "INSERT INTO t VALUES(?, ?)", (sha256(words[number]), words[number] * rng.randrange(90))
            )
    gone = rng.sample(range(40), 20)
    for number in gone:
        with db:
            db.execute("DELETE FROM said WHERE word = ?", (number,))
            db.execute("DELETE FROM t WHERE id = ?", (sha256(words[number]),))
    db.close()
    return [words[number] for number in gone]


def test_a_scrub_harms_nobody_who_writes_meanwhile(tmp_path: Path) -> None:
    """Gaps are zeroed while another thread writes and reads the same pages: the file stays whole, and every row is there."""
    path = tmp_path / "plain.db"
    moved_and_deleted(path, random.Random(1))
    stop = threading.Event()
    written: dict[str, str] = {}

    def write() -> None:
        db = connect(path)
        fetch(db, "PRAGMA synchronous=OFF")
        fetch(db, "PRAGMA secure_delete=OFF")
        db.wal_autocheckpoint(2)
        rng = random.Random(2)
        while not stop.is_set():
            key, text = str(rng.randrange(400)), "live" * rng.randrange(900)
            db.execute("REPLACE INTO t VALUES(?, ?)", (key, text))
            written[key] = text
        db.close()

    thread = threading.Thread(target=write)
    thread.start()
    outcomes = [scrub(path) for _ in range(10)]
    stop.set()
    thread.join()
    assert any(outcomes)
    with connect(path) as db:
        assert fetch(db, "PRAGMA integrity_check") == [("ok",)]
        assert {key: fetch(db, "SELECT text FROM t WHERE id = ?", (key,))[0][0] for key in written} == written
    assert len(written) > 20


async def test_a_message_not_yet_indexed_is_never_indexed(tmp_path: Path) -> None:
    """The index follows the ledger between the two halves of a deletion: what is about to go is passed over."""
    async with half_deleted(tmp_path) as (index, ledger):
        assert not index.catch_up(ledger)
        with database(tmp_path / "clew.db") as db:
            doomed = doomed_messages(db, session_id(1), 500)
        assert len(doomed) == 1
        assert fetch(index.db, "SELECT id FROM fts_docsize ORDER BY id") == [(doomed[0] + 1,)]


@asynccontextmanager
async def half_deleted(home: Path) -> AsyncIterator[tuple[SearchFile, apsw.Connection]]:
    """A ledger with one deletion under way and one session beside it, and an index that knows of neither."""
    async with opened(home) as ledger:
        await say(ledger, await begin(ledger, 1), WORD)
        await say(ledger, await begin(ledger, 2), "kept")
    with database(home / "clew.db") as db:
        db.execute("INSERT INTO purge(session_id, actor, at) VALUES(?, 'ann', 1)", (session_id(1),))
        index = SearchFile(home / "another-index.db")
        yield index, db
        index.db.close()


def separator_words(seed: int) -> tuple[list[str], list[str]]:
    """Words of a doomed and of a kept session that differ in their last letters only: separators hold them whole."""
    rng = random.Random(seed)
    stems = [f"zq{number:03d}word" for number in range(300)]
    own = [f"{stem}{letter}{n}" for stem in stems for letter in "bd" for n in rng.sample(range(10), 4)]
    kept = [f"{stem}{letter}{n}" for stem in stems for letter in "ac" for n in rng.sample(range(10), 4)]
    return own, kept


async def test_no_separator_of_the_index_is_a_deleted_word(tmp_path: Path) -> None:
    """FTS5 keeps words between its pages whatever is deleted from them; they go too, and what is kept is still found."""
    own, kept = separator_words(7)
    async with opened(tmp_path) as ledger:
        doomed, stays = await begin(ledger, 1), await begin(ledger, 2)
        for first in range(0, len(own), 30):
            doomed = await say(ledger, doomed, " ".join(own[first : first + 30]))
            stays = await say(ledger, stays, " ".join(kept[first : first + 30]))
        assert (await ledger.search(ANN, own[0])).hits
        index = connect(tmp_path / "clew-search.db")
        separators = {bytes(term)[1:].decode() for (term,) in index.execute("SELECT term FROM fts_idx")}
        assert separators & set(own)
        await ledger.forget(ANN, doomed.session, START_MS)
        assert traces(tmp_path, *own) == []
        index.execute("INSERT INTO fts(fts) VALUES('integrity-check')")
        index.close()
        for word in random.Random(1).sample(kept, 40):
            assert len((await ledger.search(ANN, word)).hits) == 1


async def test_forks_read_whole_until_they_go_too(tmp_path: Path) -> None:
    """A fork of the same owner keeps its path, word for word and findable; when it is deleted, no word is left of either."""
    async with opened(tmp_path) as ledger:
        parent = await exchange(ledger, await begin(ledger, 1), f"early {WORD}", "latewordzq")
        child = await fork(ledger, parent, 2, at=(await ledger.path(ANN, parent.session))[1].head)
        child = await exchange(ledger, child, "of the fork")
        gone = await ledger.forget(ANN, parent.session, START_MS)
        assert (gone.messages, gone.kept_for) == (2, (child.session,))
        assert traces(tmp_path, "latewordzq") == []
        assert (await texts(ledger, child.session))[:2] == [f"early {WORD}", f"re early {WORD}"]
        assert len((await ledger.search(ANN, WORD)).hits) == 2
        await check(ledger, ANN, child.session)
        assert (await ledger.forget(ANN, child.session, START_MS)).messages == 4
        assert traces(tmp_path, WORD, "of the fork") == []


async def test_another_sessions_replies_wait_on_in_the_same_place(tmp_path: Path) -> None:
    """Turn numbers begin anew in every session: deleting one takes no reply of the next in the same conversation."""
    async with opened(tmp_path) as ledger:
        one = await begin(ledger, 1)
        chat = await place(ledger, one)
        two = await begin(ledger, 2)
        for number, handle in enumerate((one, two)):
            reply = AddReply(conversation=chat, turn=1, part=0, kind="notice", key=str(number), body="hello")
            turn = OpenTurn(turn=1, principal=ANN, model="m", conversation=chat)
            await add(ledger, handle, user("hi"), open_turn=turn, replies=(reply,))
        await ledger.forget(ANN, one.session, START_MS)
    with database(tmp_path / "clew.db") as db:
        assert fetch(db, "SELECT session_id, key FROM outbox") == [(two.session, "1")]


FORGET_AND_DIE = """
import asyncio, os, sys
from pathlib import Path
import apsw
from clew.testing.ledgers import ANN, START_MS, session_id
from tests.unit.sqlite.homes import opened

home, fatal = Path(sys.argv[1]), int(sys.argv[2])
commits = []

def die_at_the_fatal_one():
    if commits:
        commits.append(1)
        if len(commits) - 1 == fatal:
            os.kill(os.getpid(), 9)
    return False

apsw.connection_hooks.append(lambda db: db.set_commit_hook(die_at_the_fatal_one))

async def main():
    async with opened(home) as ledger:
        await ledger.search(ANN, "warm")
        commits.append(0)
        await ledger.forget(ANN, session_id(1), START_MS, with_forks=True)
        print("done")

asyncio.run(main())
"""


async def test_a_deletion_killed_at_any_commit_is_finished_at_the_next_start(tmp_path: Path) -> None:
    """kill -9 in every single commit of it, in ledger, index and scrub: once the purge row is written the session is
    unreadable, the next start finishes the rest, and the other session is as it was."""
    template = tmp_path / "template"
    async with opened(template) as ledger:
        handle = await plant(ledger, 1, WORD)
        many = tuple(user(f"{WORD} {n}") for n in range(700))
        handle = await add(ledger, handle, *many)
        await fork(ledger, handle, 3)
        await plant(ledger, 2, "keptword")
        await ledger.search(ANN, WORD)
        whole = await texts(ledger, session_id(2))
    outcomes = []
    for fatal in range(1, 40):
        home = tmp_path / str(fatal)
        shutil.copytree(template, home)
        died = python(FORGET_AND_DIE, home, fatal)
        outcomes.append(died.stdout.strip())
        assert died.returncode == (0 if died.stdout else -9), died.stderr
        async with opened(home) as ledger:
            if fatal == 1:  # it died before its first commit was one
                assert len(await ledger.path(ANN, session_id(1))) == 704
                continue
            for session in (session_id(1), session_id(3)):
                with pytest.raises(NotFound):
                    await ledger.path(ANN, session)
            assert traces(home, WORD) == [], f"killed at commit {fatal}"
            assert await texts(ledger, session_id(2)) == whole
            assert len((await ledger.search(ANN, "keptword")).hits) == 4
        shutil.rmtree(home)
        if died.stdout:
            break
    assert outcomes[-1] == "done"
    assert len(outcomes) > 10


async def test_a_reader_that_holds_the_log_is_said(tmp_path: Path) -> None:
    """Another program in a long read keeps the words in the log: that is said, and the next start finishes it."""
    async with opened(tmp_path) as ledger:
        handle = await say(ledger, await begin(ledger, 1), WORD)
        reader = connect(tmp_path / "clew.db", read_only=True)
        reader.execute("BEGIN")
        fetch(reader, "SELECT count(*) FROM message")
        with pytest.raises(StoreUnusable, match="another program keeps reading"):
            await ledger.forget(ANN, handle.session, START_MS)
        with pytest.raises(NotFound):
            await handle_of(ledger, handle.session)
        assert traces(tmp_path, WORD)
        reader.close()
    async with opened(tmp_path):
        assert traces(tmp_path, WORD) == []


async def plant_facts(ledger: SqliteLedger) -> list[Fact]:
    """Many, of which some hold the word; the prompts of sessions hold them too, and pages were split meanwhile."""
    chance = random.Random(1)
    new = [
        NewFact(kind=Kind.USER, text=f"{WORD if n % 7 == 0 else 'keptword'} {n} {'x' * chance.choice(SIZES[:5])}", said_at=START_MS)
        for n in range(300)
    ]  # fmt: skip
    known = [fact for each in new for fact in await ledger.keep_facts(ANN, (each,), START_MS)]
    for number in range(1, 9):
        prompt = f"You help.\n\n{core_text(known[number : number + 30])}"
        await begin(ledger, number, prefix=digested(prompt, "[]"))
    return [fact for fact in known if WORD in fact.text]


async def forget_facts(ledger: SqliteLedger, doomed: list[Fact]) -> None:
    traces = tuple(Trace(salt="s", sha256=trace_of(fact.text, "s")) for fact in doomed)
    await ledger.forget_facts(ANN, tuple(fact.id for fact in doomed), traces, START_MS)


async def test_a_forgotten_fact_is_in_no_byte_of_any_file(tmp_path: Path) -> None:
    """Nor are the prompts that held it; the others are all there."""
    async with opened(tmp_path) as ledger:
        doomed = await plant_facts(ledger)
        assert traces(tmp_path, WORD)
        await forget_facts(ledger, doomed)
        assert traces(tmp_path, WORD) == []
        assert len(await ledger.facts(ANN)) == 300 - len(doomed)
        assert "keptword" in str(await ledger.prefix(ANN, session_id(1)))


async def test_forgetting_that_was_cut_short_is_finished_at_the_next_start(tmp_path: Path) -> None:
    """Where it was killed, or another program in a long read kept the words in the log, which is said."""
    async with opened(tmp_path) as ledger:
        doomed = await plant_facts(ledger)
        await forget_facts(ledger, doomed[1:])
        reader = connect(tmp_path / "clew.db", read_only=True)
        reader.execute("BEGIN")
        fetch(reader, "SELECT count(*) FROM fact")
        with pytest.raises(
            StoreUnusable, match="The fact is forgotten and in no request, but another program keeps reading"
        ):
            await forget_facts(ledger, doomed[:1])
        assert doomed[0] not in await ledger.facts(ANN)
        assert traces(tmp_path, WORD)
        reader.close()
        assert [wrong.place for wrong in keeper.check(tmp_path)] == [f"fact {doomed[0].id}"]
    async with opened(tmp_path):
        assert traces(tmp_path, WORD) == []
        assert keeper.check(tmp_path) == ()


async def test_a_broken_index_stops_no_deletion(tmp_path: Path) -> None:
    """An index full of garbage is thrown away with whatever words it had; the rest is findable again."""
    async with opened(tmp_path) as ledger:
        handle = await say(ledger, await begin(ledger, 1), WORD)
        await say(ledger, await begin(ledger, 2), "kept")
        await ledger.search(ANN, WORD)
    index = tmp_path / "clew-search.db"
    index.write_bytes(index.read_bytes()[:4096] + WORD.encode() * 2000)
    async with opened(tmp_path) as ledger:
        await ledger.forget(ANN, handle.session, START_MS)
        assert traces(tmp_path, WORD) == []
        assert len((await ledger.search(ANN, "kept")).hits) == 1
