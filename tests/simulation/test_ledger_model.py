"""Random courses of every way to change a session, on each store, against a tree that fits on a page.

The model knows a parent for each message and a head for each session; whatever a person did, in whatever order,
with stale handles, several writers and restarts between, the ledger must show what the model shows, and its own
invariants must hold. Undone messages count: they are compared too.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.adapters.stores.sqlite import open_ledger
from clew.domain.conversation.ids import PrincipalId
from clew.domain.conversation.messages import Head
from clew.domain.ledger.commits import Append, Compact, MoveHead, Note, PointConversation, SessionPatch
from clew.domain.ledger.errors import HeadMoved, NotFound
from clew.domain.ledger.navigation import redo_target
from clew.domain.ledger.rows import CallState, Handle, OpKind, Order
from clew.runtime.ports.ledger import Ledger
from clew.testing.invariants import check, check_all, check_hidden
from clew.testing.ledgers import (
    ANN,
    BOB,
    EVE,
    PEOPLE,
    START_MS,
    StillClock,
    add,
    ask_tool,
    assistant,
    begin,
    do,
    expand,
    fork,
    handle_of,
    move,
    move_call,
    open_turn,
    run_turn,
    say,
    session_id,
    tool_call,
    user,
    work,
)
from tests.simulation.ledger_tree import START, Summary, Talk, Tree

T = TypeVar("T")
ROUTE = "telegram:1"
Choice = st.integers(min_value=0, max_value=10**6)


class LedgerMachine(RuleBasedStateMachine):
    """What people and programs do to sessions. Each subclass says where the ledger is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree()
        self.words = 0
        self.place: tuple[Talk | None, int] = (None, 0)
        self.runner = asyncio.Runner()

    # -- the world -----------------------------------------------------------------------------------------------
    async def open_ledger(self) -> Ledger:
        raise NotImplementedError

    def run(self, steps: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(steps)

    @initialize(turns=st.integers(0, 4))
    def open_two(self, turns: int) -> None:
        """Two ledgers on one storage, and a session that is already some turns long."""
        self.run(self._open_two())
        self.new(ANN)
        for _ in range(turns):
            self.append(0, 1)

    async def _open_two(self) -> None:
        self.ledger, self.other = await self.open_ledger(), await self.open_ledger()
        for person in PEOPLE:
            await self.ledger.add_principal(person, person, "user")

    def teardown(self) -> None:
        try:
            self.run(self._compare_all())
        finally:
            self.run(self._close())
            self.runner.close()

    async def _close(self) -> None:
        await self.ledger.close()
        await self.other.close()

    # -- rules ---------------------------------------------------------------------------------------------------
    @rule(owner=st.sampled_from([ANN, BOB]))
    def new(self, owner: PrincipalId) -> None:
        number = len(self.tree.talks) + 1
        handle = self.run(begin(self.ledger, number, owner=owner, when=START_MS + number))
        talk = Talk(number, owner, START, START, handle.head, handle)
        self.tree.talks.append(talk)
        self.run(self._compare(talk))

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice, replies=st.integers(0, 2))
    def append(self, which: int, replies: int) -> None:
        self.run(self._append(self._talk(which), replies))

    async def _append(self, talk: Talk, replies: int) -> None:
        said = user(self._word(), actor=talk.owner)
        messages = [said, *(assistant(self._word()) for _ in range(replies))]
        handle = await add(self.ledger, talk.handle, *messages, actor=talk.owner)
        await self._after(talk, handle, *(message.text for message in messages))

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice)
    def whole_turn(self, which: int) -> None:
        self.run(self._whole_turn(self._talk(which)))

    async def _whole_turn(self, talk: Talk) -> None:
        if talk.owner == ANN:
            asked, answer, content = self._word(), self._word(), self._word()
            handle = await run_turn(self.ledger, talk.handle, asked, answer, content)
            await self._after(talk, handle, asked, "Let me look.", content, answer)

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice)
    def undo_in_mid_turn(self, which: int) -> None:
        self.run(self._undo_in_mid_turn(self._talk(which)))

    async def _undo_in_mid_turn(self, talk: Talk) -> None:
        """A tool runs; the person takes the turn back."""
        if talk.owner != ANN:
            return
        before, head, summary = talk.handle, talk.head, talk.summary
        call, asked = tool_call(before), self._word()
        handle = await open_turn(self.ledger, before, asked)
        handle = await ask_tool(self.ledger, handle, before.version, call)
        handle = await move_call(self.ledger, handle, call.id, CallState.STARTED)
        await self._after(talk, handle, asked, "Let me look.")
        talk.undone.append((talk.head, talk.summary))
        op = MoveHead(kind=OpKind.UNDO, to=before.head)
        talk.head, talk.summary = head, summary
        await self._moved(talk, await do(self.ledger, handle, op=op, cut=True, cut_reason="undo"))

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice, turns=st.integers(1, 3))
    def undo(self, which: int, turns: int) -> None:
        self.run(self._undo(self._talk(which), turns))

    async def _undo(self, talk: Talk, turns: int) -> None:
        starts = self.tree.starts(talk)[:turns]
        if starts:
            found = await self.ledger.turn_starts(talk.owner, talk.handle.session, turns)
            assert [message.id for message in found] == starts
            to = await self.ledger.before(talk.owner, talk.handle.session, found[-1].head)
            talk.undone.append((talk.head, talk.summary))
            await self._move(talk, OpKind.UNDO, self.tree.parents[starts[-1]], to)

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice)
    def redo(self, which: int) -> None:
        self.run(self._redo(self._talk(which)))

    async def _redo(self, talk: Talk) -> None:
        to = redo_target(await self.ledger.ops(talk.owner, talk.handle.session, limit=10_000))
        if not talk.undone:
            assert to is None
            return
        node, summary = talk.undone.pop()
        assert to == self._head_of(talk, node)
        talk.summary = summary
        await self._move(talk, OpKind.REDO, node, to)

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice)
    def retry(self, which: int) -> None:
        self.run(self._retry(self._talk(which)))

    async def _retry(self, talk: Talk) -> None:
        """The head goes to the last message a person sent, and another answer follows it."""
        starts = self.tree.starts(talk)
        if starts:
            await self._elsewhere(talk, OpKind.RETRY, starts[0], self.tree.heads[starts[0]])
            answer = assistant(self._word())
            handle = await add(self.other, talk.handle, answer, actor=talk.owner)
            await self._after(talk, handle, answer.text)

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice, where=Choice)
    def resume(self, which: int, where: int) -> None:
        """Any message of the tree, undone ones too, named by any branch that passes through it."""
        talk = self._talk(which)
        node = self._node(talk, where)
        later = sorted(each for each in self.tree.tree_of(talk) if node in [START, *self.tree.path(each)])
        branch = self.tree.heads[later[where % len(later)]].branch if later else talk.root.branch
        named = Head(branch, len(self.tree.path(node)))
        self.run(self._elsewhere(talk, OpKind.RESUME, node, named))

    async def _elsewhere(self, talk: Talk, kind: OpKind, node: int, named: Head) -> None:
        if node != talk.head:
            talk.undone.clear()
        await self._move(talk, kind, node, named)
        assert talk.handle.head == self._head_of(talk, node)

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice, where=Choice, is_owner=st.booleans())
    def fork(self, which: int, where: int, is_owner: bool) -> None:
        talk = self._talk(which)
        self.run(self._fork(talk, self._node(talk, where), is_owner))

    async def _fork(self, talk: Talk, node: int, is_owner: bool) -> None:
        owner = talk.owner if is_owner else {ANN: BOB, BOB: ANN}[talk.owner]
        session, number = talk.handle.session, len(self.tree.talks) + 1
        if not is_owner:
            await self.other.share(talk.owner, session, owner, "read")
        at = self._head_of(talk, node)
        rest: dict[str, Any] = {"at": at, "summary": talk.handle.summary, "when": START_MS + number}
        handle = await fork(self.other, talk.handle, number, owner=owner, **rest)
        if not is_owner:
            await self.other.share(talk.owner, session, owner, "none")
        child = Talk(number, owner, START, START, handle.head, handle, parent=talk)
        self.tree.talks.append(child)
        if is_owner and node != START:
            child.head = child.start = node
            child.root = talk.root
        else:
            child.root = Head(handle.head.branch, 0)
            await self._grow(child, handle, [self.tree.texts[each] for each in self.tree.path(node)])
        child.summary = self._kept(talk, node, child)
        await self._compare(child)

    def _kept(self, talk: Talk, node: int, child: Talk) -> Summary | None:
        """The summary of the parent and those before it, if it stands for the fork's path; on the fork's nodes."""
        path, own = self.tree.path(node), self.tree.path(child.head)
        summary = talk.summary
        if summary is None or summary.upto not in path:
            return None
        uptos: list[int] = []
        while summary is not None:
            uptos.append(own[path.index(summary.upto)])
            summary = summary.previous
        for upto in reversed(uptos):
            summary = Summary(upto, summary)
        return summary

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice, where=Choice)
    def compact(self, which: int, where: int) -> None:
        self.run(self._compact(self._talk(which), where))

    async def _compact(self, talk: Talk, where: int) -> None:
        path = self.tree.path(talk.head)
        path = path[path.index(talk.summary.upto) :] if talk.summary else path
        if path:
            upto = path[where % len(path)]
            op = Compact(upto=self.tree.heads[upto], text=f"up to {upto}")
            talk.summary = Summary(upto, talk.summary)
            await self._moved(talk, await do(self.other, talk.handle, actor=talk.owner, op=op))

    @precondition(lambda self: any(talk.summary for talk in self.tree.alive))
    @rule(which=Choice)
    def expand(self, which: int) -> None:
        compacted = [talk for talk in self.tree.alive if talk.summary]
        talk = compacted[which % len(compacted)]
        talk.summary = talk.summary.previous if talk.summary else None
        self.run(self._expand(talk))

    async def _expand(self, talk: Talk) -> None:
        await self._moved(talk, await expand(self.ledger, talk.handle, actor=talk.owner))

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice)
    def rename(self, which: int) -> None:
        self.run(self._rename(self._talk(which)))

    async def _rename(self, talk: Talk) -> None:
        patch = SessionPatch(title=self._word())
        note = Note(kind=OpKind.TITLE)
        await self._moved(talk, await do(self.other, talk.handle, actor=talk.owner, op=note, patch=patch))

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice)
    def switch(self, which: int) -> None:
        self.run(self._switch(self._talk(which)))

    async def _switch(self, talk: Talk) -> None:
        """The place goes to another session; who still names its old version is told so."""
        version = self.place[1]
        point = PointConversation(
            route_key=ROUTE, surface="telegram", version=version, to=talk.handle.session
        )
        await self.ledger.point(point)
        self.place = talk, version + 1
        await self._raises(HeadMoved, self.other.point(point))

    @precondition(lambda self: len(self.tree.alive) > 2)
    @rule(which=Choice, with_forks=st.booleans())
    def forget(self, which: int, with_forks: bool) -> None:
        self.run(self._forget(self._talk(which), with_forks))

    async def _forget(self, talk: Talk, with_forks: bool) -> None:
        heirs = self.tree.heirs(talk)
        doomed = [talk, *heirs] if with_forks else [talk]
        gone = await self.ledger.forget(talk.owner, talk.handle.session, START_MS, with_forks=with_forks)
        assert gone.messages == self.tree.forget(doomed)
        assert set(gone.kept_for) == ({heir.handle.session for heir in heirs} if not with_forks else set())
        if self.place[0] in doomed:
            self.place = None, self.place[1] + 1
        for each in doomed:
            await check_hidden(self.other, each.owner, each.handle.session)
            late = work(each.handle, actor=each.owner, op=Note(kind=OpKind.STOP))
            await self._raises(NotFound, self.other.commit(late))
        for each in self.tree.alive:
            await self._compare(each)

    @precondition(lambda self: any(talk.stale for talk in self.tree.alive))
    @rule(which=Choice, how_old=Choice)
    def write_with_a_stale_handle(self, which: int, how_old: int) -> None:
        talks = [talk for talk in self.tree.alive if talk.stale]
        talk = talks[which % len(talks)]
        handle = talk.stale[how_old % len(talk.stale)]
        self.run(self._write_stale(talk, handle))

    async def _write_stale(self, talk: Talk, handle: Handle) -> None:
        for op in (
            Append(messages=(user("lost"),), turn=1),
            MoveHead(kind=OpKind.UNDO, to=talk.root),
            Note(kind=OpKind.TITLE),
        ):
            late = work(handle, actor=talk.owner, op=op, patch=SessionPatch(title="lost"))
            await self._raises(HeadMoved, self.other.commit(late))
        await self._compare(talk)

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice)
    def write_to_a_foreign_session(self, which: int) -> None:
        self.run(self._write_foreign(self._talk(which)))

    async def _write_foreign(self, talk: Talk) -> None:
        for stranger in {ANN, BOB, EVE} - {talk.owner}:
            await self._raises(NotFound, say(self.other, talk.handle, "lost", actor=stranger))
            await self._raises(NotFound, self.other.forget(stranger, talk.handle.session, START_MS))
            await check_hidden(self.other, stranger, talk.handle.session)
        await self._compare(talk)

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice, writers=st.integers(2, 4))
    def several_write_at_once(self, which: int, writers: int) -> None:
        self.run(self._race(self._talk(which), writers))

    async def _race(self, talk: Talk, writers: int) -> None:
        """One of them wins, and the others are told."""
        said = [self._word() for _ in range(writers)]
        attempts = [
            say((self.ledger, self.other)[n % 2], talk.handle, word, actor=talk.owner)
            for n, word in enumerate(said)
        ]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        won = [result for result in results if isinstance(result, Handle)]
        lost = [result for result in results if isinstance(result, HeadMoved)]
        assert (len(won), len(lost)) == (1, writers - 1), results
        await self._after(talk, won[0], said[results.index(won[0])])

    @rule()
    def reopen(self) -> None:
        self.run(self._reopen())

    async def _reopen(self) -> None:
        await self._close()
        self.ledger, self.other = await self.open_ledger(), await self.open_ledger()

    # -- shared steps --------------------------------------------------------------------------------------------
    def _talk(self, which: int) -> Talk:
        alive = self.tree.alive
        return alive[which % len(alive)]

    def _node(self, talk: Talk, where: int) -> int:
        nodes = [START, *sorted(self.tree.tree_of(talk))]
        return nodes[where % len(nodes)]

    def _head_of(self, talk: Talk, node: int) -> Head:
        return talk.root if node == START else self.tree.heads[node]

    def _word(self) -> str:
        """A word that was never said before."""
        self.words += 1
        return f"word{self.words}"

    async def _after(self, talk: Talk, handle: Handle, *said: str) -> None:
        """What was said stands after the head; there is nothing to redo any more."""
        await self._grow(talk, handle, list(said))
        talk.undone.clear()
        await self._moved(talk, handle)

    async def _grow(self, talk: Talk, handle: Handle, said: list[str]) -> None:
        """Takes the ledger's ids and positions of what was said into the model."""
        depth = len(self.tree.path(talk.head))
        stored = await self.ledger.path(talk.owner, handle.session, above=depth)
        assert [message.text for message in stored] == said
        for message in stored:
            self.tree.grow(talk, message)

    async def _move(self, talk: Talk, kind: OpKind, node: int, to: Head) -> None:
        talk.head = node
        talk.summary = self.tree.falls_back(talk.summary, node)
        await self._moved(talk, await move(self.ledger, talk.handle, kind, to, actor=talk.owner))

    async def _moved(self, talk: Talk, handle: Handle) -> None:
        talk.stale = [*talk.stale[-5:], talk.handle]
        talk.handle = handle
        await self._compare(talk)

    async def _raises(self, error: type[Exception], step: Awaitable[object]) -> None:
        try:
            result = await step
        except error:
            return
        raise AssertionError(f"{error.__name__} was not raised, but {result!r} returned")

    # -- comparing -----------------------------------------------------------------------------------------------
    async def _compare(self, talk: Talk) -> None:
        """The session is what the model says, and its invariants hold; asked of the ledger that did not write."""
        session, tree = talk.handle.session, self.tree
        assert await handle_of(self.other, session, who=talk.owner) == talk.handle
        path = await self.other.path(talk.owner, session)
        assert [(m.id, m.text) for m in path] == [(n, tree.texts[n]) for n in tree.path(talk.head)]
        has = [
            message.id
            for branch in await self.other.branches(talk.owner, session)
            for message in await self.other.segment(talk.owner, session, branch.id)
        ]
        assert sorted(has) == sorted(tree.tree_of(talk))
        rows = {row.id: row for row in await self.other.summaries(talk.owner, session)}
        upto = rows[talk.handle.summary].upto if talk.handle.summary else None
        assert upto == (tree.heads[talk.summary.upto] if talk.summary else None)
        await check(self.other, talk.owner, session)

    async def _compare_all(self) -> None:
        for owner in (ANN, BOB):
            mine = [talk for talk in self.tree.alive if talk.owner == owner]
            assert await check_all(self.ledger, owner) == len(mine)
            await self._compare_search(owner, mine)
        for talk in self.tree.alive:
            await self._compare(talk)
        row = await self.ledger.conversation(ROUTE)
        pointed, version = self.place
        assert (row.session if row else None) == (pointed.handle.session if pointed else None)
        assert (row.version if row else 0) == version
        assert await self.ledger.sessions(EVE) == ()

    async def _compare_search(self, owner: PrincipalId, mine: list[Talk]) -> None:
        """Every word is found just where it stands on a living path."""
        living = {talk.number: set(self.tree.path(talk.head)) for talk in mine}
        for number in range(1, self.words + 1):
            word = f"word{number}"
            result = await self.ledger.search(owner, word, order=Order.NEWEST, limit=1000)
            homes = {hit.message: hit.session for hit in result.hits}
            assert len(homes) == len(result.hits)
            expected = {
                node: self._homes(node, living)
                for node, text in self.tree.texts.items()
                if text == word and self._homes(node, living)
            }
            assert homes.keys() == expected.keys(), word
            assert all(session in expected[message] for message, session in homes.items())

    def _homes(self, node: int, living: dict[int, set[int]]) -> set[str]:
        """The sessions a hit may be shown in: the message's own if it lives there, else any that holds it."""
        holders = {number for number, path in living.items() if node in path}
        own = self.tree.writers[node].number
        return {session_id(number) for number in ({own} if own in holders else holders)}


class MemoryMachine(LedgerMachine):
    """The one in plain Python."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()

    async def open_ledger(self) -> Ledger:
        return MemoryLedger(self.disk)


class SqliteMachine(LedgerMachine):
    """The one in a file."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()

    async def open_ledger(self) -> Ledger:
        return await open_ledger(Path(self.folder.name), StillClock())

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


EXAMPLES = settings().max_examples
"""Of the profile in force; with its usual 100, both stores together take about 20 seconds."""


@pytest.mark.timeout(400)  # a failing course is made short before it is shown, for up to five minutes
@pytest.mark.parametrize(("machine", "courses"), [(MemoryMachine, EXAMPLES), (SqliteMachine, EXAMPLES // 8)])
def test_the_ledger_shows_what_the_tree_shows(machine: type[LedgerMachine], courses: int) -> None:
    """After every step of any course: the same paths, undone messages, summaries, hits and places."""
    long = settings(
        max_examples=max(1, courses),
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(machine, settings=long)
