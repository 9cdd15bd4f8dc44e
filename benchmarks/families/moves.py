"""Undo, redo, fork and retry, with the reads they need: nothing they do may depend on how long the talk is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from benchmarks.bench import Bench, settle
from benchmarks.floor import Floor
from benchmarks.measure import Samples
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most
from benchmarks.talk import MODEL, OWNER, Talk, session_id, start
from benchmarks.workload import Message, Workload
from clew.domain.conversation.ids import LOCAL
from clew.domain.ledger.commits import Append, MoveHead, NewSession, OpenTurn, SetTurn
from clew.domain.ledger.navigation import redo_target
from clew.domain.ledger.rows import OpKind, Origin, TurnState

FORKS_FROM = 1_000_000
LAST_EXCHANGE = 5
BRANCHES = 200


@dataclass(kw_only=True, slots=True)
class Measured:
    undo: Samples = field(default_factory=Samples)
    redo: Samples = field(default_factory=Samples)
    fork: Samples = field(default_factory=Samples)
    retry: Samples = field(default_factory=Samples)
    floor: Samples = field(default_factory=Samples)


@benchmark("moves")
async def moves(bench: Bench) -> AsyncIterator[Row]:
    async with bench.ledger("moves") as ledger:
        short = await start(ledger, 1)
        await say(short, bench.workload.session(51, 1000))
        long = await start(ledger, 2)
        await say(long, bench.workload.session(52, 10_000))
        tree = await start(ledger, 3)
        await grow_tree(tree, bench.workload)
        settle()
        for label, talk, peer in (("1k", short, "1000"), ("10k", long, "10000"), ("200 branches", tree, "")):
            figures = await bench.peer.figures("moves", peer) if peer else {}
            for row in _rows(label, await _measure(bench, talk), figures):
                yield row


def _rows(label: str, measured: Measured, peer: dict[str, float]) -> list[Row]:
    works = {
        "undo": measured.undo,
        "redo": measured.redo,
        "fork": measured.fork,
        "retry's write": measured.retry,
    }
    return [
        Row(
            work=f"{work}, {label}",
            samples=samples,
            floor=measured.floor,
            peer=peer.get(work),
            claims=(
                at_most("p50", samples.p50 * 1e3, 0.6, "ms"),
                at_most("ratio", samples.p50 / measured.floor.p50, 3.0, "x"),
            ),
            remark="floor: delete the last exchange",
        )
        for work, samples in works.items()
    ]


async def say(talk: Talk, messages: list[Message]) -> None:
    """A conversation, one exchange to a commit."""
    exchange: list[Message] = []
    for message in messages:
        if message["role"] == "user" and exchange:
            await talk.write(exchange)
            exchange = []
        exchange.append(message)
    await talk.write(exchange)


async def grow_tree(talk: Talk, workload: Workload) -> None:
    """A path over 200 branches: each time something is said, taken back, and something else is said."""
    for number in range(BRANCHES):
        await talk.write(workload.turn(number))
        back = talk.handle.head
        await talk.write(workload.turn(number + 1000))
        await talk.move(OpKind.UNDO, back)


async def _measure(bench: Bench, talk: Talk) -> Measured:
    measured = Measured()
    await talk.write(bench.workload.turn(0))
    floor = Floor(bench.folder("moves")).create()
    floor.append(0, bench.workload.session(51, 1000))
    for number in range(bench.rounds(120)):
        with measured.undo:
            await undo(talk)
        with measured.redo:
            await redo(talk)
        with measured.fork:
            await fork(talk, FORKS_FROM * talk.handle.head.branch + number)
        await _retry(talk, measured.retry)
        with measured.floor:
            floor.cut(0, LAST_EXCHANGE)
        floor.append(0, bench.workload.turn(number))
        bench.disk.probe()
    floor.close()
    return measured


async def undo(talk: Talk) -> None:
    """What `/undo` does: find the last thing a person said, go to just before it."""
    session = talk.handle.session
    (newest,) = await talk.ledger.turn_starts(LOCAL, session, 1)
    await talk.move(OpKind.UNDO, await talk.ledger.before(LOCAL, session, newest.head))


async def redo(talk: Talk) -> None:
    """What `/redo` does: find what was taken back last, go there."""
    ops = await talk.ledger.ops(LOCAL, talk.handle.session, moving_only=True)
    target = redo_target(ops)
    assert target is not None
    await talk.move(OpKind.REDO, target)


async def fork(talk: Talk, number: int) -> None:
    """What `/branch` does: a session of its own that starts here."""
    new = NewSession(
        id=session_id(number),
        owner=LOCAL,
        surface="bench",
        origin=Origin.FORK,
        parent=talk.handle.session,
        at=talk.handle.head,
    )
    await talk.ledger.open(new, actor=LOCAL, at=0)


async def _retry(talk: Talk, samples: Samples) -> None:
    """The commit of `/retry`: back to what was asked, under a new turn. The answer that follows is not measured."""
    (asked,) = await talk.ledger.turn_starts(LOCAL, talk.handle.session, 1)
    talk.scribe.turn += 1
    turn = talk.scribe.turn
    move = MoveHead(kind=OpKind.RETRY, to=asked.head)
    opened = OpenTurn(turn=turn, principal=LOCAL, model=MODEL)
    with samples:
        await talk.commit(talk.observed(op=move, open_turn=opened, claim=OWNER))
    answer = talk.scribe.write({"role": "assistant", "content": "again"})
    done = SetTurn(turn=turn, state=TurnState.DONE, end_reason="answered")
    await talk.commit(talk.work(op=Append(turn=turn, messages=(answer,)), set_turn=done, release=True))
