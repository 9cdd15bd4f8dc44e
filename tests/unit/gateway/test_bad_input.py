"""What nobody wished for: each is said or logged once, and nothing else is disturbed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clew.adapters.stores.memory import Disk
from clew.config.settings import GatewaySettings
from clew.domain.conversation.ids import PrincipalId
from clew.domain.models.request import ModelRequest
from clew.domain.routing.routes import ChatKind, group_principal
from clew.runtime.delivery import POLL_SECONDS
from clew.runtime.ports.platforms import NotSent
from clew.surfaces.gateway.platforms.telegram import Telegram
from clew.testing.contracts.platforms import received
from clew.testing.fake_platform import FakeChats
from clew.testing.scripted_model import Hold, Step
from clew.testing.telegram import BotApi
from clew.testing.virtual_time import Program, simulate
from clew.testing.world import command
from tests.unit.gateway.test_gateway import LoopClock, answer, first_reply_is, process


@pytest.mark.parametrize("shared", [False, True])
def test_who_is_taken_off_the_list_before_a_recovery_is_not_answered(shared: bool) -> None:
    """What was under way in a talk of their own ends unsaid; what they had waiting is not asked; others are answered."""

    async def run() -> None:
        disk, chats, held = Disk(), FakeChats(), Hold()
        settings = GatewaySettings(group_sessions_per_user=not shared, drain_seconds=5)
        where = ChatKind.GROUP if shared else ChatKind.DM

        async def type_(who: str, text: str) -> None:
            await chats.say(who, text, chat="g" if shared else "", kind=where, addressed=True)
            await chats.until(lambda: chats.unconfirmed == 0)

        _, first = process(disk, chats, "one", script=lambda _: Step(deltas=(held,)), gateway=settings)
        program = Program()
        program.start(first.run())
        await type_("ben" if shared else "ann", "under way")
        await held.reached()
        await type_("ann", "waits")
        program.kill()
        world, second = process(disk, chats, "two", ("one",), gateway=settings, allow=("ben",))
        serving = asyncio.create_task(second.run())
        await type_("ben", "and I?")
        await chats.until(lambda: chats.shown("g" if shared else "ben")[-1:] == ["re: and I?"])
        second.stop()
        await serving
        asked = str([sent.request.messages for sent in world.model.sent])
        assert "waits" not in asked
        assert ("under way" in asked) == shared
        assert chats.shown("ann") == []

    simulate(0, run())


@pytest.mark.parametrize("shared", [False, True])
def test_who_is_taken_off_the_list_is_told_nothing_that_waits(
    shared: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer in the outbox is not sent to them, which is said where it is looked for, and once in the log; a group is
    told its own. The turn that they began ends, and asks no model."""

    async def run() -> None:
        disk, chats, held = Disk(), FakeChats(), Hold()
        settings = GatewaySettings(group_sessions_per_user=not shared, drain_seconds=5)
        where, chat = (ChatKind.GROUP, "g") if shared else (ChatKind.DM, "ann")

        def script(request: ModelRequest) -> Step:
            return Step(deltas=(held,)) if "more" in str(request.messages) else answer(request)

        world, first = process(disk, chats, "one", script=script, gateway=settings)
        program = Program()
        program.start(first.run())
        chats.failing.append(NotSent("Too Many Requests", 3600))
        await chats.say("ann", "done", chat=chat, kind=where, addressed=True)
        await first_reply_is(world, "pending")
        await chats.say("ann", "more", chat=chat, kind=where, addressed=True)
        await held.reached()
        program.kill()
        world, second = process(disk, chats, "two", ("one",), gateway=settings, allow=("ben",))
        serving = asyncio.create_task(second.run())
        await first_reply_is(world, None)
        await asyncio.sleep(3 * POLL_SECONDS)
        second.stop()
        await serving
        assert chats.shown(chat) == (["re: done"] if shared else [])
        assert world.model.sent == []
        who = group_principal("fake/bot/c:g") if shared else PrincipalId("fake:ann")
        (row,) = await world.ledger.sessions(who)
        why = await command(world.talk(row.id, who), "/why")
        assert "turn 2: interrupted (access)" in why
        assert ("reply of turn 1 to fake not delivered: whoever talked there may not talk" in why) != shared

    simulate(0, run())
    log = capsys.readouterr().out
    assert log.count("not delivered") == (1 if shared else 2)
    assert log.count("may not talk here any more") == 1


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_an_hour_holds_nothing_up(hours: int) -> None:
    """Neither an answer that waits for its pause to end, nor what is said afterwards."""

    async def run() -> None:
        chats = FakeChats()
        world, gateway = process(Disk(), chats, "one")
        serving = asyncio.create_task(gateway.run())
        chats.failing.append(NotSent("Too Many Requests", 30))
        await chats.say("ann", "a")
        await chats.until(lambda: not chats.failing)
        assert isinstance(world.clock, LoopClock)
        since = asyncio.get_running_loop().time()
        world.clock.off_ms += hours * 3_600_000
        await chats.until(lambda: chats.shown("ann") == ["re: a"])
        await chats.say("ann", "b")
        await chats.until(lambda: chats.shown("ann") == ["re: a", "re: b"])
        assert asyncio.get_running_loop().time() - since < 40
        gateway.stop()
        await serving

    simulate(0, run())


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_no_text_of_telegrams_is_named() -> None:
    """A sticker, a place, a poll, a contact, a throw of dice; that somebody joined is nothing that was said."""
    user = {"id": 7, "is_bot": False, "first_name": "Eve"}
    odd: dict[str, Any] = {
        "location": {"latitude": 1.0, "longitude": 2.0},
        "contact": {"phone_number": "1", "first_name": "Eve"},
        "dice": {"emoji": "🎲", "value": 3},
        "poll": {
            "id": "1", "question": "?", "options": [], "total_voter_count": 0, "is_closed": False,
            "is_anonymous": True, "type": "regular", "allows_multiple_answers": False, "allows_revoting": False,
            "members_only": False, "shuffle_options": False, "hide_results_until_closes": False,
        },
    }  # fmt: skip
    async with BotApi() as api:
        platform = Telegram(BotApi.TOKEN, base_url=api.base_url)
        await platform.open()
        ann = api.person(42, "Ann")
        for kind, content in odd.items():
            api.say(ann, **{kind: content})
        api.say(ann.at(-7, "group"), new_chat_members=[user])
        api.say(ann, "hello")
        found = await received(platform, len(odd) + 1)
        assert [(one.unsupported, one.text) for one in found] == [
            *((kind, "") for kind in odd),
            ("", "hello"),
        ]
        await platform.close()
