"""`clew serve` where Telegram posts its updates, and whoever else finds the address."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from clew.testing.model_server import ModelServer, echo
from clew.testing.telegram import OK
from tests.acceptance.serving import SECONDS_MAX, gateway
from tests.acceptance.test_gateway_operations import free_port

pytestmark = pytest.mark.anyio
SECRET = "a_secret-1"
HEADER = "X-Telegram-Bot-Api-Secret-Token"


def webhook(port: int) -> dict[str, str]:
    return {
        "CLEW__HTTP__ENABLED": "true",
        "CLEW__HTTP__PORT": str(port),
        "CLEW__GATEWAY__TELEGRAM__WEBHOOK_URL": f"http://127.0.0.1:{port}/hook",
        "TELEGRAM_WEBHOOK_SECRET": SECRET,
    }


async def test_what_is_posted_is_answered_once_also_when_we_are_killed(tmp_path: Path) -> None:
    """An update has its 200 only once it is in the inbox: killed before that it comes again, and nothing is answered twice."""
    settings, module = webhook(free_port()), "clew.testing.crashing"
    async with gateway(tmp_path / "home", ModelServer(echo), module=module, **settings) as served:
        ann = served.api.person(42, "Ann")
        served.api.say(ann, "hello", times=3)
        await served.start(CLEW_TEST_CRASH="before receive")
        assert served.process is not None
        await asyncio.wait_for(served.process.wait(), SECONDS_MAX)
        await served.kill()
        assert OK not in served.api.posted
        await served.start()
        await served.shows(42, "echo: hello")
        await served.until(lambda: served.api.unconfirmed == 0)
        await served.kill()
        served.api.say(ann, "while you were away")
        await served.start()
        await served.until(lambda: served.api.shown(42)[-1] == "echo: while you were away")
        served.api.say(ann, 'CALL_TOOL shell {"command": "echo done"}')
        await served.until(lambda: "May I?" in served.api.shown(42)[-1])
        served.api.press(ann, "Allow once")
        await served.until(lambda: "the tool said: done" in served.api.shown(42)[-1])
        assert len(served.api.shown(42)) == len(set(served.api.shown(42)))
        assert not any(method == "getUpdates" for method, _ in served.api.calls)
        assert await served.stop() == 0, served.log


async def test_whoever_does_not_know_the_secret_is_not_heard(tmp_path: Path) -> None:
    """Said in the log once; what is too large or no update is refused, and the people who talk notice nothing."""
    port = free_port()
    async with gateway(tmp_path / "home", ModelServer(echo), **webhook(port)) as served:
        ann = served.api.person(42, "Ann")
        await served.start()
        served.api.say(ann, "one")
        await served.shows(42, "echo: one")
        forged = served.api.say(ann, "forged", times=0)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            update = {"update_id": 9, "message": forged}
            assert (await client.post("/hook", json=update)).status_code == 403
            for secret in (b"", SECRET[:-1].encode(), f"{SECRET}\u00e9".encode()):
                asked = await client.post("/hook", json=update, headers=[(HEADER.encode(), secret)])
                assert asked.status_code == 403
            known = {HEADER: SECRET}
            for body in (b"", b"null", b"[]", b"{", b'{"update_id": "x", "message": 1}', b"\xff"):
                assert (await client.post("/hook", content=body, headers=known)).status_code == 400
            with suppress(httpx.TransportError):  # hung up on before it was sent whole
                assert (
                    await client.post("/hook", content=b"x" * 1_000_001, headers=known)
                ).status_code == 413
            assert (await client.post("/other", content=b"{}", headers=known)).status_code == 404
        served.api.say(ann, "two")
        await served.shows(42, "echo: one", "echo: two")
        assert served.asked()[-1] == ["one", "echo: one", "two"]
        assert await served.stop() == 0
        assert served.log.count("wrong webhook secret") == 1
        without = await served.clew.run("serve", "--check", environ={"TELEGRAM_WEBHOOK_SECRET": ""})
        assert (without.code, "TELEGRAM_WEBHOOK_SECRET" in without.err) == (2, True)
