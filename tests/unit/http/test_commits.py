"""What one streamed answer takes that can be counted: writes, looks at the ledger, tasks, and words on the wire."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.applications import Starlette
from starlette.types import Message

from clew.surfaces.http.line import Line
from clew.testing.scripted_model import Step
from clew.testing.virtual_time import VirtualLoop, simulate
from tests.unit.gateway.test_commits import Counting
from tests.unit.http.serving import KEY, Served, chat

LOOKS_MAX = 16
"""Of a turn without calls, which has 15. It was 18 when every part looked for itself at what the one before had just seen."""
TASKS_MAX = 9
"""It has 8. It was 17 when each event of the stream had one, and each way in which a client can leave two."""


async def _streamed(app: Starlette, session: str) -> list[Message]:
    """What is sent of a streamed answer."""
    sent: list[Message] = []
    body = iter([{"type": "http.request", "body": msgspec.json.encode(chat("hi", stream=True))}])
    over = asyncio.Event()

    async def receive() -> Message:
        if (asked := next(body, None)) is None:
            await over.wait()
        return asked or {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    given = {"authorization": f"Bearer {KEY}", "x-clew-session": session}
    headers = [(name.encode(), value.encode()) for name, value in given.items()]
    path = "/v1/chat/completions"
    await app(
        {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers},
        receive,
        send,
    )
    over.set()
    return sent


async def _until_idle(line: Line) -> None:
    while not line.is_idle:  # noqa: ASYNC110 - it sets no event
        await asyncio.sleep(0)


def test_a_streamed_turn_is_three_commits() -> None:
    """Received, taken, answered, and nothing else is written; what there is to send at once is sent at once."""

    async def run() -> None:
        ledger, loop = Counting(), asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        served = Served([Step(deltas=("Hel", "lo."))] * 2, ledger=ledger)
        app = Starlette(routes=served.api.routes)
        headers = dict((await _streamed(app, "new"))[0]["headers"])
        (line,) = served.api._lines._lines.values()
        await _until_idle(line)
        written, looks, tasks = len(ledger.writes), ledger.looks, loop.tasks_made
        sent = await _streamed(app, headers[b"x-clew-session"].decode())
        await _until_idle(line)
        writes = ledger.writes[written:]
        assert writes == ["receive", "take", "answer"]
        assert ledger.looks - looks - len(writes) <= LOOKS_MAX
        assert loop.tasks_made - tasks <= TASKS_MAX
        parts = [message["body"] for message in sent[1:]]
        assert len(parts) <= 3
        assert b"Hello." in parts[0]
        assert parts[-2].endswith(b"data: [DONE]\n\n")
        await served.api.close()

    for seed in range(20):
        simulate(seed, run())
