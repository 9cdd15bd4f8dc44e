"""The `read` tool: text with line numbers, pictures as pictures, the names in a directory; anything else is refused."""

from __future__ import annotations

import asyncio
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Final

from msgspec import Meta

from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.bounded import whole_characters
from clew.adapters.tools.declared import DeclaredTool, ToolFailed
from clew.adapters.tools.kinds import SAMPLE_BYTES, binary_kind, image_type, is_binary, size_of
from clew.adapters.tools.paths import absolute
from clew.domain.tools.spec import Effect, ToolFile, ToolResult
from clew.runtime.ports.tools import TextFiles, ToolContext

LINES_MAX: Final = 2000
LINE_BYTES_MAX: Final = 2000
"""At least one line is always shown, so this is also how far a result may pass the output limit."""
SCANNED_BYTES_MAX: Final = 100_000_000
"""How far into a file lines are counted: about a second's work."""
IMAGE_BYTES_MAX: Final = 5_000_000
ENTRIES_MAX: Final = 1000


class ReadArguments(Arguments, frozen=True, kw_only=True):
    path: Annotated[
        str, Meta(min_length=1, description="File or directory; relative to the session's directory.")
    ]
    offset: Annotated[int, Meta(ge=1, description="First line to show, counted from 1.")] = 1
    limit: Annotated[int, Meta(ge=1, le=LINES_MAX, description="How many lines to show.")] = LINES_MAX


def read_tool(base: Path, output_bytes: int, files: TextFiles | None = None) -> DeclaredTool[ReadArguments]:
    """`base` is the session's directory, for describing; `output_bytes` bounds the text of a result. Text comes from
    `files`, if there are any; what is no text is looked at on the disk."""

    async def perform(arguments: ReadArguments, context: ToolContext) -> ToolResult:
        path = absolute(context.cwd, arguments.path)
        if files is not None and not await asyncio.to_thread(_is_for_the_disk, path):
            content = io.BytesIO((await files.read(path)).encode("utf-8", errors="replace"))
            return ToolResult(text=_numbered(content, arguments, output_bytes))
        return await asyncio.to_thread(_read, path, arguments, output_bytes)

    return DeclaredTool(
        name="read",
        description=(
            "Read a text file with line numbers, look at an image, or list a directory. "
            "Long files are shown in parts: go on with offset."
        ),
        arguments=ReadArguments,
        effect=Effect.READ,
        safe_to_repeat=True,
        perform=perform,
        describe=lambda arguments: f"read {absolute(base, arguments.path)}",
    )


def _read(path: Path, arguments: ReadArguments, output_bytes: int) -> ToolResult:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        return ToolResult(text=_listing(path))
    if not stat.S_ISREG(mode):
        raise ToolFailed(f"{path} is neither a file nor a directory: it is not read.")
    with path.open("rb") as file:
        sample = file.read(SAMPLE_BYTES)
        if media_type := image_type(sample):
            return _image(path, media_type)
        if is_binary(sample):
            raise ToolFailed(f"{path} is not text: {binary_kind(sample)}, {size_of(path.stat().st_size)}.")
        file.seek(0)
        return ToolResult(text=_numbered(file, arguments, output_bytes))


def _is_for_the_disk(path: Path) -> bool:
    """Whether this is no text: what no editor would show as lines."""
    if not path.is_file():
        return path.exists()
    with path.open("rb") as file:
        return is_binary(file.read(SAMPLE_BYTES))


def _listing(path: Path) -> str:
    with os.scandir(path) as entries:
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
    shown = [name.encode("utf-8", "replace").decode() for name in names[:ENTRIES_MAX]]
    if len(names) > ENTRIES_MAX:
        shown.append(f"[… {len(names) - ENTRIES_MAX:,} more entries …]")
    return f"{path}/\n" + ("\n".join(shown) if shown else "[empty directory]")


def _image(path: Path, media_type: str) -> ToolResult:
    size = path.stat().st_size
    if size > IMAGE_BYTES_MAX:
        raise ToolFailed(
            f"{path} is an image of {size_of(size)}; at most {size_of(IMAGE_BYTES_MAX)} can be shown."
        )
    data = path.read_bytes()
    return ToolResult(
        text=f"{path}: {media_type}, {size_of(len(data))}",
        files=(ToolFile(media_type=media_type, bytes=data, name=path.name),),
    )


def _numbered(file: BinaryIO, arguments: ReadArguments, output_bytes: int) -> str:
    """The lines asked for, and which part of the file they are."""
    shown: list[str] = []
    size, number, last, more = 0, 0, arguments.offset + arguments.limit - 1, False
    for number, line in enumerate(bounded_lines(file), 1):
        if number < arguments.offset:
            continue
        row = f"{number:>6}\t{line}"
        size += len(row.encode("utf-8")) + 1
        if number > last or (shown and size > output_bytes):
            more = True
            break
        shown.append(row)
    if more:
        shown.append(f"[lines {arguments.offset}-{number - 1}; there is more: go on with offset={number}]")
    elif not shown:
        shown.append(_nothing(number, arguments.offset))
    return "\n".join(shown)


def _nothing(lines: int, offset: int) -> str:
    return "[empty file]" if not lines else f"[the file has {lines} lines; there is none at offset={offset}]"


def bounded_lines(file: BinaryIO) -> Iterator[str]:
    """The lines of a file without their ends; long ones are cut, and it is said by how much.

    Never holds more than a line's limit, so a file of one endless line costs no memory. Raises ToolFailed
    SCANNED_BYTES_MAX into the file.
    """
    while line := file.readline(LINE_BYTES_MAX):
        cut = 0
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(1 << 16)):
            cut += len(rest.rstrip(b"\r\n"))
            _refuse_beyond_scan(file)
        text = whole_characters(line) if cut else line.decode("utf-8", errors="replace").rstrip("\r\n")
        yield f"{text}[… {cut:,} more bytes]" if cut else text
        _refuse_beyond_scan(file)


def _refuse_beyond_scan(file: BinaryIO) -> None:
    if file.tell() > SCANNED_BYTES_MAX:
        raise ToolFailed(
            f"Lines beyond the first {size_of(SCANNED_BYTES_MAX)} of a file are not read: use grep or sed."
        )
