"""`clew serve` on WhatsApp: signed webhooks in, answers out, killed in between, and whoever else finds the address."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from clew.runtime.delivery import POSSIBLY_REPEATED
from clew.testing.model_server import ModelServer, echo
from clew.testing.whatsapp import OK, CloudApi, Fault
from tests.acceptance.serving import SECONDS_MAX, Served
from tests.acceptance.test_gateway_operations import free_port

pytestmark = pytest.mark.anyio
ANN, BEN = "491701234567", "15557654321"


@asynccontextmanager
async def whatsapp(home: Path, *, module: str = "clew", **settings: str) -> AsyncIterator[Served[CloudApi]]:
    """A home whose gateway talks on WhatsApp; it is not running yet."""
    port = free_port()
    async with CloudApi() as api, ModelServer(echo) as model:
        api.hook = f"http://127.0.0.1:{port}/whatsapp"
        own = {
            "TELEGRAM_BOT_TOKEN": "",
            "WHATSAPP_TOKEN": CloudApi.TOKEN,
            "WHATSAPP_APP_SECRET": CloudApi.APP_SECRET,
            "WHATSAPP_VERIFY_TOKEN": CloudApi.VERIFY_TOKEN,
            "CLEW__GATEWAY__WHATSAPP__BASE_URL": api.base_url,
            "CLEW__GATEWAY__WHATSAPP__PHONE_NUMBER_ID": CloudApi.NUMBER_ID,
            "CLEW__GATEWAY__WHATSAPP__ALLOW": '["+49 170 1234567"]',
            "CLEW__HTTP__PORT": str(port),
        }
        served = Served(home, model, api, ("number",), module=module, **(own | settings))
        try:
            yield served
        finally:
            await served.kill()


def rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{home / 'clew.db'}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


async def test_what_is_posted_is_answered_once_also_when_we_are_killed(tmp_path: Path) -> None:
    """One person has one conversation whatever id a message shows; a webhook that comes again for a day is one turn; killed
    before the inbox has it, it comes again, and killed after that, it is answered once."""
    home = tmp_path / "home"
    async with whatsapp(home, module="clew.testing.crashing") as served:
        api, ann = served.api, served.api.person(ANN, "Ann")
        first = api.say(ann, "one", times=3, shows="number")
        await served.start(CLEW_TEST_CRASH="before receive")
        assert served.process is not None
        await asyncio.wait_for(served.process.wait(), SECONDS_MAX)
        await served.kill()
        assert OK not in api.posted
        await served.start()
        await served.until(lambda: api.shown(ANN) == ["echo: one"] and not api.unconfirmed)
        api.say(ann, "two")
        await served.until(lambda: api.shown(ANN)[-1] == "echo: two")
        await served.kill()
        api.say(ann, "three", shows="user_id")
        api.repeat(first, times=2)
        await served.start(CLEW_TEST_CRASH="after receive")
        assert served.process is not None
        await asyncio.wait_for(served.process.wait(), SECONDS_MAX)
        await served.kill()
        await served.start()
        await served.until(lambda: api.shown(ANN)[-1] == "echo: three" and not api.unconfirmed)
        api.say(ann, 'CALL_TOOL shell {"command": "echo done"}')
        await served.until(lambda: "May I?" in api.shown(ANN)[-1])
        api.press(ann, "Allow once")
        await served.until(lambda: "the tool said: done" in api.shown(ANN)[-1])
        api.say(ann, "/status", shows="number")
        await served.until(lambda: "session " in api.shown(ANN)[-1])
        assert await served.stop() == 0, served.log
        unmarked = [text for text in api.shown(ANN) if not text.startswith(POSSIBLY_REPEATED)]
        assert len(unmarked) == len(set(unmarked)) == 7
        said = "SELECT count(*) FROM message WHERE role = 'user'"
        assert rows(home, said) == [(4,)]
        assert rows(home, "SELECT route_key FROM conversation") == [(f"whatsapp/{api.NUMBER_ID}/c:{ANN}",)]
        assert rows(home, "SELECT DISTINCT owner FROM session") == [(f"whatsapp:{ANN}",)]


async def test_whoever_cannot_sign_leaves_nothing(tmp_path: Path) -> None:
    """Forged, cut, oversize or for another number: refused or let go, no call of a model, no row; a stranger leaves none
    either. Meta's question about the address is answered to Meta alone."""
    home = tmp_path / "home"
    async with whatsapp(home) as served:
        api, ann = served.api, served.api.person(ANN, "Ann")
        await served.start()
        forged = msgspec.json.encode(api.say(ann, "forged", times=0))
        async with httpx.AsyncClient() as client:
            unsigned: dict[str, str] = {}
            for headers in (unsigned, api.signed(forged, "guess"), api.signed(forged + b" ")):
                assert (await client.post(api.hook, content=forged, headers=headers)).status_code == 403
            for body in (b"", b"null", b"{", b'{"entry": 1}', b"\xff"):
                assert (await client.post(api.hook, content=body)).status_code == 403
                assert (
                    await client.post(api.hook, content=body, headers=api.signed(body))
                ).status_code == 400
            other = forged.replace(api.NUMBER_ID.encode(), b"999")
            assert (await client.post(api.hook, content=other, headers=api.signed(other))).status_code == OK
            asks = {"hub.mode": "subscribe", "hub.challenge": "42", "hub.verify_token": "guess"}
            assert (await client.get(api.hook, params=asks)).status_code == 403
            asks["hub.verify_token"] = CloudApi.VERIFY_TOKEN
            assert (await client.get(api.hook, params=asks)).text == "42"
        api.say(api.person(BEN), "who are you?")
        await served.until(lambda: len(api.shown(BEN)) == 1)
        assert [rows(home, f"SELECT count(*) FROM {table}") for table in ("inbox", "session", "alias")] == [
            [(0,)]
        ] * 3
        assert served.model.requests == []
        api.say(ann, "hello")
        await served.until(lambda: api.shown(ANN) == ["echo: hello"])
        assert await served.stop() == 0
        assert served.log.count("wrong signature") == 1
        without = await served.clew.run("serve", "--check", environ={"WHATSAPP_APP_SECRET": ""})
        assert (without.code, "WHATSAPP_APP_SECRET" in without.err) == (2, True)


async def test_a_closed_window_is_said_and_opened_by_the_template(tmp_path: Path) -> None:
    """What did not arrive is logged; the template goes out once in its place; and whoever writes again is answered. A token
    that is taken back is said once, in the log and by the health of the gateway, which listens no longer."""
    async with whatsapp(tmp_path / "home", CLEW__GATEWAY__WHATSAPP__TEMPLATE="come_back/de") as served:
        api, ann = served.api, served.api.person(ANN, "Ann")
        await served.start()
        api.say(ann, "one")
        api.closed.add(ANN)
        await served.until(lambda: api.shown(ANN) == ["[come_back]"] and not api.unconfirmed)
        api.say(ann, "two")
        await served.until(lambda: api.shown(ANN)[1:] == ["echo: two"])
        assert api.messages[ANN][0]["template"]["language"] == {"code": "de"}
        api.revoked = True
        api.fail("messages", Fault(status=401, code=190))
        api.say(ann, "three")
        async with httpx.AsyncClient() as client, asyncio.timeout(SECONDS_MAX):
            health = api.hook.replace("/whatsapp", "/healthz")
            while "whatsapp refused us" not in (await client.get(health)).json()["reasons"]:
                pass  # each look is a call that waits for its answer
        assert await served.stop() == 1
        assert served.log.count("refused") == 1, served.log
        assert "131047" in served.log or "24 hours" in served.log
