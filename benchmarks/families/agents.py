"""Turns of another agent through the runtime: what we add to the agent's own time, kept running or started for each."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator

import msgspec

from benchmarks.bench import Bench, settle
from benchmarks.families.conversation import OneClient
from benchmarks.measure import Side, interleaved
from benchmarks.registry import benchmark
from benchmarks.rows import Row, at_most
from clew.adapters.agents.agents import AgentOptions, Agents
from clew.adapters.agents.client import Agent, AskedPermission, Update
from clew.adapters.agents.programs import AgentProgram
from clew.adapters.processes.groups import StartedGroups
from clew.domain.conversation.ids import OwnerId
from clew.domain.models.request import TextPart
from clew.runtime.ports.ledger import Ledger
from clew.testing.world import World, exchange

PROGRAM = AgentProgram(name="pretended", command=sys.executable, args=("-m", "clew.testing.fake_agent"))


class _Nobody:
    """`SessionWatch` for a prompt of which only the end matters."""

    def updated(self, update: Update) -> None:
        """Not looked at."""

    async def permission(self, asked: AskedPermission) -> bool:
        raise NotImplementedError

    async def read_file(self, path: str, line: int | None, limit: int | None) -> str:
        raise NotImplementedError

    async def write_file(self, path: str, text: str) -> None:
        raise NotImplementedError

    async def terminal(self, method: str, params: msgspec.Raw) -> object:
        raise NotImplementedError


@benchmark("agents")
async def agents(bench: Bench) -> AsyncIterator[Row]:
    """The pretended agent, whose own time is a few milliseconds. In the rounds the sides take turns."""
    folder = bench.folder("agents")
    groups = StartedGroups(folder, OwnerId("bench"))
    made = {pooled: _agents(pooled, groups) for pooled in (True, False)}
    alone = await Agent.start(PROGRAM, "", folder, environ=os.environ, groups=groups)
    try:
        session = await alone.open_session(folder, [], _Nobody())

        async def prompt(number: int) -> None:
            await alone.prompt(session, [TextPart(f"hello {number}")], {})

        async with bench.ledger("agents-pool") as kept, bench.ledger("agents-spawn") as started:
            settle()
            turn, floor = await interleaved(bench.disk, bench.rounds(100), _turns(made[True], kept), prompt)
            cold, _ = await interleaved(bench.disk, bench.rounds(20), _turns(made[False], started), prompt)
    finally:
        await alone.close()
        for each in made.values():
            await each.close()
    yield Row(
        work="a turn of an agent that is kept", samples=turn, floor=floor,
        claims=(at_most("p50 less the prompt", (turn.p50 - floor.p50) * 1e3, 15, "ms"),),
        remark="floor: the same prompt to the agent alone",
    )  # fmt: skip
    yield Row(work="  of one that is started for it", samples=cold, floor=floor)


def _agents(pooled: bool, groups: StartedGroups) -> Agents:
    options = AgentOptions(programs={"pretended": PROGRAM}, pooled=pooled)
    return Agents(options, os.environ, groups, told=lambda _: None, warn=_broken)


def _broken(sentence: str) -> None:
    raise RuntimeError(sentence)


def _turns(agents: Agents, ledger: Ledger) -> Side:
    world = World(ledger)
    world.services = msgspec.structs.replace(world.services, models=OneClient(agents.choice("acp:pretended")))
    talk = world.talk()

    async def turn(number: int) -> None:
        await exchange(talk, f"hello {number}")

    return turn
