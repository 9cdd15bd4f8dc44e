"""Tool calls as an editor shows them: the same call looks the same while it runs and when its session is loaded again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from clew.domain.conversation.messages import Status
from clew.domain.conversation.text import one_line
from clew.wire.acp_types import (
    ContentPart,
    DiffPart,
    TerminalPart,
    TextBlock,
    ToolCallLocation,
    ToolCallSent,
    ToolCallUpdate,
    ToolCallUpdateSent,
)

Kind = Literal[
    "read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other"
]
Part = ContentPart | DiffPart | TerminalPart

KINDS: Final[Mapping[str, Kind]] = {
    "read": "read",
    "write": "edit",
    "edit": "edit",
    "glob": "search",
    "grep": "search",
    "session_search": "search",
    "shell": "execute",
    "process_output": "execute",
    "web_fetch": "fetch",
    "web_search": "fetch",
}
"""By the names of our own tools; those of MCP servers say nothing of what they do."""
TELLING: Final = ("command", "path", "pattern", "url", "query")
"""The argument that says most, by the names our tools give it."""
TITLE_CHARACTERS_MAX: Final = 120


class ShownCall:
    """What is known of a call from its name and arguments alone."""

    def __init__(self, call: str, name: str, arguments: str, cwd: Path) -> None:
        self.call = call
        self.name = name
        self._cwd = cwd
        self.given = _given(arguments)
        self._raw: Any = self.given if self.given is not None else arguments

    @property
    def title(self) -> str:
        telling = next((self.given[key] for key in TELLING if key in self.given), "") if self.given else ""
        return one_line(f"{self.name} {telling}", TITLE_CHARACTERS_MAX)

    @property
    def kind(self) -> Kind:
        return KINDS.get(self.name, "other")

    @property
    def locations(self) -> list[ToolCallLocation] | None:
        if (path := self._path) is None:
            return None
        line = (self.given or {}).get("offset")
        return [ToolCallLocation(path=path, line=line if isinstance(line, int) and line >= 1 else None)]

    @property
    def parts(self) -> list[Part]:
        """What the call would change, as far as its arguments say."""
        given, path = self.given or {}, self._path
        if path is None or self.kind != "edit":
            return []
        new, old = given.get("new_text", given.get("text")), given.get("old_text")
        if not isinstance(new, str):
            return []
        return [DiffPart(path=path, new_text=new, old_text=old if isinstance(old, str) else None)]

    @property
    def _path(self) -> str | None:
        path = (self.given or {}).get("path")
        if not isinstance(path, str) or not path or self.name not in KINDS:
            return None
        return os.path.normpath(self._cwd / path)

    # -- as updates ----------------------------------------------------------------------------------------------
    def announced(self) -> ToolCallSent:
        return ToolCallSent(
            tool_call_id=self.call, title=self.title, name=self.name, kind=self.kind, status="pending",
            content=self.parts or None, locations=self.locations, raw_input=self._raw,
        )  # fmt: skip

    def asked(self) -> ToolCallUpdate:
        """As part of a question."""
        return ToolCallUpdate(
            tool_call_id=self.call, title=self.title, name=self.name, kind=self.kind, status="pending",
            content=self.parts or None, locations=self.locations, raw_input=self._raw,
        )  # fmt: skip

    def ended(self, status: Status, text: str, terminal: str | None = None) -> ToolCallUpdateSent:
        """`terminal` shows already what the text says."""
        shown: Part = _text(text) if terminal is None else TerminalPart(terminal_id=terminal)
        parts = [*self.parts, *([shown] if text else [])]
        return ToolCallUpdateSent(
            tool_call_id=self.call,
            status="completed" if status == Status.OK else "failed",
            content=parts,
            raw_output={"status": str(status), "text": text},
        )


def running(call: str) -> ToolCallUpdateSent:
    return ToolCallUpdateSent(tool_call_id=call, status="in_progress")


def shown_in_terminal(call: str, terminal: str) -> ToolCallUpdateSent:
    parts: list[Part] = [TerminalPart(terminal_id=terminal)]
    return ToolCallUpdateSent(tool_call_id=call, status="in_progress", content=parts)


def output(call: str, text: str) -> ToolCallUpdateSent:
    """What a call has said so far."""
    return ToolCallUpdateSent(tool_call_id=call, status="in_progress", content=[_text(text)])


def _text(text: str) -> ContentPart:
    return ContentPart(content=TextBlock(text=text))


def _given(arguments: str) -> dict[str, Any] | None:
    try:
        decoded = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None
