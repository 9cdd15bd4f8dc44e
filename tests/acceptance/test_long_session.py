"""A session of ten thousand messages is used like one of ten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from clew.adapters.stores.sqlite import open_ledger
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.conversation.messages import NewMessage, Role
from clew.domain.ledger.commits import Append, AsObserver, Commit, NewSession
from clew.domain.ledger.rows import Origin
from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, echo
from clew.testing.world import HandClock

pytestmark = pytest.mark.anyio
SESSION = SessionId("0123456789ab")
TURNS = 5_000


async def fill(home: Path) -> None:
    """TURNS exchanges, a hundred a commit."""
    ledger = await open_ledger(home, HandClock())
    new = NewSession(id=SESSION, owner=LOCAL, surface="terminal", origin=Origin.NEW)
    handle = await ledger.open(new, actor=LOCAL, at=1)
    for start in range(0, TURNS, 100):
        messages = tuple(
            NewMessage(role=role, text=f"{role} {turn}", step=0 if role == Role.USER else 1, actor="a")
            for turn in range(start, start + 100)
            for role in (Role.USER, Role.ASSISTANT)
        )
        fence = AsObserver(version=handle.version, head=handle.head)
        work = Commit(
            session=SESSION, actor=LOCAL, at=2, fence=fence, op=Append(messages=messages, turn=start + 1)
        )
        handle = (await ledger.commit(work)).handle
    await ledger.close()


def people(body: bytes) -> list[str]:
    """What people said in a request."""
    decoded: Any = msgspec.json.decode(body)
    return [str(m["content"][0]["text"]) for m in decoded["messages"] if m["role"] == "user"]


async def test_undo_redo_retry_and_the_next_message_are_right(tmp_path: Path) -> None:
    """The undone exchange is in no request, redo brings it back, retry sends the last words once."""
    await fill(tmp_path / "home")
    async with ModelServer(echo, context_length=10_000_000) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        assert (await clew.run("run", "-s", SESSION, "/undo 2")).code == 0
        assert (await clew.run("run", "-s", SESSION, "/redo")).code == 0
        assert (await clew.run("run", "-s", SESSION, "/undo")).code == 0
        assert (await clew.run("run", "-s", SESSION, "next")).code == 0
        assert people(server.requests[0])[-2:] == [f"user {TURNS - 2}", "next"]
        assert len(people(server.requests[0])) == TURNS
        assert (await clew.run("run", "-s", SESSION, "/retry")).code == 0
        assert people(server.requests[1]) == people(server.requests[0])
