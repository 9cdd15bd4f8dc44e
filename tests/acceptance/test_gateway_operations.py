"""What whoever runs `clew serve` sees of it: `/healthz`, `/metrics`, the log."""

from __future__ import annotations

import random
import re
import socket
from contextlib import suppress
from pathlib import Path

import httpx
import msgspec
import pytest

from clew.testing.model_server import ModelServer, echo
from clew.testing.telegram import Fault
from tests.acceptance.serving import gateway

pytestmark = pytest.mark.anyio
MARKER = "marzipan"


def free_port() -> int:
    """Below those that the system gives to whoever connects: none of them takes it meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


async def test_health_and_metrics_and_log_of_a_running_gateway(tmp_path: Path) -> None:
    """Once it polls it is healthy, with proof; turns and queues are counted; every line of the log has its ids; neither words, nor
    names, nor the token are anywhere, also where something goes wrong; SIGTERM ends it."""
    port = free_port()
    settings = {
        "CLEW__HTTP__ENABLED": "true",
        "CLEW__HTTP__PORT": str(port),
        "CLEW__GATEWAY__LOG": "json",
        "CLEW__APPROVAL__MODE": "all",
    }
    async with (
        gateway(tmp_path / "home", ModelServer(echo), **settings) as served,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        ann, stranger = served.api.person(42, "Ann"), served.api.person(77, MARKER)
        await served.start()
        served.api.say(stranger, MARKER)
        served.api.say(stranger, f"/pair {MARKER}")
        served.api.say(ann, f'CALL_TOOL shell {{"command": "echo {MARKER}; exit 3"}}')
        await served.until(lambda: any("the tool said" in text for text in served.api.shown(42)))
        served.api.fail("sendMessage", Fault(retry_after=1))
        for text in (f"/title {MARKER}", f"{MARKER} 1", f"/resume not {MARKER}", f"{MARKER} 2"):
            shown = len(served.api.shown(42))
            served.api.say(ann, text)
            await served.until(lambda n=shown: len(served.api.shown(42)) > n)
        await served.until(lambda: served.api.shown(42)[-1] == f"echo: {MARKER} 2")
        health = await client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (200, "ok"), health.text
        assert health.json()["channels"]["telegram"]["contact_seconds"] < 60
        metrics = (await client.get("/metrics")).text
        assert re.search(
            r'clew_turns_total\{status="done",platform="telegram",model="[^"]+"\} [23]\n', metrics
        )
        assert 'clew_turn_seconds_bucket{platform="telegram",le="+Inf"} ' in metrics
        assert 'clew_channel_up{platform="telegram"} 1\n' in metrics
        assert 'clew_inbox_depth{platform="telegram"} 0\n' in metrics
        assert await served.stop() == 0, served.log
        for secret in (MARKER, served.api.TOKEN, "Ann"):
            assert secret not in health.text + metrics + served.log
        lines = [msgspec.json.decode(line) for line in served.log.splitlines()]
        of_turns = [line for line in lines if line["event"] == "turn"]
        assert [line["status"] for line in of_turns] == ["done"] * 3
        ids = {"platform", "conversation", "session", "turn"}
        assert all(ids <= line.keys() for line in of_turns)
        for event, known in (
            ("received", {"message", "row"}),
            ("delivered", {"reply"}),
            ("not delivered", {"why"}),
        ):
            found = [line for line in lines if line["event"] == event]
            assert found
            assert all((ids - {"turn"} | known) <= line.keys() for line in found), found


async def test_the_check_says_what_is_ready_and_what_is_not(tmp_path: Path) -> None:
    """`clew serve --check` ends at once, a line for each thing: 0 when all is ready; 1 with a token, a port or a model that is not;
    2 with no platform at all."""
    model = ModelServer(echo)
    async with gateway(tmp_path / "home", model, CLEW__HTTP__ENABLED="true", CLEW__HTTP__PORT="0") as served:
        good = await served.clew.run("serve", "--check")
        assert good.code == 0, good.out + good.err
        lines = good.out.splitlines()
        assert all(line.startswith("ok  ") for line in lines)
        for what in ("home", "settings", "ledger", "model", "telegram as", "http://127.0.0.1:0"):
            assert sum(line.startswith(f"ok  {what}") for line in lines) == 1, good.out
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            wrong = {
                "TELEGRAM_BOT_TOKEN": "123:no",
                "CLEW__HTTP__PORT": port,
                "CLEW_BASE_URL": "http://127.0.0.1:1/v1",
            }
            bad = await served.clew.run("serve", "--check", environ=wrong)
        assert bad.code == 1
        assert "NOT telegram: Telegram does not know this token" in bad.out
        assert f"NOT http://127.0.0.1:{port}: Address already in use" in bad.out
        assert "NOT model: " in bad.out
        none = await served.clew.run("serve", "--check", environ={"TELEGRAM_BOT_TOKEN": ""})
        assert none.code == 2
        assert "no chat platform is set up" in none.err
