"""Sessions beside each other: forks, settings, lists, names, and the places that point at them."""

from __future__ import annotations

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import Append, MoveHead, Note, PointConversation, SessionPatch
from clew.domain.ledger.errors import Ambiguous, HeadMoved, NotFound, Refused
from clew.domain.ledger.rows import OpKind, Prefix
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, refused
from clew.testing.invariants import check, check_all
from clew.testing.ledgers import (
    ANN,
    BOB,
    START_MS,
    add,
    attachment,
    begin,
    compact,
    do,
    exchange,
    expand,
    fork,
    handle_of,
    moment,
    new_session,
    place,
    place_of,
    say,
    session_id,
    sha256,
    texts,
    undo,
    user,
    work,
)


class ForkContract(LedgerCase):
    """Forks share what was said before, and nothing after."""

    async def test_a_fork_copies_nothing(self, ledger: Ledger) -> None:
        """Its path is its parent's own messages; what either says next is its own."""
        parent = await exchange(ledger, await begin(ledger, 1), "a", "b")
        child = await fork(ledger, parent, 2)
        assert await ledger.path(ANN, child.session) == await ledger.path(ANN, parent.session)
        assert (child.version, child.epoch, child.head) == (1, 1, parent.head)
        await exchange(ledger, parent, "parent's")
        await exchange(ledger, child, "child's")
        assert await texts(ledger, parent.session) == ["a", "re a", "b", "re b", "parent's", "re parent's"]
        assert await texts(ledger, child.session) == ["a", "re a", "b", "re b", "child's", "re child's"]
        assert await check_all(ledger, ANN) == 2

    async def test_a_fork_starts_anywhere_in_its_parents_tree(self, ledger: Ledger) -> None:
        """In the middle of the path, or where it was undone."""
        old = await exchange(ledger, await begin(ledger, 1), "a", "b")
        parent = await exchange(ledger, await undo(ledger, old), "c")
        undone = await fork(ledger, parent, 2, at=old.head)
        middle = await fork(ledger, parent, 3, at=Head(parent.head.branch, 3))
        below = await fork(ledger, parent, 4, at=Head(parent.head.branch, 1))
        assert await texts(ledger, undone.session) == ["a", "re a", "b", "re b"]
        assert await texts(ledger, middle.session) == ["a", "re a", "c"]
        assert (await texts(ledger, below.session), below.head.branch) == (["a"], old.head.branch)
        for child in (undone, middle, below):
            await exchange(ledger, child, "on")
        await check_all(ledger, ANN)

    async def test_a_fork_at_the_start_is_a_session_of_its_own(self, ledger: Ledger) -> None:
        """It has an empty root, and names its parent all the same."""
        parent = await exchange(ledger, await begin(ledger, 1), "a")
        child = await fork(ledger, parent, 2, at=Head(parent.head.branch, 0))
        (branch,) = await ledger.branches(ANN, child.session)
        assert (branch.session, branch.tip, child.head) == (child.session, 0, Head(branch.id, 0))
        assert (await ledger.session(ANN, child.session)).parent == parent.session

    async def test_a_fork_of_a_fork_reads_through_both(self, ledger: Ledger) -> None:
        """Each generation adds its own; undo leads a grandchild back into its grandparent's messages."""
        one = await say(ledger, await begin(ledger, 1), "a")
        two = await say(ledger, await fork(ledger, one, 2), "b")
        three = await say(ledger, await fork(ledger, two, 3), "c")
        assert await texts(ledger, three.session) == ["a", "b", "c"]
        back = await undo(ledger, three, 3)
        assert back.head == Head(one.head.branch, 0)
        other = await say(ledger, back, "d")
        assert await texts(ledger, other.session) == ["d"]
        assert await texts(ledger, one.session) == ["a"]
        await check_all(ledger, ANN)

    async def test_what_came_after_the_fork_is_not_in_its_tree(self, ledger: Ledger) -> None:
        """Neither path, branch, segment, blob nor move leads a fork to its parent's later or undone messages."""
        old = await exchange(ledger, await begin(ledger, 1), "a", "b")
        parent = await exchange(ledger, await undo(ledger, old), "c")
        child = await fork(ledger, parent, 2, at=Head(old.head.branch, 1))
        image, blob = attachment(b"later")
        parent = await add(ledger, parent, user("d", image), blobs=(blob,))
        (branch,) = await ledger.branches(ANN, child.session)
        assert (branch.id, branch.tip) == (old.head.branch, 1)
        assert [m.text for m in await ledger.segment(ANN, child.session, branch.id)] == ["a"]
        with pytest.raises(NotFound):
            await ledger.segment(ANN, child.session, parent.head.branch)
        with pytest.raises(NotFound):
            await ledger.blob(ANN, child.session, blob.sha256)
        for to in (Head(old.head.branch, 2), old.head, parent.head):
            await refused(ledger, work(child, op=MoveHead(kind=OpKind.RESUME, to=to)), Refused)
            with pytest.raises(Refused):
                await fork(ledger, child, 3, at=to)

    async def test_a_fork_may_go_to_no_strangers_start(self, ledger: Ledger) -> None:
        """Position 0 is every root's; a session's tree holds its own and its ancestors' only."""
        stranger = await begin(ledger, 3, owner=BOB)
        child = await fork(ledger, await say(ledger, await begin(ledger, 1), "a"), 2)
        await refused(ledger, work(child, op=MoveHead(kind=OpKind.RESUME, to=stranger.head)), Refused)

    async def test_a_commit_opens_a_fork_on_its_own_messages(self, ledger: Ledger) -> None:
        """What is opened comes after what is appended, in the same transaction."""
        handle = await say(ledger, await begin(ledger, 1), "a")
        at = Head(handle.head.branch, 2)
        opens = new_session(2, parent=handle.session, at=at)
        op = Append(messages=(user("b"),), turn=2)
        committed = await ledger.commit(work(handle, op=op, opens=opens))
        assert committed.opened == await handle_of(ledger, session_id(2))
        assert await texts(ledger, session_id(2)) == ["a", "b"]

    async def test_a_fork_keeps_the_summary_it_asks_for(self, ledger: Ledger) -> None:
        """If it stands for the fork's path: with those before it, as the fork's own, so that expand works the same."""
        parent = await exchange(ledger, await begin(ledger, 1), "a", "b", "c")
        parent = await compact(ledger, await compact(ledger, parent, 2, "first"), 4, "second")
        child = await fork(ledger, parent, 2, summary=parent.summary)
        known = {row.id: row for row in await ledger.summaries(ANN, child.session)}
        assert child.summary is not None
        second = known[child.summary]
        assert (second.text, second.upto) == ("second", Head(parent.head.branch, 4))
        child = await expand(ledger, child)
        assert child.summary is not None
        assert known[child.summary].text == "first"
        assert (await handle_of(ledger, parent.session)).summary == parent.summary
        await check_all(ledger, ANN)

    async def test_undo_then_fork_is_fork_then_undo(self, ledger: Ledger) -> None:
        """A fork stands on the same messages under the same summary, whichever comes first."""
        parent = await exchange(ledger, await begin(ledger, 1), "a", "b", "c")
        parent = await compact(ledger, await compact(ledger, parent, 2, "first"), 4, "second")
        later = await undo(ledger, await fork(ledger, parent, 2, summary=parent.summary), 2)
        parent = await undo(ledger, parent, 2)
        sooner = await fork(ledger, parent, 3, summary=parent.summary)
        assert later.head == sooner.head
        assert [await in_force(ledger, each.session) for each in (later, sooner)] == ["first", "first"]

    async def test_a_summary_off_the_forks_path_is_not_kept(self, ledger: Ledger) -> None:
        """Nor one that is not the parent's, even of the same messages, nor any unasked."""
        parent = await compact(ledger, await exchange(ledger, await begin(ledger, 1), "a", "b"), 4)
        other = await compact(ledger, await exchange(ledger, await begin(ledger, 2), "x", "y"), 2)
        early = await fork(ledger, parent, 3, at=Head(parent.head.branch, 3), summary=parent.summary)
        foreign = await fork(ledger, parent, 4, summary=other.summary)
        unasked = await fork(ledger, parent, 5)
        cousins = await compact(ledger, unasked, 2)
        cousin = await fork(ledger, parent, 6, summary=cousins.summary)
        for child in (early, foreign, cousin):
            assert child.summary is None
            assert await ledger.summaries(ANN, child.session) == ()
        assert unasked.summary is None

    async def test_a_fork_by_another_person_copies_its_path(self, ledger: Ledger) -> None:
        """Texts, attachments and summary are there; rows and branches are the new owner's own."""
        image, blob = attachment(b"pixels")
        parent = await add(ledger, await begin(ledger, 1), user("a", image), user("b"), blobs=(blob,))
        parent = await say(ledger, await undo(ledger, parent), "c")
        parent = await compact(ledger, parent, 1, "so far")
        await ledger.share(ANN, parent.session, BOB, "read")
        child = await fork(ledger, parent, 2, owner=BOB, summary=parent.summary)
        assert await texts(ledger, child.session, who=BOB) == await texts(ledger, parent.session)
        assert {b.session for b in await ledger.branches(BOB, child.session)} == {child.session}
        theirs = {message.id for message in await ledger.path(BOB, child.session)}
        assert theirs.isdisjoint(message.id for message in await ledger.path(ANN, parent.session))
        assert (await ledger.blob(BOB, child.session, blob.sha256)).bytes == b"pixels"
        assert await in_force(ledger, child.session, who=BOB) == "so far"
        assert child == await handle_of(ledger, child.session, who=BOB)
        await check(ledger, BOB, child.session)
        await say(ledger, child, "mine", actor=BOB)
        assert "mine" not in await texts(ledger, parent.session)

    async def test_children_are_forks_and_side_sessions(self, ledger: Ledger) -> None:
        """Oldest first, and only one generation."""
        parent = await say(ledger, await begin(ledger, 1), "a")
        first = await fork(ledger, parent, 3, when=START_MS + 1)
        await fork(ledger, first, 4)
        await begin(ledger, 2, parent=parent.session, when=START_MS + 2)
        found = [row.id for row in await ledger.children(ANN, parent.session)]
        assert found == [session_id(3), session_id(2)]


class SettingsContract(LedgerCase):
    """What a session row holds beside its head."""

    async def test_a_patch_sets_what_it_names(self, ledger: Ledger) -> None:
        """Other columns stay; None clears; an op that only notes it leaves head and summary alone."""
        start = await begin(ledger, 1, title="old", model="m", cwd="/x")
        patch = SessionPatch(title=None, model="n", settings='{"b": 2}', ended_at=5, end_reason="left")
        handle = await do(ledger, start, op=Note(kind=OpKind.SETTINGS), patch=patch)
        row = await ledger.session(ANN, start.session)
        assert (row.title, row.model, row.cwd, row.settings) == (None, "n", "/x", '{"b": 2}')
        assert (row.ended_at, row.end_reason, row.archived_at) == (5, "left", None)
        assert (handle.version, handle.head, handle.epoch) == (2, start.head, 1)
        assert patch.cwd is UNSET

    async def test_a_commit_without_an_op_bumps_nothing(self, ledger: Ledger) -> None:
        """It writes its rows, and who holds a handle may go on with it."""
        handle = await begin(ledger, 1)
        same = await do(ledger, handle, patch=SessionPatch(title="t"))
        assert same == handle
        assert (await ledger.session(ANN, handle.session)).title == "t"
        assert len(await ledger.ops(ANN, handle.session)) == 1

    async def test_a_key_needs_an_op(self, ledger: Ledger) -> None:
        """Without an op there is nothing to hang an idempotency key on, so it is refused rather than forgotten."""
        handle = await begin(ledger, 1)
        await refused(ledger, work(handle, patch=SessionPatch(title="t"), idempotency_key="k"), Refused)

    async def test_activity_is_what_moves_the_head(self, ledger: Ledger) -> None:
        """Appends and moves count; titles, compaction and settings do not bring a session to the top."""
        handle = await exchange(ledger, await begin(ledger, 1), "a", "b")
        active = (await ledger.session(ANN, handle.session)).last_active_at
        assert active == moment(handle) - 1000
        handle = await compact(ledger, handle, 2)
        handle = await do(ledger, handle, op=Note(kind=OpKind.TITLE), patch=SessionPatch(title="t"))
        assert (await ledger.session(ANN, handle.session)).last_active_at == active
        moved_at = moment(handle)
        await undo(ledger, handle)
        assert (await ledger.session(ANN, handle.session)).last_active_at == moved_at

    async def test_the_frozen_prefix_comes_back(self, ledger: Ledger) -> None:
        """None before the first turn; then byte for byte what was frozen, also where two sessions share it."""
        prefix = Prefix(sha256=sha256("p"), system_prompt="You are Clew.\0", tools='[{"name":"x"}]')
        one, two = await begin(ledger, 1), await begin(ledger, 2, prefix=prefix)
        assert await ledger.prefix(ANN, one.session) is None
        await do(ledger, one, op=Note(kind=OpKind.REFREEZE), patch=SessionPatch(prefix=prefix))
        for each in (one, two):
            assert await ledger.prefix(ANN, each.session) == prefix
            assert (await ledger.session(ANN, each.session)).prefix == prefix.sha256


class ListContract(LedgerCase):
    """Finding sessions again."""

    async def test_sessions_are_listed_by_activity(self, ledger: Ledger) -> None:
        """Newest first, then by id; a page goes on after the last row of the one before."""
        for number, when in ((1, 30), (2, 10), (3, 20), (4, 20), (5, 40)):
            await begin(ledger, number, when=START_MS + when)
        expected = [session_id(number) for number in (5, 1, 4, 3, 2)]
        assert [row.id for row in await ledger.sessions(ANN)] == expected
        paged: list[SessionId] = []
        last: tuple[int, str] | None = None
        while page := await ledger.sessions(ANN, limit=2, before=last):
            paged += [row.id for row in page]
            last = page[-1].last_active_at, page[-1].id
        assert paged == expected

    async def test_archived_sessions_are_listed_apart(self, ledger: Ledger) -> None:
        """They leave the list, are found when asked for, and can still be opened by name."""
        handle = await begin(ledger, 1, title="attic")
        await begin(ledger, 2)
        await do(ledger, handle, op=Note(kind=OpKind.ARCHIVE), patch=SessionPatch(archived_at=START_MS))
        assert [row.id for row in await ledger.sessions(ANN)] == [session_id(2)]
        assert [row.id for row in await ledger.sessions(ANN, archived=True)] == [session_id(1)]
        assert await ledger.resolve(ANN, "attic") == session_id(1)

    async def test_a_session_is_named_by_id_prefix_or_title(self, ledger: Ledger) -> None:
        """The whole id, three or more of its first characters, or its title in any case."""
        await begin(ledger, 1, title="Trip to Rome")
        await begin(ledger, 2)
        for reference in (
            session_id(1),
            session_id(1)[:3],
            session_id(1)[:7],
            "Trip to Rome",
            "trip TO rome",
        ):
            assert await ledger.resolve(ANN, reference) == session_id(1)
        for reference in (session_id(1)[:2], "trip", "", "   ", "%", "nothing", session_id(9)):
            with pytest.raises(NotFound):
                await ledger.resolve(ANN, reference)

    async def test_an_ambiguous_name_is_said_with_its_candidates(self, ledger: Ledger) -> None:
        """Two sessions of one title, or two ids with one beginning, are never guessed between."""
        for number in (1, 33):
            await begin(ledger, number, title="same")
        with pytest.raises(Ambiguous) as caught:
            await ledger.resolve(ANN, "Same")
        assert sorted(caught.value.candidates) == sorted(session_id(number) for number in (1, 33))
        twins = [SessionId("abc000000001"), SessionId("abc000000002")]
        for twin in twins:
            await ledger.open(replace(new_session(0), id=twin), actor=ANN, at=START_MS)
        with pytest.raises(Ambiguous) as caught:
            await ledger.resolve(ANN, "abc")
        assert sorted(caught.value.candidates) == twins
        assert await ledger.resolve(ANN, "abc000000002") == twins[1]


class PlaceContract(LedgerCase):
    """Conversations: places that point at one session."""

    async def test_a_place_points_at_one_session(self, ledger: Ledger) -> None:
        """Version 1 when it is made; each move adds one; its id stays."""
        one, two = await begin(ledger, 1), await begin(ledger, 2)
        assert await ledger.conversation("telegram:1") is None
        ident = await place(ledger, one)
        row = await place_of(ledger, "telegram:1")
        assert (row.id, row.session, row.version, row.surface) == (ident, one.session, 1, "telegram")
        assert await place(ledger, two, version=1) == ident
        row = await place_of(ledger, "telegram:1")
        assert (row.session, row.version) == (two.session, 2)

    @pytest.mark.parametrize("version", [0, 1, 3])
    async def test_a_place_that_moved_is_not_moved_again(self, ledger: Ledger, version: int) -> None:
        """Who names an old version, or none where there is one, is told so; with it goes all they wrote."""
        one, two = await begin(ledger, 1), await begin(ledger, 2)
        await place(ledger, one)
        await place(ledger, two, version=1)
        stale = PointConversation(route_key="telegram:1", surface="telegram", version=version, to=one.session)
        with pytest.raises(HeadMoved):
            await ledger.point(stale)
        with pytest.raises(HeadMoved):
            await ledger.open(new_session(3), actor=ANN, at=START_MS, conversation=stale)
        with pytest.raises(NotFound):
            await ledger.session(ANN, session_id(3))
        op = Append(messages=(user("lost"),), turn=1)
        await refused(ledger, work(one, op=op, conversation=stale), HeadMoved)
        row = await place_of(ledger, "telegram:1")
        assert (row.session, row.version) == (two.session, 2)

    async def test_a_new_place_has_no_version_yet(self, ledger: Ledger) -> None:
        """Naming a version of a place that was never made is as stale as any other."""
        handle = await begin(ledger, 1)
        with pytest.raises(HeadMoved):
            await place(ledger, handle, version=1)
        assert await ledger.conversation("telegram:1") is None

    async def test_a_place_points_at_nothing_unknown(self, ledger: Ledger) -> None:
        """A session that is not there cannot be pointed at."""
        await begin(ledger, 1)
        point = PointConversation(route_key="r", surface="s", version=0, to=session_id(9))
        with pytest.raises(NotFound):
            await ledger.point(point)
        assert await ledger.conversation("r") is None

    async def test_leaving_a_session_moves_the_place_in_one_commit(self, ledger: Ledger) -> None:
        """The old session is cut, the new one opened and the place moved, all or nothing."""
        old = await say(ledger, await begin(ledger, 1), "a")
        await place(ledger, old)
        opens = new_session(2)
        point = PointConversation(route_key="telegram:1", surface="telegram", version=1, to=opens.id)
        committed = await ledger.commit(
            work(old, op=Note(kind=OpKind.LEAVE), cut=True, cut_reason="new", opens=opens, conversation=point)
        )
        row = await place_of(ledger, "telegram:1")
        assert row.session == opens.id
        assert committed.opened == await handle_of(ledger, opens.id)
        assert committed.handle.epoch == old.epoch + 1


async def in_force(ledger: Ledger, session: SessionId, *, who: PrincipalId = ANN) -> str | None:
    """The text of the summary that stands for the beginning of a session."""
    handle = await handle_of(ledger, session, who=who)
    rows = {row.id: row.text for row in await ledger.summaries(who, session)}
    return rows[handle.summary] if handle.summary is not None else None
