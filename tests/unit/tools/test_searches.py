"""Searching the web through a configured service, and the past through the ledger."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.adapters.tools.toolbox import ToolboxOptions
from clew.adapters.tools.web_search import Provider, WebSearch
from clew.domain.conversation.ids import LOCAL
from clew.domain.conversation.messages import Status
from clew.testing.ledgers import BOB, begin, exchange, session_id
from tests.unit.tools.bench import Bench
from tests.unit.tools.web_server import WebServer, answer, web_server

pytestmark = pytest.mark.anyio

FOUND = [
    {"title": "Thread\nand clew", "url": "https://a.example/", "description": "A ball  of thread."},
    {"title": "Labyrinth", "url": "https://b.example/", "content": "On Crete."},
    {"title": "Third", "url": "https://c.example/"},
]


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        yield server


def searching(tmp_path: Path, web: WebServer, provider: Provider) -> Bench:
    search = WebSearch(provider=provider, base_url=web.url("/"), api_key="the-key")
    return Bench(ToolboxOptions(cwd=tmp_path, web_search=search))


def as_json(value: object) -> bytes:
    return answer(json.dumps(value).encode(), "Content-Type: application/json")


async def test_brave_is_asked_with_its_key(tmp_path: Path, web: WebServer) -> None:
    """And its results come numbered, each with address and excerpt."""
    web.pages["/res/v1/web/search"] = as_json({"type": "search", "web": {"results": FOUND}})
    result = await searching(tmp_path, web, Provider.BRAVE).run("web_search", query="a & b", limit=2)
    assert result.text == (
        "1. Thread and clew\nhttps://a.example/\nA ball of thread.\n\n2. Labyrinth\nhttps://b.example/\nOn Crete."
    )
    assert "GET /res/v1/web/search?q=a+%26+b&count=2 HTTP" in web.asked[0]
    assert "x-subscription-token: the-key" in web.asked[0].lower()


async def test_searxng_is_asked_for_json(tmp_path: Path, web: WebServer) -> None:
    """Nothing found is said."""
    web.pages["/search"] = as_json({"query": "x", "results": FOUND})
    bench = searching(tmp_path, web, Provider.SEARXNG)
    assert (await bench.run("web_search", query="x")).text.endswith("3. Third\nhttps://c.example/")
    assert "the-key" not in web.asked[0]
    web.pages["/search"] = as_json({"results": []})
    assert (await bench.run("web_search", query="x")).text == "[nothing found for 'x']"


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (answer(b"", status="429 Too Many Requests"), "brave refused the search: 429 Too Many Requests."),
        (answer(b"<html>"), "brave answered something that is no list of results"),
        (b"", "brave cannot be reached"),
    ],
)
async def test_a_service_that_fails_costs_one_sentence(
    tmp_path: Path, web: WebServer, page: bytes, sentence: str
) -> None:
    """Which does not hold the key."""
    web.pages["/res/v1/web/search"] = page
    result = await searching(tmp_path, web, Provider.BRAVE).run("web_search", query="x")
    assert result.status is Status.ERROR
    assert result.text.startswith(sentence)
    assert "the-key" not in result.text


async def test_the_past_is_found_with_session_title_date_and_role(tmp_path: Path) -> None:
    """And only that of the one who asks: the tool has no argument to ask for somebody else."""
    ledger = MemoryLedger(Disk())
    await ledger.add_principal(BOB, "Bob", "user")
    mine = await begin(ledger, 1, owner=LOCAL, title="Going  to Crete")
    await exchange(ledger, mine, "where is the labyrinth?", actor=LOCAL)
    await exchange(ledger, await begin(ledger, 2, owner=BOB), "my labyrinth is secret", actor=BOB)
    bench = Bench(ToolboxOptions(cwd=tmp_path, ledger=ledger))
    result = await bench.run("session_search", query="labyrinth")
    assert result.text.split("\n")[:2] == [
        f'{session_id(1)} "Going to Crete", 2023-11-14 22:13 UTC, user, message 1:',
        "  where is the labyrinth?",
    ]
    assert "secret" not in result.text
    assert (await bench.run("session_search", query="minotaur")).text == "[nothing was said about 'minotaur']"
