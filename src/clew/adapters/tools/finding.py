"""The `glob` and `grep` tools: what is asked of the finder, and its answers as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.declared import DeclaredTool, ToolFailed
from clew.adapters.tools.finder import FILE_BYTES_MAX, Answer, Finished, Found, Search
from clew.adapters.tools.globs import path_pattern
from clew.adapters.tools.kinds import size_of
from clew.adapters.tools.paths import absolute
from clew.adapters.tools.workers import Answered, ask_worker
from clew.domain.conversation.text import one_line
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.ports.tools import ToolContext

LIMIT_MAX: Final = 1000
_WORKER: Final = "clew.adapters.tools.finder"

_Root = Annotated[str, Meta(min_length=1, description="Where to look; relative to the session's directory.")]
_Ignored = Annotated[bool, Meta(description="Look also at what .gitignore leaves out.")]


class GlobArguments(Arguments, frozen=True, kw_only=True):
    pattern: Annotated[str, Meta(min_length=1, description="Such as *.py, src/**/*.ts or *.{c,h}.")]
    path: _Root = "."
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 200
    include_ignored: _Ignored = False


class GrepArguments(Arguments, frozen=True, kw_only=True):
    pattern: Annotated[
        str, Meta(min_length=1, description="A regular expression (Python), matched line by line.")
    ]
    path: _Root = "."
    glob: Annotated[str, Meta(description="Only files of such a name, like *.py.")] = ""
    ignore_case: bool = False
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX, description="How many lines at most.")] = 100
    include_ignored: _Ignored = False


def glob_tool(base: Path, output_bytes: int, seconds: float) -> DeclaredTool[GlobArguments]:
    """`base` is the session's directory, for describing; `output_bytes` and `seconds` bound a result."""

    async def perform(arguments: GlobArguments, context: ToolContext) -> ToolResult:
        root = _existing(absolute(context.cwd, arguments.path))
        if not root.is_dir():
            raise ToolFailed(f"{root} is not a directory.")
        search = Search(
            root=str(root),
            glob=_checked_glob(arguments.pattern),
            include_ignored=arguments.include_ignored,
            limit=arguments.limit,
        )
        return await _find(search, "no such files", context.cwd, output_bytes, seconds)

    return DeclaredTool(
        name="glob",
        description="Find files by name. What .gitignore leaves out is not shown.",
        arguments=GlobArguments,
        effect=Effect.READ,
        safe_to_repeat=True,
        perform=perform,
        describe=lambda arguments: f"find {arguments.pattern} in {absolute(base, arguments.path)}",
    )


def grep_tool(base: Path, output_bytes: int, seconds: float) -> DeclaredTool[GrepArguments]:
    """`base`, `output_bytes` and `seconds` as for `glob_tool`."""

    async def perform(arguments: GrepArguments, context: ToolContext) -> ToolResult:
        root = _existing(absolute(context.cwd, arguments.path))
        search = Search(
            root=str(root),
            pattern=_checked_pattern(arguments.pattern),
            glob=_checked_glob(arguments.glob),
            ignore_case=arguments.ignore_case,
            include_ignored=arguments.include_ignored,
            limit=arguments.limit,
        )
        return await _find(search, "no matches", context.cwd, output_bytes, seconds)

    return DeclaredTool(
        name="grep",
        description="Find lines in files by a regular expression. Skips binary files and what .gitignore leaves out.",
        arguments=GrepArguments,
        effect=Effect.READ,
        safe_to_repeat=True,
        perform=perform,
        describe=lambda arguments: f"search {arguments.pattern!r} in {absolute(base, arguments.path)}",
    )


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ToolFailed(f"There is no {path}.")
    return path


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ToolFailed(f"{one_line(pattern)!r} is not a regular expression: {error}.") from error
    return pattern


def _checked_glob(glob: str) -> str:
    try:
        path_pattern(glob)
    except re.error as error:
        raise ToolFailed(f"{one_line(glob)!r} is not a file pattern: {error}.") from error
    return glob


async def _find(search: Search, nothing: str, cwd: Path, output_bytes: int, seconds: float) -> ToolResult:
    answered = await ask_worker(_WORKER, msgspec.json.encode(search), seconds=seconds)
    answers = _answers(answered)
    lines = [_line(search, answer, cwd) for answer in answers if isinstance(answer, Found)]
    shown, notes = _bounded(lines, output_bytes)
    notes += [note for answer in answers if isinstance(answer, Finished) for note in _notes(search, answer)]
    if not answered.complete:
        notes.append(f"stopped after {seconds:g} s, not everything was looked at: search for less")
    return ToolResult(text="\n".join([*(shown or [f"[{nothing}]"]), *(f"[{note}]" for note in notes)]))


def _answers(answered: Answered) -> list[Answer]:
    """The whole lines of what was said: the last may be cut where the worker was ended."""
    whole = answered.output.split(b"\n")[:-1]
    return [msgspec.json.decode(line, type=Found | Finished) for line in whole]


def _line(search: Search, found: Found, cwd: Path) -> str:
    path = Path(search.root, found.path) if found.path else Path(search.root)
    name = str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)
    return f"{name}:{found.line}: {found.text}" if found.line else name


def _bounded(lines: list[str], output_bytes: int) -> tuple[list[str], list[str]]:
    """As many lines as fit, and a note about the rest."""
    size = 0
    for count, line in enumerate(lines):
        size += len(line.encode("utf-8")) + 1
        if size > output_bytes:
            return lines[:count], [f"{len(lines) - count} more found than can be shown"]
    return lines, []


def _notes(search: Search, finished: Finished) -> list[str]:
    notes = [f"limit of {search.limit} reached, there are more"] if finished.limited else []
    if finished.too_large:
        notes.append(f"files over {size_of(FILE_BYTES_MAX)} passed over: {finished.too_large}")
    if finished.unreadable:
        notes.append(f"files and directories that could not be read: {finished.unreadable}")
    return notes
