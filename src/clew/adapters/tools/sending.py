"""The `send_file` tool: a file as it is now goes to the person, where the place they talk in can take files."""

from __future__ import annotations

import asyncio
import mimetypes
import stat
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.declared import DeclaredTool, ToolFailed
from clew.adapters.tools.kinds import SAMPLE_BYTES, image_type, size_of
from clew.adapters.tools.paths import absolute
from clew.domain.tools.spec import Effect, ToolFile, ToolResult
from clew.runtime.ports.tools import ToolContext

UNKNOWN: Final = "application/octet-stream"


class SendFileArguments(Arguments, frozen=True, kw_only=True):
    path: Annotated[str, Meta(min_length=1, description="File; relative to the session's directory.")]


def send_file_tool(base: Path, bytes_max: int) -> DeclaredTool[SendFileArguments]:
    """May send what `read` may read. The bytes are kept with the result, so that repeating a call sends nothing by itself."""

    async def perform(arguments: SendFileArguments, context: ToolContext) -> ToolResult:
        return await asyncio.to_thread(_taken, absolute(context.cwd, arguments.path), bytes_max)

    return DeclaredTool(
        name="send_file",
        description=f"Send a file of at most {size_of(bytes_max)} to the person, as an attachment in the chat.",
        arguments=SendFileArguments,
        effect=Effect.READ,
        safe_to_repeat=True,
        perform=perform,
        describe=lambda arguments: f"send {absolute(base, arguments.path)}",
    )


def _taken(path: Path, bytes_max: int) -> ToolResult:
    if not stat.S_ISREG(path.stat().st_mode):
        raise ToolFailed(f"{path} is no file: it is not sent.")
    with path.open("rb") as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise ToolFailed(f"{path} is larger than {size_of(bytes_max)}: this chat does not take it.")
    if not content:
        raise ToolFailed(f"{path} is empty: it is not sent.")
    media_type = image_type(content[:SAMPLE_BYTES]) or mimetypes.guess_type(path.name)[0] or UNKNOWN
    name = path.name.encode("utf-8", "replace").decode()
    file_sent = ToolFile(media_type=media_type, bytes=content, name=name, is_sent=True)
    text = f"{path} ({size_of(len(content))}) is on its way to the person."
    return ToolResult(text=text, files=(file_sent,))
