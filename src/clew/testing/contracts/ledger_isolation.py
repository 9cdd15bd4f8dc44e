"""Nobody sees what is not theirs: two owners, one who shares, and a stranger to whom nothing is ever shown."""

from __future__ import annotations

import pytest

from clew.domain.conversation.ids import ApprovalId, BranchId, PrincipalId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import (
    Append,
    AskApproval,
    Compact,
    ConsumeApproval,
    MoveHead,
    PointConversation,
    SessionPatch,
)
from clew.domain.ledger.errors import HeadMoved, NotFound, Refused
from clew.domain.ledger.rows import ApprovalState, Handle, OpKind, Order
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, everything, refused
from clew.testing.invariants import check_all, check_hidden, reads_of
from clew.testing.ledgers import (
    ANN,
    BOB,
    CLEO,
    EVE,
    START_MS,
    add,
    as_holder,
    ask_tool,
    attachment,
    begin,
    compact,
    do,
    exchange,
    fork,
    found,
    new_session,
    open_turn,
    place,
    place_of,
    receive,
    say,
    session_id,
    texts,
    tool_call,
    user,
    work,
)

SECRET = "rosebud"


class IsolationContract(LedgerCase):
    """Every read and write applies the principal before anything else."""

    async def test_a_stranger_reads_nothing(self, ledger: Ledger) -> None:
        """No read that names a session answers; no list, name, count, search or price hints at one."""
        await anns_session(ledger)
        await begin(ledger, 2, owner=BOB, title="Bob's")
        for stranger in (EVE, BOB):
            await check_hidden(ledger, stranger, session_id(1))
        assert await ledger.sessions(EVE) == ()
        assert [row.id for row in await ledger.sessions(BOB)] == [session_id(2)]
        assert (await ledger.usage(EVE)).calls == 0

    @pytest.mark.parametrize("reference", [session_id(1)[:3], session_id(1), f"The {SECRET} file"])
    async def test_a_stranger_resolves_nothing(self, ledger: Ledger, reference: str) -> None:
        """Neither by id, nor by its beginning, nor by title; the answer is that for what never was."""
        await anns_session(ledger)
        assert await ledger.resolve(ANN, reference) == session_id(1)
        with pytest.raises(NotFound) as caught:
            await ledger.resolve(EVE, reference)
        assert type(caught.value) is NotFound

    async def test_others_make_no_name_ambiguous(self, ledger: Ledger) -> None:
        """A title that another owner uses too is one title to each."""
        for number, owner in ((1, ANN), (2, BOB)):
            await begin(ledger, number, owner=owner, title="Groceries")
        assert await ledger.resolve(ANN, "groceries") == session_id(1)
        assert await ledger.resolve(BOB, "groceries") == session_id(2)

    @pytest.mark.parametrize("order", list(Order))
    async def test_a_stranger_finds_nothing(self, ledger: Ledger, order: Order) -> None:
        """Not by words, prefixes or what is not there; not in all sessions, nor in one by its id."""
        await anns_session(ledger)
        assert await found(ledger, SECRET, order=order)
        for typed in (SECRET, f"{SECRET[:4]}*", f'"{SECRET}"', "the -nothing"):
            result = await ledger.search(EVE, typed, order=order)
            assert result.hits == ()
        with pytest.raises(NotFound):
            await ledger.search(EVE, SECRET, order=order, session=session_id(1))

    @pytest.mark.parametrize("order", list(Order))
    async def test_others_hits_take_no_place(self, ledger: Ledger, order: Order) -> None:
        """A limit counts one's own: a hundred newer and better hits of another push none of them out."""
        mine = await say(ledger, await begin(ledger, 1), "one word among many others: kiwi")
        theirs = await begin(ledger, 2, owner=BOB)
        crowd = tuple(user("kiwi kiwi kiwi", actor=BOB) for _ in range(100))
        await do(ledger, theirs, actor=BOB, op=Append(messages=crowd, turn=1))
        assert await found(ledger, "kiwi", order=order, limit=1) == [(mine.session, 1)]

    async def test_others_sessions_take_no_place(self, ledger: Ledger) -> None:
        """A list of one is one's own newest, however many newer ones others have."""
        await begin(ledger, 1)
        for number in range(2, 12):
            await begin(ledger, number, owner=BOB, when=START_MS + number)
        assert [row.id for row in await ledger.sessions(ANN, limit=1)] == [session_id(1)]

    async def test_a_stranger_writes_nothing(self, ledger: Ledger) -> None:
        """Whatever is written to a foreign session, it is not found, even with a true handle and key."""
        handle = await anns_session(ledger)
        image, blob = attachment(b"eve's")
        writes = (
            {"op": Append(messages=(user("x", image),), turn=1), "blobs": (blob,)},
            {"op": MoveHead(kind=OpKind.UNDO, to=Head(handle.head.branch, 0)), "cut": True},
            {"op": Compact(upto=handle.head, text="x"), "idempotency_key": "known"},
            {"patch": SessionPatch(title="x")},
            {"cancel_queued": True, "cut": True},
        )
        for stranger in (EVE, BOB):
            for rest in writes:
                await refused(ledger, work(handle, actor=stranger, **rest), NotFound)
        with pytest.raises(NotFound):
            await ledger.share(EVE, handle.session, EVE, "read")
        with pytest.raises(NotFound):
            await ledger.forget(EVE, handle.session, START_MS)

    async def test_a_reader_reads_and_writes_nothing(self, ledger: Ledger) -> None:
        """Shared to read: path, search and blobs are there; every change is not found."""
        handle = await anns_session(ledger)
        await ledger.share(ANN, handle.session, BOB, "read")
        assert await texts(ledger, handle.session, who=BOB) == await texts(ledger, handle.session)
        assert [row.id for row in await ledger.sessions(BOB)] == [handle.session]
        assert await found(ledger, SECRET, who=BOB) == await found(ledger, SECRET)
        assert await ledger.resolve(BOB, session_id(1)[:3]) == session_id(1)
        assert await check_all(ledger, BOB) == 1
        write = Append(messages=(user("x", actor=BOB),), turn=1)
        await refused(ledger, work(handle, actor=BOB, op=write), NotFound)
        await refused(ledger, work(handle, actor=BOB, patch=SessionPatch(title="x")), NotFound)
        for principal, may in ((CLEO, "read"), (BOB, "write")):
            with pytest.raises(NotFound):
                await ledger.share(BOB, handle.session, principal, may)
        with pytest.raises(NotFound):
            await ledger.forget(BOB, handle.session, START_MS)
        await check_hidden(ledger, CLEO, handle.session)

    async def test_a_writer_writes_and_owns_nothing(self, ledger: Ledger) -> None:
        """Shared to write: may say something; may not share, delete, or see the owner's other sessions."""
        handle = await anns_session(ledger)
        private = await begin(ledger, 5, title="private")
        await ledger.share(ANN, handle.session, BOB, "write")
        await say(ledger, handle, "hello from bob", actor=BOB)
        assert (await texts(ledger, handle.session))[-1] == "hello from bob"
        assert (await ledger.ops(ANN, handle.session))[0].actor == BOB
        with pytest.raises(NotFound):
            await ledger.share(BOB, handle.session, CLEO, "read")
        with pytest.raises(NotFound):
            await ledger.forget(BOB, handle.session, START_MS)
        await check_hidden(ledger, BOB, private.session)

    async def test_a_share_taken_back_is_gone(self, ledger: Ledger) -> None:
        """From then on nothing is found; sharing again in another way replaces the first."""
        handle = await anns_session(ledger)
        await ledger.share(ANN, handle.session, BOB, "write")
        await ledger.share(ANN, handle.session, BOB, "read")
        op = Append(messages=(user("x"),), turn=1)
        await refused(ledger, work(handle, actor=BOB, op=op), NotFound)
        await ledger.share(ANN, handle.session, BOB, "none")
        await check_hidden(ledger, BOB, handle.session)
        assert await found(ledger, SECRET, who=BOB) == []

    async def test_a_share_is_with_somebody_known(self, ledger: Ledger) -> None:
        """Nobody unknown, and no other right than to read, to write, or none."""
        handle = await begin(ledger, 1)
        with pytest.raises(Refused):
            await ledger.share(ANN, handle.session, PrincipalId("nobody"), "read")
        with pytest.raises(Refused):
            await ledger.share(ANN, handle.session, BOB, "everything")

    async def test_a_known_principal_stays_as_it_is(self, ledger: Ledger) -> None:
        """Adding Eve again, as an admin, makes her none."""
        await ledger.add_principal(EVE, "Eve", "admin")
        handle = await asking_session(ledger)
        with pytest.raises(NotFound):
            await ledger.decide(EVE, ApprovalId("apv"), ApprovalState.APPROVED, START_MS)
        assert (await ledger.approvals(ANN, handle.session))[0].state == ApprovalState.PENDING

    async def test_forks_are_seen_by_their_owners(self, ledger: Ledger) -> None:
        """Whoever may read may fork; the fork is theirs alone, and the parent's owner does not see it."""
        parent = await anns_session(ledger)
        with pytest.raises(NotFound):
            await fork(ledger, parent, 2, owner=EVE)
        with pytest.raises(NotFound):
            await begin(ledger, 2, owner=EVE, parent=parent.session)
        await ledger.share(ANN, parent.session, BOB, "read")
        child = await fork(ledger, parent, 3, owner=BOB)
        await say(ledger, child, "bob's own word", actor=BOB)
        assert await ledger.children(ANN, parent.session) == ()
        assert [row.id for row in await ledger.children(BOB, parent.session)] == [child.session]
        await check_hidden(ledger, ANN, child.session)
        await ledger.share(ANN, parent.session, BOB, "none")
        assert SECRET in " ".join(await texts(ledger, child.session, who=BOB))

    async def test_a_shared_fork_shows_its_path_and_no_more(self, ledger: Ledger) -> None:
        """Its reader sees what was said before the fork, finds it there, and nothing of the parent's besides."""
        parent = await exchange(ledger, await begin(ledger, 1, title="parent"), "early kiwi")
        child = await fork(ledger, parent, 2, title="child")
        parent = await exchange(ledger, parent, "late kiwi")
        await ledger.share(ANN, child.session, BOB, "read")
        assert await texts(ledger, child.session, who=BOB) == ["early kiwi", "re early kiwi"]
        (second, first) = (await ledger.search(BOB, "kiwi", order=Order.NEWEST)).hits
        assert {(hit.session, hit.title) for hit in (first, second)} == {(child.session, "child")}
        assert (first.position, second.position) == (1, 2)
        await check_hidden(ledger, BOB, parent.session)
        with pytest.raises(Refused):
            await ledger.path(BOB, child.session, parent.head)
        await check_all(ledger, BOB)

    async def test_a_blob_is_read_where_it_is_named(self, ledger: Ledger) -> None:
        """Knowing its hash opens it in no other session."""
        image, blob = attachment(b"ann's picture")
        handle = await add(ledger, await begin(ledger, 1), user("see", image), blobs=(blob,))
        mine = await begin(ledger, 2, owner=EVE)
        other = await begin(ledger, 3)
        assert (await ledger.blob(ANN, handle.session, blob.sha256)).bytes == b"ann's picture"
        for who, session in ((EVE, mine.session), (EVE, handle.session), (ANN, other.session)):
            with pytest.raises(NotFound):
                await ledger.blob(who, session, blob.sha256)

    async def test_positions_of_others_are_no_positions(self, ledger: Ledger) -> None:
        """A foreign branch is refused in the same words as one that never was."""
        theirs = await anns_session(ledger)
        mine = await say(ledger, await begin(ledger, 2, owner=EVE), "x", actor=EVE)
        for to in (theirs.head, Head(theirs.head.branch, 0), Head(BranchId(10**6), 1)):
            with pytest.raises(Refused) as moved:
                await do(ledger, mine, actor=EVE, op=MoveHead(kind=OpKind.RESUME, to=to))
            with pytest.raises(Refused) as read:
                await ledger.path(EVE, mine.session, to)
            assert str(moved.value) == str(read.value)
            assert str(to.branch) not in str(read.value)
            with pytest.raises(NotFound):
                await ledger.segment(EVE, mine.session, to.branch)
            with pytest.raises(Refused):
                await fork(ledger, mine, 9, owner=EVE, at=to)

    async def test_a_foreign_summary_is_not_kept(self, ledger: Ledger) -> None:
        """A fork that names another's summary has none."""
        theirs = await compact(ledger, await anns_session(ledger), 1, SECRET)
        mine = await say(ledger, await begin(ledger, 2, owner=EVE), "x", actor=EVE)
        child = await fork(ledger, mine, 3, owner=EVE, summary=theirs.summary)
        assert child.summary is None
        assert await ledger.summaries(EVE, child.session) == ()

    async def test_calls_and_messages_of_others_cannot_be_used(self, ledger: Ledger) -> None:
        """Nobody asks for, spends, decides or takes in their own session what is another's."""
        theirs = await asking_session(ledger)
        chat = await place(ledger, theirs)
        waiting = await receive(ledger, theirs, chat, "k")
        (approval,) = await ledger.approvals(ANN, theirs.session)
        mine = await open_turn(ledger, await begin(ledger, 2), "x")
        mine_of_bob = await begin(ledger, 3, owner=BOB)
        asks = AskApproval(
            id=ApprovalId("mine"), call=approval.call, args_sha256="x", asker=BOB, expires_at=START_MS * 2
        )
        await ledger.decide(ANN, approval.id, ApprovalState.APPROVED, START_MS)
        spends = ConsumeApproval(id=approval.id, args_sha256=approval.args_sha256)
        for rest in ({"ask": (asks,)}, {"consume": spends}, {"take": (waiting.id,)}):
            await refused(ledger, work(mine_of_bob, actor=BOB, **rest), Refused)
            await refused(ledger, work(mine, **rest), Refused)
        assert len(await ledger.queued(ANN, theirs.session)) == 1

    async def test_the_asker_the_owner_and_admins_decide(self, ledger: Ledger) -> None:
        """A reader does not, a writer who did not ask does not, a stranger is told it is not there."""
        handle = await asking_session(ledger, asker=CLEO)
        await ledger.share(ANN, handle.session, BOB, "write")
        await ledger.share(ANN, handle.session, CLEO, "read")
        for nobody in (EVE, BOB):
            with pytest.raises(NotFound):
                await ledger.decide(nobody, ApprovalId("apv"), ApprovalState.APPROVED, START_MS)
        boss = PrincipalId("boss")
        await ledger.add_principal(boss, "Boss", "admin")
        decided = await ledger.decide(boss, ApprovalId("apv"), ApprovalState.DENIED, START_MS)
        assert decided.decided_by == boss

    async def test_a_place_says_nothing_of_its_session(self, ledger: Ledger) -> None:
        """Who looks a place up learns an id, and with it nothing more."""
        handle = await anns_session(ledger)
        await place(ledger, handle)
        row = await place_of(ledger, "telegram:1")
        assert row.session is not None
        await check_hidden(ledger, EVE, row.session)

    async def test_nothing_read_by_one_changes_with_anothers_writes(self, ledger: Ledger) -> None:
        """All that Bob can read is the same before and after Ann talks, compacts, forks, undoes and deletes."""
        await exchange(ledger, await begin(ledger, 9, owner=BOB), "bob's", actor=BOB)
        before = await everything(ledger, BOB)
        handle = await anns_session(ledger)
        child = await fork(ledger, handle, 2)
        await compact(ledger, child, 1)
        await ledger.forget(ANN, handle.session, START_MS, with_forks=True)
        assert await everything(ledger, BOB) == before
        assert set(reads_of(ledger, BOB, session_id(9))) >= {"path", "ops", "summaries"}

    async def test_opening_in_a_foreign_place_leaves_no_session(self, ledger: Ledger) -> None:
        """A stale place makes `open` fail whole: not even the id is taken."""
        handle = await anns_session(ledger)
        await place(ledger, handle)
        stale = PointConversation(route_key="telegram:1", surface="x", version=7, to=session_id(4))
        with pytest.raises(HeadMoved):
            await ledger.open(new_session(4, owner=EVE), actor=EVE, at=START_MS, conversation=stale)
        assert (await begin(ledger, 4, owner=EVE)).session == session_id(4)


async def anns_session(ledger: Ledger) -> Handle:
    """A session full of what nobody else should see."""
    image, blob = attachment(b"secret picture")
    handle = await begin(ledger, 1, title=f"The {SECRET} file", cwd="/home/ann")
    handle = await add(ledger, handle, user(f"the word is {SECRET}", image), blobs=(blob,))
    handle = await add(ledger, handle, user("known"), idempotency_key="known")
    return await compact(ledger, handle, 1, f"about {SECRET}")


async def asking_session(ledger: Ledger, asker: PrincipalId = ANN) -> Handle:
    """A running turn of Ann's with a pending approval `apv`."""
    start = await begin(ledger, 1)
    call = tool_call(start)
    handle = await ask_tool(ledger, await open_turn(ledger, start, "go"), start.version, call)
    asks = AskApproval(
        id=ApprovalId("apv"), call=call.id, args_sha256="args", asker=asker, expires_at=START_MS * 2
    )
    return await do(ledger, handle, fence=as_holder(handle), ask=(asks,))
