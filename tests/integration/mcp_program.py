"""An MCP server for tests, written with the official package. Over pipes, or with a port as argument over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys

if sys.argv[1:] == ["broken"]:
    sys.exit("the database is missing")
if sys.argv[1:] == ["stubborn"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):  # whoever started it may be dead already
        print("waiting for something", file=sys.stderr, flush=True)
    while True:
        signal.pause()

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

server = MCPServer("test")
told = 0


@server.tool()
def echo(text: str) -> str:
    """Says it again."""
    return text


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def look(name: str) -> str:
    """A variable of the environment."""
    return os.environ.get(name, "-")


@server.tool()
def where() -> str:
    """The directory it was started in."""
    return os.getcwd()


@server.tool(annotations=ToolAnnotations(idempotent_hint=True))
def pid() -> int:
    """The number of this process."""
    return os.getpid()


@server.tool()
def count() -> int:
    """One more each time, as long as this process lives."""
    global told  # noqa: PLW0603 - the state of a server is what dies with it
    told += 1
    return told


@server.tool()
def picture() -> Image:
    """A picture, or what may pass for one."""
    return Image(data=b"\x89PNG not really", format="png")


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ToolError("that was to be expected")


@server.tool()
def die() -> str:
    """Ends the server at once."""
    os._exit(3)


@server.tool()
def child(own_session: bool) -> int:
    """Starts a process that outlives the server, unless somebody ends it."""
    return subprocess.Popen(["sleep", "1000"], start_new_session=own_session).pid


@server.tool()
async def wait(context: Context) -> str:
    """Says that it has begun, and never ends."""
    await context.report_progress(1, 2, "begun")
    await asyncio.Event().wait()
    return "never"


@server.tool()
def large(size: int) -> str:
    """As many letters."""
    return "é" * size


if __name__ == "__main__":
    if sys.argv[1:]:
        sse = sys.argv[2:] == ["sse"]
        server.run("sse" if sse else "streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
