"""Files that a tool sends: through the outbox like every reply, and never shown to a model."""

from __future__ import annotations

import asyncio

from clew.adapters.stores.memory import Disk
from clew.domain.conversation.ids import PrincipalId
from clew.domain.models.request import ToolTurn
from clew.domain.tools.spec import JsonObject, ToolFile, ToolResult
from clew.runtime.ports.platforms import MaybeSent, NotSent
from clew.runtime.ports.tools import ToolContext
from clew.testing.contracts.platforms import PICTURE
from clew.testing.fake_platform import FakeChats
from clew.testing.scripted_model import Step, ask, say
from clew.testing.virtual_time import Program, simulate
from clew.testing.world import RecordingTool
from tests.unit.gateway.test_gateway import first_reply_is, process


async def picture(_: JsonObject, __: ToolContext) -> ToolResult:
    file = ToolFile(media_type="image/png", bytes=PICTURE, name="dot.png", is_sent=True)
    return ToolResult(text="on its way", files=(file,))


def script() -> tuple[Step, ...]:
    return (ask("paint", text="Here:"), say("Nice?"))


def test_a_file_goes_out_in_its_place_and_again_with_a_mark() -> None:
    """After what was said before and before what follows, whatever goes wrong; in doubt once more, and its name says so."""

    async def run() -> None:
        chats, tools = FakeChats(), [RecordingTool("paint", answer=picture)]
        steps = iter([*script(), *script()])
        world, gateway = process(Disk(), chats, "one", script=lambda _: next(steps), tools=tools)
        serving = asyncio.create_task(gateway.run())
        await chats.say("ann", "draw")
        await chats.until(lambda: "Nice?" in chats.shown("ann"))
        assert chats.shown("ann") == ["Here:", "[file dot.png]", "Nice?"]
        assert chats.files_shown["ann"] == [("dot.png", PICTURE)]
        assert [
            turn.images for turn in world.model.sent[1].request.messages if isinstance(turn, ToolTurn)
        ] == [()]
        (row,) = await world.ledger.sessions(who := PrincipalId("fake:ann"))
        (kept,) = [m.attachments for m in await world.ledger.path(who, row.id) if m.attachments]
        assert (kept[0].name, kept[0].is_sent) == ("dot.png", True)
        chats.fails_files = [NotSent("no network"), MaybeSent("?")]
        await chats.say("ann", "again")
        await chats.until(lambda: len(chats.shown("ann")) == 6)
        assert chats.shown("ann")[3:] == ["Here:", "[file (possibly repeated) dot.png]", "Nice?"]
        assert len(tools[0].ran) == 2
        gateway.stop()
        await serving

    simulate(0, run())


def test_a_file_that_waits_when_we_are_killed_is_sent_by_the_next_process() -> None:
    """It was kept with the result of its call: the file on the disk may be another by then."""

    async def run() -> None:
        disk, chats, tools = Disk(), FakeChats(), [RecordingTool("paint", answer=picture)]
        chats.fails_files = [NotSent("no network", 600)]
        steps = iter(script())
        world, gateway = process(disk, chats, "one", script=lambda _: next(steps), tools=tools)
        program = Program()
        program.start(gateway.run())
        await chats.say("ann", "draw")
        await chats.until(lambda: not chats.fails_files)
        await first_reply_is(world, "pending")
        program.kill()
        _, second = process(disk, chats, "two", ("one",), script=lambda _: say("Nice?"))
        serving = asyncio.create_task(second.run())
        await chats.until(lambda: chats.shown("ann")[-1] == "Nice?")
        assert [text for text in chats.shown("ann") if "file" in text] == ["[file dot.png]"]
        assert len(tools[0].ran) == 1
        second.stop()
        await serving

    simulate(0, run())
