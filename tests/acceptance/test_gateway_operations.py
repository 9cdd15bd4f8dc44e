"""What whoever runs `clew serve` sees of it: `/healthz`, `/metrics`, the log."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import httpx
import pytest

from clew.testing.model_server import ModelServer, echo
from tests.acceptance.serving import gateway

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def test_health_and_metrics_of_a_running_gateway(tmp_path: Path) -> None:
    """Once it polls it is healthy, and says so with proof; a turn is counted; no word, id or token is shown; SIGTERM ends it."""
    port = free_port()
    settings = {"CLEW__HTTP__ENABLED": "true", "CLEW__HTTP__PORT": str(port)}
    async with (
        gateway(tmp_path / "home", ModelServer(echo), **settings) as served,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        ann = served.api.person(42, "Ann")
        await served.start()
        for number in (1, 2):  # when the second is answered, the first was counted
            served.api.say(ann, f"marzipan {number}")
            await served.until(lambda n=number: served.api.shown(42)[-1:] == [f"echo: marzipan {n}"])
        health = await client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (200, "ok"), health.text
        assert health.json()["channels"]["telegram"]["contact_seconds"] < 60
        metrics = await client.get("/metrics")
        assert re.search(
            r'clew_turns_total\{status="done",platform="telegram",model="[^"]+"\} [12]\n', metrics.text
        )
        assert 'clew_turn_seconds_bucket{platform="telegram",le="+Inf"} ' in metrics.text
        assert 'clew_channel_up{platform="telegram"} 1\n' in metrics.text
        for secret in ("marzipan", served.api.TOKEN, '"42"', "Ann"):
            assert secret not in health.text + metrics.text
        assert await served.stop() == 0, served.log
        assert "marzipan" not in served.log
