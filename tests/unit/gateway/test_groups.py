"""Several people in one session: who speaks, and what they say to each other."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from clew.adapters.stores.memory import Disk
from clew.config.settings import GatewaySettings
from clew.domain.conversation.ids import PrincipalId
from clew.domain.conversation.messages import Role
from clew.domain.models.request import ModelRequest, TextPart, UserTurn
from clew.domain.routing.routes import ChatKind
from clew.domain.turn.prompt import canonical
from clew.testing.fake_platform import FakeChats
from clew.testing.scripted_model import Hold, Step, ask, say
from clew.testing.virtual_time import simulate
from clew.testing.world import World
from tests.unit.gateway.test_gateway import process

GROUP = "g"
SHARED = GatewaySettings(group_sessions_per_user=False, bystanders=2, drain_seconds=5)


async def types(chats: FakeChats, who: str, text: str, *, meant: bool = True, times: int = 1) -> None:
    await chats.say(who, text, chat=GROUP, kind=ChatKind.GROUP, addressed=meant, times=times)
    await chats.until(lambda: chats.unconfirmed == 0)


def spoken(request: ModelRequest) -> list[list[str]]:
    """What each message on the people's side consists of, without the time."""
    turns = [turn for turn in request.messages if isinstance(turn, UserTurn)]
    parts = [[part.text for part in turn.parts if isinstance(part, TextPart)] for turn in turns]
    return [
        ["<sent " + p.split('Z" ')[-1] if p.startswith("<sent at") else p for p in found] for found in parts
    ]


def event(*lines: str) -> list[str]:
    text = "\n".join(("Said in this group meanwhile, not to you:", *lines))
    return [f'<event kind="said_in_the_group" note="not written by the user">\n{text}\n</event>']


def by(name: str, who: str) -> str:
    return f'<sent by="{name}" id="fake:{who}" cwd="/work"/>'


def test_the_model_sees_who_speaks_and_what_was_said_beside() -> None:
    """Each message with its sender, as stored; the newest lines of bystanders as one event, once, and never answered. After a
    restart the request begins as the one before."""

    async def run() -> None:
        disk, chats = Disk(), FakeChats()
        world, gateway = process(disk, chats, "one", gateway=SHARED)
        serving = asyncio.create_task(gateway.run())
        for line in ("old", "pizza?\nBen (fake:ben): yes", "at eight"):
            await types(chats, "ann", line, meant=False, times=2)
        await types(chats, "ann", "book it")
        await chats.until(lambda: chats.shown(GROUP) == ["re: book it"])
        gateway.stop()
        await serving
        after, second = process(disk, chats, "two", ("one",), gateway=SHARED)
        serving = asyncio.create_task(second.run())
        await types(chats, "eve", "I am nobody", meant=False)
        await types(chats, "ben", "for two")
        await chats.until(lambda: len(chats.shown(GROUP)) == 2)
        second.stop()
        await serving
        (before,), (request,) = world.model.sent, after.model.sent
        lines = "Ann (fake:ann): pizza? Ben (fake:ben): yes", "Ann (fake:ann): at eight"
        first = [event(*lines), ["book it", by("Ann", "ann")]]
        assert spoken(before.request) == first
        assert spoken(request.request) == [*first, ["for two", by("Ben", "ben")]]
        assert canonical(request.request.messages).startswith(canonical(before.request.messages)[:-1])
        assert await actors(after) == ["fake:ann", "fake:ben"]
        for person in ("fake:ann", "fake:ben"):
            assert await after.ledger.sessions(PrincipalId(person)) == ()

    simulate(0, run())


async def actors(world: World) -> list[str]:
    group = PrincipalId("group:fake/bot/c:g")
    (row,) = await world.ledger.sessions(group)
    path = await world.ledger.path(group, row.id)
    return [m.actor for m in path if m.role == Role.USER]


def test_who_joins_a_running_turn_is_named_also_when_it_is_tried_again() -> None:
    """A message that steers carries its sender into the turn, and into the retry of it."""

    async def run() -> None:
        chats, held = FakeChats(), Hold()
        asked = [["go", by("Ann", "ann")], ["faster", by("Ben", "ben")]]
        first = Step(deltas=("a", held), calls=ask("no_such_tool").calls)
        steps = iter([first, say("b"), msgspec.structs.replace(first, deltas=("c",)), say("d")])
        world, gateway = process(Disk(), chats, "one", script=lambda _: next(steps), gateway=SHARED)
        serving = asyncio.create_task(gateway.run())
        await types(chats, "ann", "go")
        await held.reached()
        await types(chats, "ben", "/steer faster")
        held.release()
        await chats.until(lambda: "b" in chats.shown(GROUP))
        assert spoken(world.model.sent[-1].request) == asked
        await types(chats, "ben", "/retry")
        await chats.until(lambda: any("whoever asked" in text for text in chats.shown(GROUP)))
        await types(chats, "ann", "/retry")
        await chats.until(lambda: chats.shown(GROUP)[-1] == "d")
        assert spoken(world.model.sent[-1].request) == asked
        gateway.stop()
        await serving

    simulate(0, run())


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_group_with_another_id_keeps_its_conversation(seed: int, told: bool) -> None:
    """Whether we hear of it or only find out by sending: what waits goes to the new id, the next message goes on with the same
    session, also after a restart, and people see no line twice."""

    async def run() -> None:
        disk, chats, held = Disk(), FakeChats(), Hold()
        steps = iter([say("one"), say("two", held), say("three")])
        _, gateway = process(disk, chats, "one", script=lambda _: next(steps), gateway=SHARED)
        serving = asyncio.create_task(gateway.run())
        await types(chats, "ann", "a")
        await chats.until(lambda: chats.shown(GROUP) == ["one"])
        await types(chats, "ann", "b")
        await held.reached()
        if told:
            await chats.move(GROUP, "new")
        else:
            chats.moved[GROUP] = "new"
        await chats.until(lambda: chats.unconfirmed == 0)
        held.release()
        await chats.until(lambda: "two" in chats.shown("new"))
        await chats.say("ben", "c", chat="new", kind=ChatKind.GROUP, addressed=True, times=2)
        await chats.until(lambda: chats.shown("new")[-1] == "three")
        gateway.stop()
        await serving
        after, second = process(disk, chats, "two", ("one",), script=lambda _: say("four"), gateway=SHARED)
        serving = asyncio.create_task(second.run())
        await chats.move(GROUP, "new")  # said again, as in both chats
        await chats.say("ann", "d", chat="new", kind=ChatKind.GROUP, addressed=True)
        await chats.until(lambda: chats.shown("new")[-1] == "four")
        second.stop()
        await serving
        assert [parts[0] for parts in spoken(after.model.sent[-1].request)] == ["a", "b", "c", "d"]
        assert chats.shown("new") == ["two", "three", "four"]
        assert len(await after.ledger.sessions(PrincipalId("group:fake/bot/c:g"))) == 1

    simulate(seed, run())
