"""Messages stay as they were sent, in their places, whatever the head does."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from clew.domain.conversation.ids import BranchId
from clew.domain.conversation.messages import (
    AssistantBody,
    Head,
    NewMessage,
    Role,
    Status,
    Thinking,
    ToolBody,
)
from clew.domain.ledger.commits import Append, MoveHead, Note, SessionPatch
from clew.domain.ledger.errors import Refused
from clew.domain.ledger.rows import OpKind, Origin
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, Reopen, everything, refused
from clew.testing.invariants import check, check_all
from clew.testing.ledgers import (
    ANN,
    BOB,
    START_MS,
    add,
    assistant,
    attachment,
    begin,
    do,
    event,
    exchange,
    fork,
    is_what_was_sent,
    move,
    new_session,
    redo,
    run_turn,
    say,
    texts,
    tool_call,
    tool_result,
    undo,
    user,
    work,
)

ODD_TEXTS = {
    "empty": "",
    "NUL": "before\0after",
    "CJK": "我们在东京见面",
    "emoji": "👩\u200d👩\u200d👧 🏳️\u200d🌈 \U0001f600",
    "right to left": "שלום \u202eabc\u202c",
    "combining": "e\u0301 is not é",
    "line ends": "one\r\ntwo\rthree\n\n\u2028four",
    "astral and private": "\U0010ffff\ue000\ufffd\ufeff",
    "SQL": "'; DROP TABLE message; --",
    "JSON": '{"text": "\\u0000", "calls": []}',
    "a megabyte": "wörd " * 200_000,
}


class OpeningContract(LedgerCase):
    """Opening sessions."""

    async def test_a_session_starts_empty_at_version_and_epoch_one(self, ledger: Ledger) -> None:
        """A new session has version 1, epoch 1, an empty path, and one op that created it."""
        handle = await begin(ledger, 1, title="Trip", model="m", cwd="/home/ann", settings='{"a": 1}')
        row = await ledger.session(ANN, handle.session)
        (op,) = await ledger.ops(ANN, handle.session)
        assert row.handle == handle
        assert (handle.version, handle.epoch, handle.head.seq, handle.summary) == (1, 1, 0, None)
        assert (op.kind, op.version, op.from_head, op.to_head) == (OpKind.CREATE, 1, None, handle.head)
        assert (row.owner, row.title, row.model, row.cwd, row.settings) == (
            ANN,
            "Trip",
            "m",
            "/home/ann",
            '{"a": 1}',
        )
        assert (row.created_at, row.last_active_at, row.origin, row.surface) == (
            START_MS,
            START_MS,
            Origin.NEW,
            "terminal",
        )
        assert await ledger.path(ANN, handle.session) == ()
        await check(ledger, ANN, handle.session)

    async def test_an_id_is_opened_once(self, ledger: Ledger) -> None:
        """Opening a session under an id that exists is refused, whoever owns the first."""
        await begin(ledger, 1)
        for owner in (ANN, BOB):
            with pytest.raises(Refused):
                await begin(ledger, 1, owner=owner)

    async def test_a_side_session_starts_empty_and_names_its_parent(self, ledger: Ledger) -> None:
        """A session opened beside another, without a position, shares nothing with it but the name."""
        parent = await say(ledger, await begin(ledger, 1), "hello")
        side = await begin(ledger, 2, parent=parent.session, origin=Origin.SIDE)
        row = await ledger.session(ANN, side.session)
        assert (row.parent, row.origin) == (parent.session, Origin.SIDE)
        assert await texts(ledger, side.session) == []
        assert [child.id for child in await ledger.children(ANN, parent.session)] == [side.session]
        assert [branch.session for branch in await ledger.branches(ANN, side.session)] == [side.session]

    async def test_a_fork_needs_a_parent(self, ledger: Ledger) -> None:
        """A position without the session it belongs to is refused."""
        head = (await say(ledger, await begin(ledger, 1), "hello")).head
        with pytest.raises(Refused):
            await begin(ledger, 2, at=head)

    async def test_everything_is_there_after_reopening(self, ledger: Ledger, reopen: Reopen) -> None:
        """Closing and opening again changes nothing that can be read."""
        handle = await run_turn(ledger, await begin(ledger, 1), "look", tool_text="a file")
        handle = await undo(ledger, await exchange(ledger, handle, "one", "two"))
        await fork(ledger, handle, 2)
        before = await everything(ledger)
        await ledger.close()
        again = await reopen()
        assert await everything(again) == before
        await check_all(again, ANN)


class AppendContract(LedgerCase):
    """Appending messages."""

    async def test_a_message_is_stored_as_it_was_sent(self, ledger: Ledger) -> None:
        """Role, text, step, actor, status and body come back byte for byte; turn and time are the commit's."""
        handle = await begin(ledger, 1)
        image, blob = attachment(b"\x89PNG", "cat.png")
        call = tool_call(handle)
        body = AssistantBody(
            calls=(call,), thinking=(Thinking(text="hm", signature="s", model="m"),), model="m"
        )
        sent = (
            user("look at this", image, original=blob.sha256),
            NewMessage(role=Role.ASSISTANT, text="", step=1, actor="m", status=Status.INTERRUPTED, body=body),
            tool_result(call, "a cat", image),
            replace(
                tool_result(call, ""), status=Status.UNKNOWN, body=ToolBody(call=call.id, name="x", diff="-a")
            ),
            user("faster", step=2, actor="bob"),
            event("make ended with 0"),
        )
        op = Append(messages=sent, turn=7)
        await do(ledger, handle, op=op, blobs=(blob,), at=START_MS + 5)
        stored = await ledger.path(ANN, handle.session)
        assert all(is_what_was_sent(one, two) for one, two in zip(stored, sent, strict=True))
        assert {(message.turn, message.created_at) for message in stored} == {(7, START_MS + 5)}
        assert [message.seq for message in stored] == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("name", ODD_TEXTS)
    async def test_any_unicode_text_survives(self, ledger: Ledger, reopen: Reopen, name: str) -> None:
        """NUL, any script, any length: what was stored is what is read, also after reopening."""
        text = ODD_TEXTS[name]
        handle = await begin(ledger, 1, title=text[:100], settings=f'{{"x": "{len(text)}"}}')
        await say(ledger, handle, text)
        for each in (ledger, await reopen()):
            assert await texts(each, handle.session) == [text]
            assert (await each.session(ANN, handle.session)).title == text[:100]

    async def test_a_lone_surrogate_is_refused(self, ledger: Ledger) -> None:
        """What cannot be written as UTF-8 is refused in words, not lost at the commit."""
        handle = await begin(ledger, 1)
        await refused(ledger, work(handle, op=Append(messages=(user("a\ud800b"),), turn=1)), Refused)

    async def test_an_append_needs_a_message(self, ledger: Ledger) -> None:
        """An append of nothing is refused."""
        handle = await begin(ledger, 1)
        await refused(ledger, work(handle, op=Append(messages=(), turn=1)), Refused)

    async def test_appends_at_a_tip_stay_on_its_branch(self, ledger: Ledger) -> None:
        """Going on from the newest message starts no branch, and the version counts each op."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b", "c")
        (branch,) = await ledger.branches(ANN, handle.session)
        assert (branch.parent, branch.tip, handle.version) == (None, 6, 4)
        assert handle.head == Head(branch.id, 6)

    async def test_an_append_off_the_tip_starts_a_branch(self, ledger: Ledger) -> None:
        """What comes after an undo stands beside what was undone, and both stay readable."""
        before = await exchange(ledger, await begin(ledger, 1), "a", "b")
        handle = await exchange(ledger, await undo(ledger, before), "c")
        assert await texts(ledger, handle.session) == ["a", "re a", "c", "re c"]
        assert await texts(ledger, handle.session, at=before.head) == ["a", "re a", "b", "re b"]
        first, second = await ledger.branches(ANN, handle.session)
        assert (second.parent, first.tip, second.tip) == (Head(first.id, 2), 4, 4)
        undone = await ledger.segment(ANN, handle.session, first.id)
        assert [message.text for message in undone] == ["a", "re a", "b", "re b"]
        await check(ledger, ANN, handle.session)

    async def test_an_attachment_must_be_stored(self, ledger: Ledger) -> None:
        """A message that names bytes nobody has is refused; bytes that came earlier, or with it, are enough."""
        handle = await begin(ledger, 1)
        image, blob = attachment(b"pixels")
        lost, _ = attachment(b"lost")
        op = Append(messages=(user("both", image, lost),), turn=1)
        await refused(ledger, work(handle, op=op, blobs=(blob,)), Refused)
        handle = await add(ledger, handle, user("now", image), blobs=(blob,))
        handle = await add(ledger, handle, user("again", image))
        assert (await ledger.blob(ANN, handle.session, blob.sha256)).bytes == b"pixels"

    async def test_original_bytes_must_be_stored_too(self, ledger: Ledger) -> None:
        """A text that had to be cleaned keeps the bytes it came as, or is refused."""
        handle = await begin(ledger, 1)
        _, blob = attachment(b"\xff\xfe")
        message = user("\ufffd\ufffd", original=blob.sha256)
        await refused(ledger, work(handle, op=Append(messages=(message,), turn=1)), Refused)
        handle = await add(ledger, handle, message, blobs=(blob,))
        assert (await ledger.blob(ANN, handle.session, blob.sha256)).bytes == b"\xff\xfe"

    async def test_a_refused_commit_leaves_nothing(self, ledger: Ledger) -> None:
        """When the last row of a commit cannot be, none of the others is there either."""
        handle = await exchange(ledger, await begin(ledger, 1), "a")
        image, blob = attachment(b"gone")
        op = Append(messages=(user("lost", image),), turn=9)
        patch = SessionPatch(title="lost")
        fork_at_nowhere = new_session(2, parent=handle.session, at=Head(handle.head.branch, 99))
        bad = work(handle, op=op, blobs=(blob,), patch=patch, cut=True, opens=fork_at_nowhere)
        await refused(ledger, bad, Refused)
        await refused(ledger, work(handle, op=replace(op, messages=(user("x", image),))), Refused)
        again = await exchange(ledger, handle, "b")
        assert (again.version, again.epoch) == (3, 1)


class MovingContract(LedgerCase):
    """Undo, redo and other moves of the head."""

    async def test_undo_and_redo_lead_back(self, ledger: Ledger) -> None:
        """Two undos and two redos end where they began; nothing was copied."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b", "c")
        before = await ledger.path(ANN, handle.session)
        back = await undo(ledger, await undo(ledger, handle))
        assert await texts(ledger, handle.session) == ["a", "re a"]
        again = await redo(ledger, await redo(ledger, back))
        assert again.head == handle.head
        assert await ledger.path(ANN, handle.session) == before
        assert len(await ledger.branches(ANN, handle.session)) == 1
        await check(ledger, ANN, handle.session)

    async def test_undoing_the_first_turn_leaves_nothing(self, ledger: Ledger) -> None:
        """The head then stands at 0; what is said next starts there, and redo still knows the way."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b")
        back = await undo(ledger, handle, 2)
        assert (back.head.seq, await texts(ledger, handle.session)) == (0, [])
        again = await redo(ledger, back)
        assert again.head == handle.head
        other = await say(ledger, await undo(ledger, again, 2), "c")
        assert await texts(ledger, other.session) == ["c"]
        await check(ledger, ANN, other.session)

    async def test_ops_say_who_when_from_and_to(self, ledger: Ledger) -> None:
        """Each op names its kind, both heads, its actor, its time and its key."""
        start = await begin(ledger, 1)
        said = await do(
            ledger, start, op=Append(messages=(user("a"),), turn=1), at=START_MS + 9, idempotency_key="k"
        )
        await undo(ledger, said)
        undone, append, create = await ledger.ops(ANN, start.session)
        assert (undone.kind, undone.from_head, undone.to_head) == (OpKind.UNDO, said.head, start.head)
        assert (append.kind, append.at, append.actor, append.idempotency_key) == (
            OpKind.APPEND,
            START_MS + 9,
            ANN,
            "k",
        )
        assert (create.version, append.version, undone.version) == (1, 2, 3)

    async def test_ops_page_by_version(self, ledger: Ledger) -> None:
        """`below` and `limit` walk through all ops once; `moving_only` leaves out those that left the head alone."""
        handle = await say(ledger, await begin(ledger, 1), "a", "b")
        handle = await do(ledger, handle, op=Note(kind=OpKind.TITLE), patch=SessionPatch(title="t"))
        handle = await undo(ledger, handle)
        session = handle.session
        assert [op.version for op in await ledger.ops(ANN, session, limit=2)] == [5, 4]
        assert [op.version for op in await ledger.ops(ANN, session, below=4, limit=2)] == [3, 2]
        assert [op.version for op in await ledger.ops(ANN, session, moving_only=True)][:3] == [5, 3, 2]
        assert await ledger.ops(ANN, session, below=1) == ()

    @pytest.mark.parametrize("kind", [OpKind.UNDO, OpKind.REDO, OpKind.RETRY, OpKind.RESUME, OpKind.IMPORT])
    async def test_a_head_moves_to_any_message_of_its_tree(self, ledger: Ledger, kind: OpKind) -> None:
        """Also to one that was undone, and to the very start."""
        first = await exchange(ledger, await begin(ledger, 1), "a", "b")
        handle = await exchange(ledger, await undo(ledger, first), "c")
        for to in (first.head, Head(first.head.branch, 3), Head(first.head.branch, 0), handle.head):
            handle = await move(ledger, handle, kind, to)
            assert handle.head == to
            assert len(await ledger.path(ANN, handle.session)) == to.seq
        await check(ledger, ANN, handle.session)

    @pytest.mark.parametrize(
        "kind", sorted(set(OpKind) - {OpKind.UNDO, OpKind.REDO, OpKind.RETRY, OpKind.RESUME, OpKind.IMPORT})
    )
    async def test_no_other_kind_of_op_moves_a_head(self, ledger: Ledger, kind: OpKind) -> None:
        """A note, a title or a compaction that would move the head is refused."""
        handle = await exchange(ledger, await begin(ledger, 1), "a")
        to = Head(handle.head.branch, 1)
        await refused(ledger, work(handle, op=MoveHead(kind=kind, to=to)), Refused)

    async def test_a_head_stays_in_its_tree(self, ledger: Ledger) -> None:
        """Beyond a tip, before the start, on an unknown branch or another session's: refused."""
        other = await exchange(ledger, await begin(ledger, 2), "theirs")
        handle = await exchange(ledger, await begin(ledger, 1), "a")
        branch = handle.head.branch
        for to in (
            Head(branch, 3),
            Head(branch, -1),
            Head(BranchId(10**6), 1),
            other.head,
            Head(other.head.branch, 0),
        ):
            await refused(ledger, work(handle, op=MoveHead(kind=OpKind.RESUME, to=to)), Refused)
            with pytest.raises(Refused):
                await ledger.path(ANN, handle.session, to)
            with pytest.raises(Refused):
                await ledger.before(ANN, handle.session, to)

    async def test_a_head_is_named_by_the_branch_that_owns_it(self, ledger: Ledger) -> None:
        """A position below a branch's start belongs to the branch it grew from."""
        first = await exchange(ledger, await begin(ledger, 1), "a", "b")
        handle = await exchange(ledger, await undo(ledger, first), "c")
        handle = await move(ledger, handle, OpKind.RESUME, Head(handle.head.branch, 2))
        assert handle.head == Head(first.head.branch, 2)
        handle = await move(ledger, handle, OpKind.RESUME, Head(first.head.branch, 0))
        assert handle.head == Head(first.head.branch, 0)
        await check(ledger, ANN, handle.session)

    async def test_before_is_the_position_before(self, ledger: Ledger) -> None:
        """Across the start of a branch it is on the parent; before the start there is only the start."""
        first = await exchange(ledger, await begin(ledger, 1), "a", "b")
        handle = await say(ledger, await undo(ledger, first), "c")
        session, root = handle.session, first.head.branch
        assert await ledger.before(ANN, session, handle.head) == Head(root, 2)
        assert await ledger.before(ANN, session, Head(root, 1)) == Head(root, 0)
        assert await ledger.before(ANN, session, Head(root, 0)) == Head(root, 0)

    async def test_turn_starts_are_what_people_sent_to_start_turns(self, ledger: Ledger) -> None:
        """Events and steers are passed over; newest first, no more than asked for, at any position of the tree."""
        handle = await add(ledger, await begin(ledger, 1), user("a"), user("steer", step=1), assistant("x"))
        first = await add(ledger, handle, event("bang"), user("b"), assistant("y"))
        handle = await exchange(ledger, await undo(ledger, first), "c")
        session = handle.session
        assert [m.text for m in await ledger.turn_starts(ANN, session, 5)] == ["c", "a"]
        assert [m.text for m in await ledger.turn_starts(ANN, session, 1)] == ["c"]
        assert [m.text for m in await ledger.turn_starts(ANN, session, 5, first.head)] == ["b", "a"]

    async def test_a_path_can_be_read_from_a_position_on(self, ledger: Ledger) -> None:
        """`above` leaves out the first so many messages, on whatever branches they are."""
        first = await exchange(ledger, await begin(ledger, 1), "a", "b")
        handle = await exchange(ledger, await undo(ledger, first), "c", "d")
        whole = await ledger.path(ANN, handle.session)
        for above in range(len(whole) + 2):
            assert await ledger.path(ANN, handle.session, above=above) == whole[above:]
        assert (
            await ledger.path(ANN, handle.session, first.head, above=3)
            == (await ledger.path(ANN, handle.session, first.head))[3:]
        )
