"""The `write` and `edit` tools. A file changes as a whole or not at all, and the result shows what changed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from clew.adapters.processes.uninterrupted import in_thread
from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.declared import DeclaredTool, ToolFailed
from clew.adapters.tools.diffs import count_changes, unified_diff
from clew.adapters.tools.kinds import SAMPLE_BYTES, is_binary, size_of
from clew.adapters.tools.paths import absolute
from clew.adapters.tools.replacing import replaced
from clew.adapters.tools.writing import TEXT_BYTES_MAX, TextFile, write_whole
from clew.domain.conversation.text import clean
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.ports.tools import TextFiles, ToolContext

_PATH: Final = Meta(min_length=1, description="The file; relative to the session's directory.")


class WriteArguments(Arguments, frozen=True, kw_only=True):
    path: Annotated[str, _PATH]
    text: Annotated[str, Meta(description="The whole new content.")]


class EditArguments(Arguments, frozen=True, kw_only=True):
    path: Annotated[str, _PATH]
    old_text: Annotated[
        str, Meta(min_length=1, description="Exactly what stands in the file, white space included.")
    ]
    new_text: Annotated[str, Meta(description="What shall stand there instead.")]
    replace_all: Annotated[bool, Meta(description="Replace every occurrence, not just the only one.")] = False


def write_tool(
    base: Path, writing: asyncio.Lock, files: TextFiles | None = None
) -> DeclaredTool[WriteArguments]:
    """`writing` is held during a change, so that two calls of one step cannot lose each other's. With `files`, text is
    written there, and not on the disk."""

    async def perform(arguments: WriteArguments, context: ToolContext) -> ToolResult:
        path = absolute(context.cwd, arguments.path)
        async with writing:
            if files is not None:
                return await _write_in(files, path, arguments.text)
            return await in_thread(lambda: _write(path, arguments.text))

    return DeclaredTool(
        name="write",
        description="Create a file, or replace all of its content. Missing directories are made.",
        arguments=WriteArguments,
        effect=Effect.EDIT,
        safe_to_repeat=True,
        perform=perform,
        describe=lambda arguments: (
            f"write {size_of(len(arguments.text.encode(errors='replace')))} to {absolute(base, arguments.path)}"
        ),
    )


def _write(named: Path, wanted: str) -> ToolResult:
    path = Path(os.path.realpath(named))  # a symbolic link stays one
    text = clean(wanted).text
    before = _text_before(path)
    write_whole(path, text.encode("utf-8"))
    return _wrote(path, text, before)


async def _write_in(files: TextFiles, path: Path, wanted: str) -> ToolResult:
    text = clean(wanted).text
    before = await asyncio.to_thread(_text_before, path)
    if before is not None and before is not _NO_TEXT:
        before = await files.read(path)
    await files.write(path, text)
    return _wrote(path, text, before)


def _wrote(path: Path, text: str, before: str | None) -> ToolResult:
    if before == text:
        return ToolResult(text=f"{path} already had this content.")
    diff = "" if before is _NO_TEXT else unified_diff(before, text, path)
    return ToolResult(text=f"{_written(path, text, before)}.", diff=diff)


_NO_TEXT: Final = "\0"
"""Stands for content that cannot be compared: binary, or too large."""


def _text_before(path: Path) -> str | None:
    """What stood in the file; None if there was none. Raises ToolFailed for a directory or device."""
    if not path.exists():
        return None
    if not path.is_file():
        raise ToolFailed(f"{path} is not a regular file: it is not replaced.")
    if path.stat().st_size > TEXT_BYTES_MAX:
        return _NO_TEXT
    data = path.read_bytes()
    return _NO_TEXT if is_binary(data[:SAMPLE_BYTES]) else data.decode("utf-8", errors="surrogateescape")


def _written(path: Path, text: str, before: str | None) -> str:
    verb = "Created" if before is None else "Replaced"
    return f"{verb} {path} ({size_of(len(text.encode('utf-8')))}, {len(text.splitlines())} lines)"


def edit_tool(
    base: Path, writing: asyncio.Lock, files: TextFiles | None = None
) -> DeclaredTool[EditArguments]:
    """`writing` and `files` as for `write_tool`."""

    async def perform(arguments: EditArguments, context: ToolContext) -> ToolResult:
        path = absolute(context.cwd, arguments.path)
        async with writing:
            if files is not None:
                return await _edit_in(files, path, arguments)
            return await in_thread(lambda: _edit(path, arguments))

    return DeclaredTool(
        name="edit",
        description=(
            "Replace a stretch of text in a file. The old text must stand there exactly once; add lines around it "
            "until it does, or set replace_all."
        ),
        arguments=EditArguments,
        effect=Effect.EDIT,
        safe_to_repeat=False,
        perform=perform,
        describe=lambda arguments: (
            f"edit {absolute(base, arguments.path)}: replace {_lines(arguments.old_text)} with "
            f"{_lines(arguments.new_text)}" + (", everywhere" if arguments.replace_all else "")
        ),
    )


def _edit(named: Path, arguments: EditArguments) -> ToolResult:
    path = Path(os.path.realpath(named))
    file = TextFile.read(path)
    after = _changed(file.text, arguments)
    file.replace(after)
    return _edited(path, file.text, after)


async def _edit_in(files: TextFiles, path: Path, arguments: EditArguments) -> ToolResult:
    before = await files.read(path)
    after = _changed(before, arguments)
    await files.write(path, after)
    return _edited(path, before, after)


def _changed(text: str, arguments: EditArguments) -> str:
    return replaced(
        text,
        clean(arguments.old_text).text,
        clean(arguments.new_text).text,
        everywhere=arguments.replace_all,
    )


def _edited(path: Path, before: str, after: str) -> ToolResult:
    diff = unified_diff(before, after, path)
    added, removed = count_changes(diff)
    return ToolResult(text=f"Edited {path}: {added} lines added, {removed} removed.", diff=diff)


def _lines(text: str) -> str:
    count = len(text.splitlines())
    return "nothing" if not count else f"{count} line" if count == 1 else f"{count} lines"
