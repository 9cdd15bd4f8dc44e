"""Programs of ours in processes of their own."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import asyncio, msgspec, clew
from clew.adapters.tools.declared import ToolFailed
from clew.adapters.tools.html_text import Page
from clew.adapters.tools.workers import ask_worker

def ask():
    page = msgspec.json.encode(Page(html="<p>hello", url=""))
    return asyncio.run(ask_worker("clew.adapters.tools.html_text", page, seconds=30))

print(ask().output.decode())
clew.__version__ = "the one that runs"
try:
    print(ask())
except ToolFailed as error:
    print(error)
"""


def test_a_worker_of_another_version_is_not_asked() -> None:
    """It would be started from the package on disk, which was replaced: the tool says so and nothing is guessed."""
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    text, refusal = ran.stdout.splitlines()
    assert text == "hello"
    assert "Clew was updated while this ran" in refusal
