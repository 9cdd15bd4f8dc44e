"""An import is all or nothing, and says in one sentence why it was nothing."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.commits import Commit, Committed, NewBlob, Note, SessionPatch
from clew.domain.ledger.errors import Refused, StoreUnusable
from clew.domain.ledger.rows import BranchRow, Forgotten, Handle, OpKind, SessionRow, SummaryRow
from clew.runtime.archive.errors import ImportFailed
from clew.runtime.archive.importing import import_jsonl
from clew.runtime.archive.jsonl import export_jsonl
from clew.testing.histories import history_of
from clew.testing.invariants import check
from clew.testing.ledgers import (
    ANN,
    BOB,
    EVE,
    START_MS,
    add,
    assistant,
    attachment,
    begin,
    compact,
    do,
    exchange,
    fork,
    run_turn,
    say,
    session_id,
    sha256,
    texts,
    undo,
    user,
)
from tests.unit.archive.streams import (
    LATER_MS,
    all_sessions,
    exported,
    imported,
    known_to_all,
    new_ids,
    stream,
)
from tests.unit.sqlite.homes import opened

pytestmark = pytest.mark.anyio
Fields = dict[str, Any]
unused_id = new_ids(20_000)
"""An id is used up by a session that was forgotten again."""


@pytest.fixture
async def ledger() -> MemoryLedger:
    """Where things are imported to: nothing is in it."""
    return await known_to_all(MemoryLedger())


@pytest.fixture
async def lines() -> list[bytes]:
    """An export with two branches, an attachment and a summary; line 5 is the attachment, 6 the first message."""
    source = await known_to_all(MemoryLedger())
    handle = await begin(source, title="The skein")
    reference, blob = attachment(b"\x89PNG", "a.png")
    handle = await add(source, handle, user("Look.", reference), assistant("I see."), blobs=(blob,))
    handle = await exchange(source, handle, "More")
    handle = await compact(source, handle, 2)
    handle = await undo(source, handle)
    handle = await exchange(source, handle, "Otherwise")
    return await exported(source, handle.session)


def changed(line: bytes, **fields: object) -> bytes:
    found: Fields = msgspec.json.decode(line)
    assert fields.keys() <= found.keys()
    return msgspec.json.encode(found | fields) + b"\n"


async def fails(ledger: MemoryLedger, chunks: list[bytes]) -> str:
    """Imports, and returns the one sentence it fails with; the ledger holds what it held."""
    before = await all_sessions(ledger)
    with pytest.raises(ImportFailed) as caught:
        await import_jsonl(ledger, ANN, stream(chunks), new_id=unused_id, at=LATER_MS)
    assert await all_sessions(ledger) == before
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


class Unordered(MemoryLedger):
    """A store that keeps its promises and takes commits in whatever order it likes."""

    def __init__(self, disk: Disk | None = None) -> None:
        super().__init__(disk)
        self.commits = 0

    async def commit(self, work: Commit) -> Committed:
        self.commits += 1
        for _ in range(self.commits * 7 % 5):
            await asyncio.sleep(0)
        return await super().commit(work)


class Stubborn(MemoryLedger):
    """A store that does what it was asked even when nobody waits for it any more, as a writing thread does."""

    async def commit(self, work: Commit) -> Committed:
        return await asyncio.shield(asyncio.ensure_future(super().commit(work)))


class Lively(MemoryLedger):
    """A store in which talk and summaries go on between any two reads of a session."""

    at_rest = False

    async def session(self, principal: PrincipalId, session: SessionId) -> SessionRow:
        row = await super().session(principal, session)
        await self._go_on(session)
        return row

    async def summaries(self, principal: PrincipalId, session: SessionId) -> tuple[SummaryRow, ...]:
        rows = await super().summaries(principal, session)
        await self._go_on(session)
        return rows

    async def branches(self, principal: PrincipalId, session: SessionId) -> tuple[BranchRow, ...]:
        rows = await super().branches(principal, session)
        await self._go_on(session)
        return rows

    async def _go_on(self, session: SessionId) -> None:
        if not self.at_rest:
            handle = await exchange(self, (await super().session(ANN, session)).handle, "more")
            await compact(self, handle, handle.head.seq)


# -- what comes in -------------------------------------------------------------------------------------------------
async def test_the_lines_are_what_they_are_called(lines: list[bytes]) -> None:
    """The tests below change lines by their number."""
    kinds = [msgspec.json.decode(line)["type"] for line in lines]
    assert kinds == ["export", "session", "branch", "branch", "blob", *["message"] * 6, "summary", "end"]


async def test_a_stream_may_be_cut_anywhere(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """Chunks need not be lines; a byte order mark, other line ends and empty lines do no harm."""
    whole = b"\xef\xbb\xbf" + b"\n".join(lines).replace(b"\n", b"\r\n").rstrip()
    row = await imported(ledger, [whole[at : at + 7] for at in range(0, len(whole), 7)])
    assert await texts(ledger, row.id) == ["Look.", "I see.", "Otherwise", "re Otherwise"]


async def test_times_are_kept(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """A session is as old as it was, its messages too; it was last active when it came, so retention spares it."""
    row = await imported(ledger, lines)
    assert (row.created_at, row.last_active_at) == (START_MS, LATER_MS)
    straight = await exported(ledger, (await exchange(ledger, await begin(ledger, 2), "Straight on")).session)
    assert (await imported(ledger, straight, unused_id)).last_active_at == LATER_MS
    path = await ledger.path(ANN, row.id)
    assert [message.created_at for message in path] == [
        msgspec.json.decode(line)["created_at"] for line in [*lines[5:7], *lines[9:11]]
    ]


async def test_two_sessions_in_one_stream(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """Both are imported, in order; progress counts the messages of both."""
    told: list[int] = []
    rows = await import_jsonl(
        ledger, ANN, stream([*lines, *lines]), new_id=new_ids(), at=LATER_MS, progress=told.append
    )
    assert len(rows) == 2
    histories = [await history_of(ledger, ANN, row.id) for row in rows]
    assert histories[0] == histories[1]
    assert told == sorted(told)
    assert told[-1] == 12


async def test_an_export_can_be_imported_again_and_again(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """Each copy is a session of its own, with a title of its own."""
    new_id = new_ids()
    rows = [await imported(ledger, lines, new_id) for _ in range(3)]
    assert len({row.id for row in rows}) == 3
    assert [row.title for row in rows] == ["The skein", "The skein (imported)", "The skein (imported 2)"]
    assert [await ledger.resolve(ANN, row.title or "") for row in rows] == [row.id for row in rows]


async def test_the_talk_goes_on_under_new_turns(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """The newest turn is known, also when it was undone: no later turn gets the number of an earlier one."""
    lines[7], lines[8] = changed(lines[7], turn=40), changed(lines[8], turn=40)
    row = await imported(ledger, lines)
    newest = await ledger.turn(ANN, row.id)
    assert newest is not None
    assert newest.turn == 40
    await run_turn(ledger, row.handle, "And now?")
    await check(ledger, ANN, row.id)


async def test_it_belongs_to_who_imported_it(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """Whatever the file says of owners."""
    (row,) = await import_jsonl(ledger, BOB, stream(lines), new_id=new_ids(), at=LATER_MS)
    assert row.owner == BOB
    assert await all_sessions(ledger) == []


async def test_nothing_is_in_a_list_before_all_is_whole(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """So what a power cut leaves behind is nobody's last conversation, and nobody talks in what may be forgotten."""
    seen: list[int] = []

    async def watched() -> AsyncIterator[bytes]:
        for line in [*lines, *lines]:
            seen.append(len(await ledger.sessions(ANN)))
            yield line

    await import_jsonl(ledger, ANN, watched(), new_id=new_ids(), at=LATER_MS)
    assert seen == [0] * 2 * len(lines)
    assert len(await ledger.sessions(ANN)) == 2


async def test_a_long_conversation_in_files(tmp_path: Path) -> None:
    """Thousands of messages go through in a moment, and progress is told all along."""
    source = await known_to_all(MemoryLedger())
    short = await exported(source, (await exchange(source, await begin(source), "Hello")).session)
    template = short[3]
    count = 2000
    body = [changed(template, seq=n, turn=n, created_at=START_MS + n) for n in range(1, count + 1)]
    end = changed(short[-1], head=[1, count], messages=count)
    told: list[int] = []
    async with opened(tmp_path) as ledger:
        (row,) = await import_jsonl(
            ledger,
            ANN,
            stream([*short[:3], *body, end]),
            new_id=new_ids(),
            at=LATER_MS,
            progress=told.append,
        )
        path = await ledger.path(ANN, row.id)
        assert [message.turn for message in path] == list(range(1, count + 1))
        assert set(told) == set(range(count + 1))
        lines = await exported(ledger, row.id)
        assert lines[3:] == [*body, end]


# -- what does not -------------------------------------------------------------------------------------------------
async def test_half_a_file(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """Wherever it was cut: at a line's end or within a line."""
    for kept in range(1, len(lines)):
        assert "cut off" in await fails(ledger, lines[:kept])
        assert "cut off" in await fails(ledger, [*lines[:kept], lines[kept][:-9]])
    assert "is empty" in await fails(ledger, [])
    assert "is empty" in await fails(ledger, [b"\n \n"])


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"garbage", "not JSON"),
        (b'{"type":"message"}', "missing required field"),
        (b'{"type":"secret"}', "Invalid value 'secret'"),
        (b"[]", "got `array`"),
        (b'{"type":"message","text":"\xff"}', "not JSON"),
        (b'{"type":"branch","branch":3,"parent":null,"mood":1}', "unknown field `mood`"),
        (b'{"type":"branch","branch":99999999999999999999,"parent":null}', "branch"),
    ],
)
async def test_a_line_that_is_none(ledger: MemoryLedger, lines: list[bytes], raw: bytes, reason: str) -> None:
    """The sentence names the line."""
    for at in range(1, len(lines)):
        sentence = await fails(ledger, [*lines[:at], raw + b"\n", *lines[at:]])
        assert sentence.startswith(f"Line {at + 1}: ")
        assert reason in sentence


async def test_something_else_altogether(ledger: MemoryLedger) -> None:
    """A file of another program is told from a damaged one."""
    for first in (b"PK\x03\x04", b'{"type":"session","version":3}', b"# Title"):
        assert "not an export of Clew" in await fails(ledger, [first, b"\n"])


async def test_a_newer_format(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """Whatever else a newer version changes, what is said is: update."""
    for first in (changed(lines[0], version=2), b'{"type":"export","version":7,"shape":[["new"]]}\n'):
        assert "update Clew" in await fails(ledger, [first, *lines[1:]])


BROKEN: list[tuple[int, Fields, str]] = [
    (3, {"parent": None}, "branch 2 starts nowhere"),
    (3, {"parent": [2, 2]}, "branch 2 starts nowhere"),
    (3, {"parent": [1, 9]}, "message 10 of branch 2 is missing"),
    (3, {"branch": 4}, "branch 2 is missing"),
    (5, {"branch": 3}, "no branch 3"),
    (5, {"seq": 2}, "message 1 of branch 1 is missing"),
    (6, {"seq": 1}, "message 2 of branch 1 is missing"),
    (5, {"body": {"t": "event", "kind": "x"}}, "the body of another role"),
    (4, {"data": "AAAA"}, "is damaged"),
    (4, {"sha256": "0" * 64}, "is damaged"),
    (11, {"upto": [1, 7]}, "no message 7 on branch 1"),
    (11, {"previous": 1}, "follows one that is not there"),
    (11, {"summary": 2}, "summary 1 is missing"),
    (12, {"head": [2, 5]}, "no message 5 on branch 2"),
    (12, {"head": [1, 1]}, "does not stand on the head's path"),
    (12, {"summary": 2}, "the summary in force is not there"),
    (12, {"messages": 7}, "7 messages were written and 6 are here"),
]


@pytest.mark.parametrize(("at", "fields", "reason"), BROKEN)
async def test_a_line_that_does_not_fit(
    ledger: MemoryLedger, lines: list[bytes], at: int, fields: Fields, reason: str
) -> None:
    """A history that contradicts itself is refused where it does."""
    assert reason in await fails(ledger, [*lines[:at], changed(lines[at], **fields), *lines[at + 1 :]])


async def test_a_branch_that_starts_at_nothing(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """Its messages would follow one that is not there."""
    lines[3] = changed(lines[3], parent=[1, 8])
    lines[9] = changed(lines[9], seq=9)
    assert (await fails(ledger, lines)) == "Line 10: there is no message 8 on branch 1."


async def test_summaries_that_contradict_each_other(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """A summary reaches at least as far as the one it follows from, on the same path."""
    second = changed(lines[11], summary=2, previous=1, upto=[1, 1])
    assert "does not follow" in await fails(ledger, [*lines[:12], second, lines[12]])
    elsewhere = (
        changed(lines[11], summary=1, upto=[1, 4]),
        changed(lines[11], summary=2, previous=1, upto=[2, 4]),
    )
    assert "does not follow" in await fails(ledger, [*lines[:11], *elsewhere, lines[12]])


async def test_lines_in_another_order(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """Everything has its place."""
    assert "after the messages began" in await fails(ledger, [*lines[:6], lines[3], *lines[6:]])
    assert "after the summaries" in await fails(ledger, [*lines[:10], lines[11], lines[10], lines[12]])
    assert "belongs to no message" in await fails(ledger, [*lines[:7], lines[4], *lines[7:]])
    assert "belongs to no message" in await fails(ledger, [*lines[:12], lines[4], lines[12]])
    assert "before the one before it ended" in await fails(ledger, [*lines[:6], *lines])
    assert "no session has started" in await fails(ledger, [*lines, lines[5]])


async def test_one_bad_session_of_two(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """Neither stays: whoever imports the mended file has no copy."""
    assert (await fails(ledger, [*lines, *lines[:8], b"?\n"])).startswith("Line 22: ")


async def test_a_hash_gives_no_right_to_read(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """An attachment that the file only names is refused, also when somebody else's is in the ledger."""
    reference, blob = attachment(base64.b64decode(msgspec.json.decode(lines[4])["data"]))
    handle = await begin(ledger, owner=EVE)
    await add(ledger, handle, user("Mine.", reference), blobs=(blob,), actor=EVE)
    assert "is not in the file" in await fails(ledger, [*lines[:4], *lines[5:]])


async def test_an_id_that_is_taken(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """A failed import forgets what it began, and nothing else."""
    handle = await say(ledger, await begin(ledger, 3), "Here before.")
    with pytest.raises(ImportFailed, match="already a session"):
        await import_jsonl(ledger, ANN, stream(lines), new_id=lambda: session_id(3), at=LATER_MS)
    assert await texts(ledger, handle.session) == ["Here before."]


async def test_an_import_that_is_cancelled(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """It leaves nothing behind either."""
    reached = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for line in lines[:8]:
            yield line
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(import_jsonl(ledger, ANN, endless(), new_id=new_ids(), at=LATER_MS))
    await reached.wait()
    assert len(await all_sessions(ledger)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await all_sessions(ledger) == []


@pytest.mark.parametrize("store", [MemoryLedger, Unordered, Stubborn])
async def test_an_import_that_is_cancelled_anywhere(lines: list[bytes], store: type[MemoryLedger]) -> None:
    """At whatever step: what was handed to the ledger is waited for, so nothing comes to life afterwards."""
    cancelled, others = 0, asyncio.all_tasks()
    for steps in range(150):
        ledger = await known_to_all(store())
        task = asyncio.create_task(import_jsonl(ledger, ANN, stream(lines), new_id=new_ids(), at=LATER_MS))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        cancelled += task.cancelled()
        assert len(await all_sessions(ledger)) == (0 if task.cancelled() else 1)
        assert asyncio.all_tasks() <= others
    assert 20 < cancelled < 150


async def test_somebody_else_writes_meanwhile(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """A history that another hand reached into is not the one of the file; but what was said there is not forgotten."""

    async def disturbed() -> AsyncIterator[bytes]:
        for line in lines[:8]:
            yield line
        for _ in range(9):
            await asyncio.sleep(0)  # what was handed in is done
        (row,) = await ledger.sessions(ANN, archived=True)
        await say(ledger, row.handle, "Me too!")
        for line in lines[8:]:
            yield line

    with pytest.raises(ImportFailed, match="changed meanwhile") as caught:
        await import_jsonl(ledger, ANN, disturbed(), new_id=new_ids(), at=LATER_MS)
    (left,) = await all_sessions(ledger)
    assert str(caught.value).startswith(f"Somebody wrote to session {left} while it was being imported")
    assert "Me too!" in await texts(ledger, left)


async def test_a_store_that_takes_commits_in_another_order(lines: list[bytes]) -> None:
    """What was handed in too early is done again in its turn."""
    ledger = await known_to_all(Unordered())
    body = [changed(lines[6], seq=n, turn=n, created_at=START_MS + n) for n in range(1, 301)]
    end = changed(lines[-1], head=[1, 300], messages=300, summary=None)
    row = await imported(ledger, [*lines[:3], *body, end])
    assert [message.turn for message in await ledger.path(ANN, row.id)] == list(range(1, 301))
    assert isinstance(ledger, Unordered)
    assert ledger.commits > 310  # some had to be done twice, or this tests nothing
    await check(ledger, ANN, row.id)


class Unforgetting(MemoryLedger):
    """A store whose file fails when something is to be removed."""

    async def forget(
        self, principal: PrincipalId, session: SessionId, at: int, *, with_forks: bool = False
    ) -> Forgotten:
        raise StoreUnusable("The disk is full.")


async def test_what_cannot_be_removed_is_named(lines: list[bytes]) -> None:
    """A person can then delete it."""
    ledger = await known_to_all(Unforgetting())
    with pytest.raises(ImportFailed, match=r"could not be removed: The disk is full\.") as caught:
        await imported(ledger, lines[:8])
    (left,) = await all_sessions(ledger)
    assert left in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_is_found_or_harmless(data: st.DataObject) -> None:
    """Lines lost, doubled, swapped, bytes changed: a sound session comes out, or a sentence and nothing."""
    asyncio.run(_damaged(data))


async def _damaged(data: st.DataObject) -> None:
    source = await known_to_all(MemoryLedger())
    handle = await exchange(source, await begin(source), "a", "b", "c")
    handle = await undo(source, await compact(source, handle, 2))
    handle = await exchange(source, handle, "d")
    lines = await exported(source, handle.session)
    at = data.draw(st.integers(0, len(lines) - 1))
    match data.draw(st.sampled_from(["lose", "double", "swap", "byte"])):
        case "lose":
            del lines[at]
        case "double":
            lines.insert(at, lines[at])
        case "swap":
            lines[at - 1], lines[at] = lines[at], lines[at - 1]
        case _:
            place = data.draw(st.integers(0, len(lines[at]) - 1))
            byte = bytes([data.draw(st.integers(0, 255))])
            lines[at] = lines[at][:place] + byte + lines[at][place + 1 :]
    ledger = await known_to_all(MemoryLedger())
    try:
        row = await imported(ledger, lines)
    except ImportFailed as failed:
        sentence = str(failed)
    else:
        await check(ledger, ANN, row.id)
        return
    assert await all_sessions(ledger) == []
    assert re.fullmatch(r"[^\n]+\.", sentence)


# -- what goes out -------------------------------------------------------------------------------------------------
async def test_an_export_holds_no_secrets(ledger: MemoryLedger) -> None:
    """Not what was allowed, by whom it is held, or what the model was told beforehand."""
    handle = await run_turn(ledger, await begin(ledger), "Read it.", tool_text="Read.")
    patch = SessionPatch(settings='{"allow":["rm_all"]}')
    handle = await do(ledger, handle, op=Note(kind=OpKind.SETTINGS), patch=patch, claim="the-process")
    whole = b"".join(await exported(ledger, handle.session))
    assert b"Read." in whole
    for secret in (b"rm_all", b"the-process", b"allow", b"approval", b"lease", b"settings", b"epoch"):
        assert secret not in whole


async def test_an_export_is_of_one_moment(ledger: MemoryLedger) -> None:
    """What is said while it is written is not in it, and what is in it fits together."""
    handle = await exchange(ledger, await begin(ledger), "a", "b")
    lines: list[bytes] = []
    async for line in export_jsonl(ledger, ANN, handle.session):
        handle = await _goes_on(ledger, handle)
        lines.append(line)
    copy = await imported(await known_to_all(MemoryLedger()), lines)
    assert copy.handle.head.seq == 4
    assert sum(b'"type":"message"' in line for line in lines) == 4


async def _goes_on(ledger: MemoryLedger, handle: Handle) -> Handle:
    return await undo(ledger, handle) if handle.version % 3 == 0 else await exchange(ledger, handle, "more")


async def test_an_export_of_one_moment_fits_together() -> None:
    """No summary in it stands for messages that came later."""
    source = Lively()
    source.at_rest = True
    await known_to_all(source)
    handle = await exchange(source, await begin(source), "a")
    source.at_rest = False
    lines = await exported(source, handle.session)
    row = await imported(await known_to_all(MemoryLedger()), lines)
    assert row.handle.head.seq == 2


async def test_an_attachment_is_written_once(ledger: MemoryLedger) -> None:
    """However many messages name it; and the bytes of a message that was no text come along."""
    reference, blob = attachment(b"seen twice", "a.png")
    broken = NewBlob(sha256=sha256(b"caf\xe9"), media_type="application/octet-stream", bytes=b"caf\xe9")
    messages = user("a", reference), user("b", reference), user("caf\ufffd", original=broken.sha256)
    handle = await add(ledger, await begin(ledger), *messages, blobs=(blob, broken))
    lines = await exported(ledger, handle.session)
    assert [line.startswith(b'{"type":"blob"') for line in lines].count(True) == 2
    target = await known_to_all(MemoryLedger())
    copy = await imported(target, lines)
    assert await history_of(target, ANN, copy.id) == await history_of(ledger, ANN, handle.session)


async def test_the_same_session_gives_the_same_bytes(ledger: MemoryLedger, lines: list[bytes]) -> None:
    """And so does a copy of it, but for what makes it another session."""
    row = await imported(ledger, lines)
    again = await exported(ledger, row.id)
    assert again == await exported(ledger, row.id)
    assert again[:1] + again[2:] == lines[:1] + lines[2:]


async def test_a_fork_is_exported_with_all_it_stands_on(ledger: MemoryLedger) -> None:
    """And without what its parent said afterwards."""
    parent = await exchange(ledger, await begin(ledger, 1), "a", "b")
    child = await exchange(ledger, await fork(ledger, parent, 2), "in the fork")
    await exchange(ledger, parent, "in the parent")
    row = await imported(ledger, await exported(ledger, child.session))
    assert await texts(ledger, row.id) == ["a", "re a", "b", "re b", "in the fork", "re in the fork"]
    assert len(await ledger.branches(ANN, row.id)) == 1
    assert row.parent is None


async def test_a_temporary_session_is_not_exported(ledger: MemoryLedger) -> None:
    """Its words are kept nowhere."""
    handle = await begin(ledger, temporary=True)
    with pytest.raises(Refused, match="temporary"):
        await exported(ledger, handle.session)
