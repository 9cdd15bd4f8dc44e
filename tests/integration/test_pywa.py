"""The emulated Cloud API is one to a client of others: pywa, unmodified, sends to it and reads what it posts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from clew.testing.whatsapp import OK, CloudApi

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
CLIENTS = Path(__file__).parents[2] / ".counterparts" / "clients"
SECONDS_MAX = 90
ANN = "491701234567"


async def test_pywa_talks_to_the_emulated_cloud_api() -> None:
    """Texts, by number and by an id of their own, buttons, files, templates, read marks, errors; and it takes our signatures."""
    if not (CLIENTS / ".ready").exists() or not any(CLIENTS.glob("lib/python*/site-packages/pywa")):
        pytest.skip(f"pywa is not installed: {CLIENTS}.log says why")
    posted: list[tuple[str, str]] = []

    async def deliver(headers: dict[str, str], body: bytes) -> int:
        posted.append((headers["x-hub-signature-256"], body.decode()))
        return OK

    async with CloudApi(deliver) as api:
        ann = api.person(ANN, "Ann")
        api.say(ann, "hi")
        api.tell("wamid.x", "delivered", ANN, key="s:1")
        await api.until(lambda: not api.unconfirmed)
        given = api.give(b"\x00\xffdata", "a.bin", "text/plain")
        told = "".join(f"{json.dumps(one)}\n" for one in posted)
        arguments = (api.base_url, api.NUMBER_ID, api.TOKEN, ANN, ann.user_id, api.APP_SECRET)
        program = await asyncio.create_subprocess_exec(
            str(CLIENTS / "bin" / "python"),
            str(Path(__file__).with_name("pywa_program.py")),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            said = program.communicate(f"{given['id']}\n{told}".encode())
            out, err = await asyncio.wait_for(said, SECONDS_MAX)
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        assert program.returncode == 0, err.decode()
        came = json.loads(out)
        sent = [message["id"] for message in api.messages[ANN]]
        assert [came[kind] for kind in ("text", "by_own_id", "buttons", "file", "template")] == sent
        assert api.shown(ANN) == ["hello", "hello again", "May I?", "[come_back]"]
        assert api.files_shown(ANN) == [("a.txt", b"\x00\xffdata")]
        assert api.read == ["wamid.read", "wamid.typing"]
        assert (came["fetched"], came["long"], came["revoked"]) == ("\x00\xffdata", 100, 190)
        assert came["webhooks"] == [
            [True, "hi", ANN, ann.user_id],
            [True, "delivered s:1", ANN, ann.user_id],
        ]
