"""Who may do what, and who sees what: codes, links, roles, and places that look alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.config.settings import GatewaySettings, Settings
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.rows import ApprovalState
from clew.domain.models.request import ModelRequest, ToolTurn
from clew.domain.routing.pairing import CODE_SECONDS, Account, code_sha256
from clew.domain.routing.routes import ChatKind, Route, Sharing
from clew.domain.tools.spec import Effect
from clew.runtime.delegating import DelegateLimits
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.platforms import NotSent
from clew.surfaces.gateway.access import WRONG_CODES_MAX, Access
from clew.surfaces.gateway.channel import open_channel
from clew.surfaces.gateway.gateway import Gateway
from clew.testing.fake_platform import FakeChats, FakePlatform
from clew.testing.scripted_model import Step, ask
from clew.testing.virtual_time import simulate
from clew.testing.world import RecordingTool, World
from tests.unit.gateway.test_gateway import START_MS, LoopClock, answer

CODE = "abcde-12345"


class Speaker(msgspec.Struct, frozen=True):
    """Somebody, somewhere."""

    name: str
    chats: FakeChats
    chat: str = ""
    kind: ChatKind = ChatKind.DM
    thread: str | None = None

    def route(self, sharing: Sharing) -> Route:
        chat = Route(platform=self.chats.name, account="bot", chat=self.chat or self.name, thread=self.thread)
        return sharing.route(chat, self.kind, self.name)

    def owner(self, sharing: Sharing) -> PrincipalId:
        if sharing.is_shared(self.kind):
            return PrincipalId(f"group:{self.route(sharing).key}")
        return PrincipalId(f"{self.chats.name}:{self.name}")

    def is_with(self, other: Speaker, sharing: Sharing) -> bool:
        return self.route(sharing) == other.route(sharing)

    async def say(self, text: str) -> str:
        """Says something and returns the first thing that is said in return."""
        shown = self.chats.messages.setdefault(self.chat or self.name, {})
        before = len(shown)
        await self.chats.say(
            self.name, text, chat=self.chat, kind=self.kind, thread=self.thread, addressed=True
        )
        await self.chats.until(lambda: len(shown) > before)
        await self.chats.until(lambda: self.chats.unconfirmed == 0)
        return list(shown.values())[before][0]


def script(request: ModelRequest) -> Step:
    """Asks for the tool `write` where the words say so, and says the words again."""
    if isinstance(request.messages[-1], ToolTurn):
        return Step(text="it is done")
    if 'kind="task"' in str(request.messages[0]):
        return ask("write")
    step = answer(request)
    if "please delegate" in "".join(map(str, step.deltas)):
        return ask("delegate", '{"tasks": ["write it down"]}')
    return ask("write") if "please write" in "".join(map(str, step.deltas)) else step


class Served:
    """A gateway over two platforms on which some people are known."""

    def __init__(self, *, shared: bool = False, allow: tuple[str, ...] = ("ann", "ben", "4242")) -> None:
        self.tool = RecordingTool("write", effect=Effect.EXECUTE)
        self.world = World(
            MemoryLedger(Disk()),
            script,
            tools=[self.tool],
            owner="one",
            clock=LoopClock(),
            seed=0,
            delegate=DelegateLimits(),
        )
        self.one, self.two = FakeChats("one"), FakeChats("two")
        settings = Settings(gateway=GatewaySettings(group_sessions_per_user=not shared, drain_seconds=5))
        platforms = [FakePlatform(chats, edits=False, most=4000) for chats in (self.one, self.two)]
        self.gateway = Gateway([
            open_channel(self.world.services, settings, platform, Path("/work"), frozenset(allow))
            for platform in platforms
        ])  # fmt: skip

    async def offer_link(self, code: str = CODE) -> None:
        await self.world.ledger.offer_link(code_sha256(code), None, START_MS + CODE_SECONDS * 1000)


@asynccontextmanager
async def serving(served: Served) -> AsyncIterator[None]:
    running = asyncio.create_task(served.gateway.run())
    yield
    assert not running.done()
    served.gateway.stop()
    await running


def test_two_accounts_become_one_person() -> None:
    """After both showed the code and the second is sure, each goes on where it was, sees what the other said, and nobody else does."""

    async def run() -> None:
        served = Served()
        ann, other, ben = Speaker("ann", served.one), Speaker("ben", served.two), Speaker("ben", served.one)
        async with serving(served):
            assert await ann.say("apple") == "re: apple"
            assert await other.say("banana") == "re: banana"
            assert await ben.say("cherry") == "re: cherry"
            await served.offer_link()
            assert "Noted" in await ann.say(f"/pair {CODE}")
            asked = await other.say(f"/pair {CODE}")
            assert "makes you one:ann" in asked
            assert "apple" not in await other.say("/sessions")
            assert "Linked" in await other.say(f"/pair {CODE} yes")
            for mine in (ann, other):
                listed = await mine.say("/search apple") + await mine.say("/search banana")
                assert "Nothing" not in listed
                assert "cherry" not in await mine.say("/history")
                assert await mine.say("/search cherry") == "Nothing was found."
            assert "banana" in await other.say("/history")
            assert await other.say("more") == "re: more"
            assert await ben.say("/search apple") == "Nothing was found."
            assert "no such pairing code" in await ben.say(f"/pair {CODE} yes")

    simulate(0, run())


def test_an_account_that_is_unlinked_begins_anew() -> None:
    """What waits to be told there of before is not, nor answered; from then on neither side hears or finds what the other says;
    taken back as well, it is a stranger's, though the settings name it."""

    async def run() -> None:
        served = Served()
        ann, other = Speaker("ann", served.one), Speaker("ben", served.two)
        ledger = served.world.ledger
        async with serving(served):
            assert await ann.say("apple") == "re: apple"
            assert await other.say("banana") == "re: banana"
            await served.offer_link()
            await ann.say(f"/pair {CODE}")
            await other.say(f"/pair {CODE}")
            await other.say(f"/pair {CODE} yes")
            assert "Paired" not in await other.say("/remind in 2 hours cherry")
            served.two.failing.append(NotSent("Too Many Requests", 3600))
            await served.two.say("ben", "date")
            await served.two.until(lambda: not served.two.failing)
            alone = await ledger.unlink(Account("two", "ben"))
            assert alone == "two:ben#2"
            before = served.two.shown("ben")
            await asyncio.sleep(4 * 3600)  # of virtual time
            assert served.two.shown("ben") == before
            assert await other.say("elderberry") == "re: elderberry"
            for word in ("apple", "banana", "date", "cherry"):
                assert await other.say(f"/search {word}") == "Nothing was found."
            assert len((await other.say("/sessions")).splitlines()) == 1
            assert await ann.say("/search elderberry") == "Nothing was found."
            assert "banana" in await ann.say("/search banana")
            await ledger.unpair(Account("two", "ben"))
            assert "people I know" in await other.say("and now?")

    simulate(0, run())


def test_a_code_in_a_group_or_of_a_stranger_links_nobody() -> None:
    """In front of others it is not looked at; a stranger cannot begin; guessing codes ends like guessing any."""

    async def run() -> None:
        served = Served(allow=("ann",))
        ann, eve = Speaker("ann", served.one), Speaker("eve", served.one)
        aloud = Speaker("ann", served.one, "g", ChatKind.GROUP)
        async with serving(served):
            await served.offer_link()
            assert "direct message" in await aloud.say(f"/pair {CODE}")
            for _ in range(2 * WRONG_CODES_MAX):  # a code that is right is no guess
                assert "do not know you here yet" in await eve.say(f"/pair {CODE} yes")
            assert "Noted" in await ann.say(f"/pair {CODE}")
            for _ in range(WRONG_CODES_MAX):
                assert "no such pairing code" in await eve.say("/pair wrong-code")
            await eve.chats.say("eve", f"/pair {CODE} yes")
            await eve.chats.until(lambda: eve.chats.unconfirmed == 0)
            assert await served.world.ledger.identified("one", "eve") is None

    simulate(0, run())


def test_in_a_shared_group_the_asker_or_an_admin_decides() -> None:
    """In whatever case and by whatever name it is said; also for a turn that was repeated; and nobody deletes but admins."""

    async def run() -> None:
        served = Served(shared=True)
        ann, ben = (Speaker(name, served.one, "g", ChatKind.GROUP) for name in ("ann", "ben"))
        async with serving(served):
            assert "May I?" in await ann.say("please write")
            for text in ("/approve", "/APPROVE", "/Deny", "/retry", "/delete this"):
                assert "whoever asked" in await ben.say(text), text
            assert "Denied" in await ann.say("/deny")
            await served.one.until(lambda: served.one.shown("g")[-1] == "it is done")
            assert "Again" in await ann.say("/retry")
            await served.one.until(lambda: "May I?" in served.one.shown("g")[-1])
            assert "whoever asked" in await ben.say("/approve")
            assert served.tool.ran == []
            await served.world.ledger.set_role(PrincipalId("one:ben"), "admin")
            assert "Approved" in await ben.say("/approve")
            await served.one.until(lambda: served.one.shown("g")[-1] == "it is done")
            assert len(served.tool.ran) == 1

    simulate(0, run())


def test_a_subagent_is_answered_where_its_conversation_is() -> None:
    """Its question comes into the chat, says who asks, and is decided there like any other; nothing else of it is shown."""

    async def run() -> None:
        served = Served()
        ann = Speaker("ann", served.one)
        async with serving(served):
            assert await ann.say("please delegate") == "May I? subagent: write {}"
            assert "Approved" in await ann.say("/approve")
            await served.one.until(lambda: served.one.shown("ann")[-1] == "it is done")
            assert len(served.tool.ran) == 1
            assert not any("write it down" in text for text in served.one.shown("ann"))

    simulate(0, run())


def test_whoever_is_revoked_is_a_stranger() -> None:
    """At once, also on the platform where their turn was left open, and nowhere else."""

    async def run() -> None:
        served = Served(allow=())
        eve = Speaker("eve", served.one)
        async with serving(served):
            ledger = served.world.ledger
            await ledger.add_principal(PrincipalId("eve"), "eve", "user")
            await ledger.offer_pairing(code_sha256(CODE), PrincipalId("eve"), START_MS + 1000)
            assert "Paired" in await eve.say(f"/pair {CODE}")
            assert await eve.say("hello") == "re: hello"
            (person,) = [one for one in await ledger.people() if one.id == "eve"]
            assert person.accounts == (("one", "eve"),)
            here, there = (
                Access(ledger, served.world.clock, platform, frozenset()) for platform in ("one", "two")
            )
            assert await here.may_still(person.id)
            assert not await there.may_still(person.id)
            await ledger.unpair(Account("one", "eve"))
            assert "people I know" in await eve.say("hello again")
            assert not await here.may_still(person.id)

    simulate(0, run())


PLACES = (
    ("one", "ann", "", ChatKind.DM, None),
    ("one", "ben", "", ChatKind.DM, None),
    ("one", "4242", "", ChatKind.DM, None),
    ("two", "ann", "", ChatKind.DM, None),
    ("one", "ann", "g", ChatKind.GROUP, None),
    ("one", "ben", "g", ChatKind.GROUP, None),
    ("one", "4242", "g", ChatKind.GROUP, None),
    ("one", "ben", "g", ChatKind.THREAD, "4242"),
    ("one", "ben", "g/t:4242", ChatKind.GROUP, None),
)
PROBES = ("/sessions", "/history", "/why", "/status", "/usage", "/search secret", "/ps")
AIMED_PROBES = (
    "/resume session",
    "/resume title",
    "/search word",
    "/approve approval",
    "/deny approval",
    "/export session",
)


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """A session with a word, a title and a question that are its own."""

    owner: PrincipalId
    route_key: str
    session: SessionId
    word: str
    title: str
    approval: str

    def is_in(self, text: str) -> bool:
        return any(part in text for part in (self.session, self.word, self.title, self.approval))


async def settled(ledger: Ledger, number: int, speaker: Speaker, sharing: Sharing) -> Spot:
    """Somebody says a word where they are, names their session, and is asked something."""
    word, title = f"secret{number}", f"title{number}"
    await speaker.say(f"/title {title}")
    assert "May I?" in await speaker.say(f"{word}: please write")
    place = await ledger.conversation(speaker.route(sharing).key)
    assert place is not None
    assert place.session is not None
    owner = speaker.owner(sharing)
    (approval,) = await ledger.approvals(owner, place.session)
    return Spot(
        owner=owner,
        route_key=place.route_key,
        session=place.session,
        word=word,
        title=title,
        approval=approval.id,
    )


@pytest.mark.parametrize("shared", [False, True], ids=["per user", "shared"])
def test_nobody_sees_the_words_of_another(shared: bool) -> None:
    """By id, title or word, in every list and by every command: what belongs to somebody else is not there, whatever numbers
    places and people have in common."""

    async def run() -> None:
        served = Served(shared=shared)
        ledger = served.world.ledger
        sharing = Sharing(group_per_user=not shared)
        speakers = [
            Speaker(who, served.one if on == "one" else served.two, chat, kind, thread)
            for on, who, chat, kind, thread in PLACES
        ]
        async with serving(served):
            spots = [
                await settled(ledger, number, speaker, sharing)
                for number, speaker in enumerate(speakers)
                if not any(speaker.is_with(other, sharing) for other in speakers[:number])
            ]
            hidden = [
                (speaker, [spot for spot in spots if spot.owner != speaker.owner(sharing)])
                for speaker in speakers
            ]
            for probe in PROBES:
                for speaker, foreign in hidden:
                    said = await speaker.say(probe)
                    assert not any(spot.is_in(said) for spot in foreign), probe
            for probe in AIMED_PROBES:
                for speaker, foreign in hidden:
                    for spot in foreign:
                        command, what = probe.split()
                        said = await speaker.say(f"{command} {getattr(spot, what)}")
                        said = said.replace(getattr(spot, what), "")
                        assert not any(other.is_in(said) for other in foreign), probe
            for spot in spots:
                assert (await ledger.approvals(spot.owner, spot.session))[0].state == ApprovalState.PENDING
                place = await ledger.conversation(spot.route_key)
                assert place is not None
                assert place.session == spot.session
            assert served.tool.ran == []

    simulate(0, run())
