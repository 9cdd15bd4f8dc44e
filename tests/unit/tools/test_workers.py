"""Programs of ours in processes of their own."""

from __future__ import annotations

import msgspec
import pytest

import clew
from clew.adapters.tools.declared import ToolFailed
from clew.adapters.tools.html_text import Page
from clew.adapters.tools.workers import ask_worker

pytestmark = pytest.mark.anyio
READER = "clew.adapters.tools.html_text"
PAGE = msgspec.json.encode(Page(html="<p>hello", url=""))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_worker_of_another_version_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be started from the package on disk, which was replaced: the tool says so and nothing is guessed."""
    assert b"hello" in (await ask_worker(READER, PAGE, seconds=30)).output
    monkeypatch.setattr(clew, "__version__", "the one that is running")
    with pytest.raises(ToolFailed, match="start it again"):
        await ask_worker(READER, PAGE, seconds=30)
