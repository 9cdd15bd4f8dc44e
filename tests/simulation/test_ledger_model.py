"""Random courses of every way to change a session, on each store, against a tree that fits on a page.

The model knows a parent for each message and a head for each session; whatever a person did, in whatever order,
with stale handles, several writers and restarts between, the ledger must show what the model shows, and its own
invariants must hold. Undone messages count: they are compared too.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.adapters.stores.sqlite import open_ledger
from clew.domain.conversation.ids import MessageId, PrincipalId, SessionId
from clew.domain.conversation.messages import Head, Message, NewMessage
from clew.domain.ledger.commits import Append, Compact, MoveHead, Note, PointConversation, SessionPatch
from clew.domain.ledger.errors import HeadMoved, NotFound
from clew.domain.ledger.navigation import redo_target
from clew.domain.ledger.rows import CallState, Handle, OpKind, Order
from clew.runtime.ports.ledger import Ledger
from clew.testing.invariants import check, check_all, check_hidden, reads_of
from clew.testing.ledgers import (
    ANN,
    BOB,
    EVE,
    PEOPLE,
    START_MS,
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

T = TypeVar("T")
START = 0
"""The node before the first message of everything."""
ROUTE = "telegram:1"
Choice = st.integers(min_value=0, max_value=10**6)


@dataclass
class Summary:
    upto: int
    previous: Summary | None


@dataclass
class Talk:
    """A session as the model sees it."""

    number: int
    owner: PrincipalId
    head: int
    start: int
    root: Head
    handle: Handle
    parent: Talk | None = None
    summary: Summary | None = None
    undone: list[tuple[int, Summary | None]] = field(default_factory=list)
    stale: list[Handle] = field(default_factory=list)
    alive: bool = True


class Tree:
    """Who answers whom: a parent for every message, and who wrote it. Nothing is ever taken out but by a deletion."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        self.writers: dict[int, Talk] = {}
        self.opens: set[int] = set()
        self.ids: dict[int, MessageId] = {}
        self.heads: dict[int, Head] = {}
        self.talks: list[Talk] = []

    @property
    def alive(self) -> list[Talk]:
        return [talk for talk in self.talks if talk.alive]

    def path(self, node: int) -> list[int]:
        found: list[int] = []
        while node != START:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def grow(self, talk: Talk, message: Message) -> int:
        """A message after the talk's head, as the ledger stored it."""
        node = message.id
        self.parents[node], self.texts[node], self.writers[node] = talk.head, message.text, talk
        self.ids[node], self.heads[node] = message.id, message.head
        if message.opens_turn:
            self.opens.add(node)
        talk.head = node
        return node

    def tree_of(self, talk: Talk) -> set[int]:
        """All a session has: what it wrote, and the path it was forked from."""
        return {node for node, writer in self.writers.items() if writer is talk} | set(self.path(talk.start))

    def starts(self, talk: Talk) -> list[int]:
        """What people sent to start turns, newest first."""
        return [node for node in reversed(self.path(talk.head)) if node in self.opens]

    def heirs(self, talk: Talk) -> list[Talk]:
        """Living sessions forked from this one or from its forks, sharing its tree."""
        found = [child for child in self.talks if child.parent is talk and child.start != START]
        return [each for child in found for each in ([child] if child.alive else []) + self.heirs(child)]

    def forget(self, doomed: list[Talk]) -> int:
        """How many messages go: those of deleted sessions that no living one's tree holds."""
        for talk in doomed:
            talk.alive = False
        kept = {node for talk in self.alive for node in self.tree_of(talk)}
        gone = [node for node, writer in self.writers.items() if not writer.alive and node not in kept]
        for node in gone:
            for table in (self.parents, self.texts, self.writers, self.ids, self.heads):
                del table[node]
        self.opens -= set(gone)
        return len(gone)

    def falls_back(self, summary: Summary | None, head: int) -> Summary | None:
        """The nearest summary that stands on the path of a head."""
        path = self.path(head)
        while summary is not None and summary.upto not in path:
            summary = summary.previous
        return summary


class LedgerMachine(RuleBasedStateMachine):
    """What people and programs do to sessions. Each subclass says where the ledger is kept."""

    fork_keeps_older_summaries = True

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
        messages = self._messages(talk, replies)
        await self._after(talk, await add(self.ledger, talk.handle, *messages, actor=talk.owner))

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice)
    def whole_turn(self, which: int) -> None:
        self.run(self._whole_turn(self._talk(which)))

    async def _whole_turn(self, talk: Talk) -> None:
        if talk.owner == ANN:
            handle = await run_turn(self.ledger, talk.handle, self._word(), self._word(), self._word())
            await self._after(talk, handle)

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice)
    def undo_in_mid_turn(self, which: int) -> None:
        self.run(self._undo_in_mid_turn(self._talk(which)))

    async def _undo_in_mid_turn(self, talk: Talk) -> None:
        """A tool runs; the person takes the turn back."""
        if talk.owner != ANN:
            return
        before, head, summary = talk.handle, talk.head, talk.summary
        call = tool_call(before)
        handle = await open_turn(self.ledger, before, self._word())
        handle = await ask_tool(self.ledger, handle, before.version, call)
        handle = await move_call(self.ledger, handle, call.id, CallState.STARTED)
        await self._after(talk, handle)
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
            assert [message.id for message in found] == [self.tree.ids[node] for node in starts]
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
            await self._elsewhere(talk, OpKind.RETRY, starts[0])
            answer = assistant(self._word())
            await self._after(talk, await add(self.other, talk.handle, answer, actor=talk.owner))

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice, where=Choice)
    def resume(self, which: int, where: int) -> None:
        """Any message of the tree, undone ones too."""
        talk = self._talk(which)
        self.run(self._elsewhere(talk, OpKind.RESUME, self._node(talk, where)))

    async def _elsewhere(self, talk: Talk, kind: OpKind, node: int) -> None:
        if node != talk.head:
            talk.undone.clear()
        await self._move(talk, kind, node, self._head_of(talk, node))

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
            for message in await self.ledger.path(owner, handle.session):
                self.tree.grow(child, message)
        child.summary = self._kept(talk, node, child, is_owner)
        await self._compare(child)

    def _kept(self, talk: Talk, node: int, child: Talk, is_owner: bool) -> Summary | None:
        """The summary of the parent and those before it, if it stands for the fork's path; on the fork's nodes."""
        path, own = self.tree.path(node), self.tree.path(child.head)
        summary = talk.summary
        if summary is None or summary.upto not in path:
            return None
        uptos: list[int] = []
        while summary is not None:
            uptos.append(own[path.index(summary.upto)])
            summary = summary.previous
        if not self.fork_keeps_older_summaries:
            uptos = uptos[:1] if is_owner else []
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
            await self.check_hidden(each.owner, each.handle.session)
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
            await self.check_hidden(stranger, talk.handle.session)
        await self._compare(talk)

    @precondition(lambda self: self.tree.alive)
    @rule(which=Choice, writers=st.integers(2, 4))
    def several_write_at_once(self, which: int, writers: int) -> None:
        self.run(self._race(self._talk(which), writers))

    async def _race(self, talk: Talk, writers: int) -> None:
        """One of them wins, and the others are told."""
        attempts = [
            say((self.ledger, self.other)[n % 2], talk.handle, self._word(), actor=talk.owner)
            for n in range(writers)
        ]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        won = [result for result in results if isinstance(result, Handle)]
        lost = [result for result in results if isinstance(result, HeadMoved)]
        assert (len(won), len(lost)) == (1, writers - 1), results
        await self._after(talk, won[0])

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

    def _messages(self, talk: Talk, replies: int) -> list[NewMessage]:
        said = user(self._word(), actor=talk.owner)
        return [said, *(assistant(self._word()) for _ in range(replies))]

    async def _after(self, talk: Talk, handle: Handle) -> None:
        """Takes what was appended into the model, from the ledger's own answer."""
        depth = len(self.tree.path(talk.head))
        for message in await self.ledger.path(talk.owner, handle.session, above=depth):
            self.tree.grow(talk, message)
        talk.undone.clear()
        await self._moved(talk, handle)

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

    async def check_hidden(self, who: PrincipalId, session: SessionId) -> None:
        await check_hidden(self.other, who, session)

    # -- comparing -----------------------------------------------------------------------------------------------
    async def _compare(self, talk: Talk) -> None:
        """The session is what the model says, and its invariants hold; asked of the ledger that did not write."""
        session, tree = talk.handle.session, self.tree
        assert await handle_of(self.other, session, who=talk.owner) == talk.handle
        path = await self.other.path(talk.owner, session)
        assert [(m.id, m.text) for m in path] == [(tree.ids[n], tree.texts[n]) for n in tree.path(talk.head)]
        has = [
            message.id
            for branch in await self.other.branches(talk.owner, session)
            for message in await self.other.segment(talk.owner, session, branch.id)
        ]
        assert sorted(has) == sorted(tree.ids[node] for node in tree.tree_of(talk))
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
                self.tree.ids[node]: self._homes(node, living)
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


class StillClock:
    """A moment that does not pass."""

    def now_ms(self) -> int:
        return START_MS

    def monotonic(self) -> float:
        return 0.0


class SqliteMachine(LedgerMachine):
    """The one in a file."""

    # Owed, see tests/contract/test_ledgers.py: forks with older summaries, and a search in a foreign session.
    fork_keeps_older_summaries = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()

    async def open_ledger(self) -> Ledger:
        return await open_ledger(Path(self.folder.name), StillClock())

    async def check_hidden(self, who: PrincipalId, session: SessionId) -> None:
        for name, read in reads_of(self.other, who, session).items():
            if name != "search":
                await self._raises(NotFound, read())

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


EXAMPLES = settings().max_examples
"""Of the profile in force; with its usual 100, both stores together take about 20 seconds."""
LONG = settings(
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestMemoryLedger = MemoryMachine.TestCase
TestMemoryLedger.settings = settings(LONG, max_examples=2 * EXAMPLES)
TestSqliteLedger = SqliteMachine.TestCase
TestSqliteLedger.settings = settings(LONG, max_examples=max(1, EXAMPLES // 5))
