"""Titles and reviews in the gateway as it is shipped: there once, whenever it is killed."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from clew.adapters.stores.sqlite.connection import connect, fetch
from clew.runtime.afterwards import REVIEW_TASK, TITLE_PROMPT
from clew.runtime.sending import POLL_SECONDS
from clew.testing.crashing import CRASH
from clew.testing.model_server import ModelServer, Served
from tests.acceptance.serving import SECONDS_MAX, gateway

pytestmark = pytest.mark.anyio
ON: Final = {"CLEW__TITLES__ENABLED": "true", "CLEW__REVIEW__ENABLED": "true"}

DONE: Final = [("review", "done"), ("title", "done")]


def answer(body: Any) -> Served:
    said = str(body["messages"])
    if REVIEW_TASK in said:
        return Served(text="There are four.")
    return Served(text="Fruit, counted" if TITLE_PROMPT in said else "three")


def rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(connect(home / "clew.db", read_only=True)) as db:
        return fetch(db, query)


def states(home: Path) -> list[tuple[Any, ...]]:
    return rows(home, "SELECT kind, state FROM job ORDER BY kind")


@pytest.mark.parametrize(
    "point", ["after answer", "after take_job", "before title", "after receive:2", "before move_job:2"]
)
async def test_each_is_there_once_whenever_it_is_killed(tmp_path: Path, point: str) -> None:
    """After the answer that asks for them, when the first is taken, before the title is written, when what the review says
    was received, before its end: the next start does what is left, and nobody is told twice."""
    home = tmp_path / "home"
    async with gateway(home, ModelServer(answer), module="clew.testing.crashing", **ON) as served:
        ann = served.api.person(42, "Ann")
        await served.start(**{CRASH: point})
        served.api.say(ann, "how many?")
        assert served.process is not None
        await served.process.wait()
        await served.kill()
        await served.start()
        await served.until(lambda: served.api.shown(42))  # whether it was sent before is not known everywhere
        try:
            async with asyncio.timeout(SECONDS_MAX):
                while states(home) != DONE:  # noqa: ASYNC110 - another process does it
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            await served.kill()
            raise AssertionError(f"it came to {states(home)}\n{served.log}") from None
        assert await served.stop() == 0
        assert (await served.clew.run("doctor", environ=ON)).code == 0
    sessions = rows(home, "SELECT surface, title, end_reason FROM session ORDER BY created_at")
    assert sessions == [("telegram", "Fruit, counted", None), ("review", "review of turn 1", "done")]
    assert len(rows(home, "SELECT 1 FROM inbox WHERE kind = 'event' AND state = 'queued'")) == 1
    assert len(rows(home, "SELECT 1 FROM op WHERE kind = 'title'")) == 1
