"""`@path` in a message attaches the file; the words stay as they were typed."""

from __future__ import annotations

import mimetypes
import re
from pathlib import Path
from typing import Final

from clew.runtime.turns import NewFile

FILE_BYTES_MAX: Final = 32 * 1024 * 1024
_MENTION: Final = re.compile(r'(?<!\S)@("([^"]+)"|(\S+))')


def attachments(text: str, cwd: Path) -> tuple[list[NewFile], list[str]]:
    """The files a message names, and a sentence for each that looked like one and could not be taken.

    A word after @ that is no path (a person's handle, an e-mail) is left alone.
    """
    files: list[NewFile] = []
    problems: list[str] = []
    for match in _MENTION.finditer(text):
        named = match.group(2) or match.group(3)
        path = (cwd / Path(named).expanduser()).resolve()
        if path.is_file():
            if path.stat().st_size > FILE_BYTES_MAX:
                problems.append(
                    f"{named} is larger than {FILE_BYTES_MAX // (1024 * 1024)} MB and was not attached."
                )
            else:
                files.append(attached(path))
        elif "/" in named or match.group(2):
            problems.append(f"There is no file {named}; nothing was attached for it.")
    return files, problems


def attached(path: Path) -> NewFile:
    """A file as an attachment; its type is known by its name, else text unless it holds NUL bytes."""
    content = path.read_bytes()
    kind = mimetypes.guess_type(path.name)[0]
    if kind is None or not (
        kind.startswith(("image/", "audio/", "video/", "text/")) or b"\0" in content[:8192]
    ):
        kind = "application/octet-stream" if b"\0" in content[:8192] else "text/plain"
    return NewFile(media_type=kind, bytes=content, name=path.name)
