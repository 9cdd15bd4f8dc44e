"""`@path` in a message attaches the file; the words stay as they were typed."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clew.runtime.turns import NewFile

FILE_BYTES_MAX: Final = 32 * 1024 * 1024
FILES_MAX: Final = 20
_MENTION: Final = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')
_AFTER_A_WORD: Final = ".,;:!?)]}'\""
_MEDIA: Final = ("image/", "audio/", "video/")


def attachments(text: str, cwd: Path) -> tuple[list[NewFile], list[str]]:
    """The files a message names, and a sentence for each that looked like one and could not be taken.

    A word after @ that is no path (a person's handle, an e-mail) is left alone.
    """
    files: list[NewFile] = []
    problems: list[str] = []
    for named, path in dict(_mentioned(text, cwd)).items():
        problem = _problem(named, path)
        if problem is None and len(files) == FILES_MAX:
            problem = f"{named} was not attached: a message takes {FILES_MAX} files."
        if problem:
            problems.append(problem)
        elif _exists(path) and path.is_file():
            try:
                files.append(attached(path))
            except OSError as error:
                problems.append(f"{named} was not attached: {error.strerror or error}.")
    return files, problems


def attached(path: Path) -> NewFile:
    """A file as an attachment; its type is known by its name, else text unless it holds NUL bytes. Raises OSError."""
    content = path.read_bytes()
    kind = mimetypes.guess_type(path.name)[0] or ""
    if b"\0" in content[:8192]:
        kind = kind if kind and not kind.startswith("text/") else "application/octet-stream"
    elif not kind.startswith(_MEDIA):
        kind = kind if kind.startswith("text/") else "text/plain"
    return NewFile(media_type=kind, bytes=content, name=path.name)


def _mentioned(text: str, cwd: Path) -> Iterator[tuple[str, Path]]:
    for match in _MENTION.finditer(text):
        named = match[1] or match[2]
        path = _path(cwd, named)
        bare = named.rstrip(_AFTER_A_WORD)
        if match[1] is None and bare and not _exists(path) and _exists(_path(cwd, bare)):
            named, path = bare, _path(cwd, bare)
        yield named, path


def _path(cwd: Path, named: str) -> Path:
    try:
        return cwd / Path(named).expanduser()
    except RuntimeError:
        return cwd / named  # ~somebody who is not known here


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False  # too long for a name, or holding a NUL: no file


def _problem(named: str, path: Path) -> str | None:
    if not _exists(path):
        looks_like_one = "/" in named or "." in named.strip(".")
        return f"There is no file {named}; nothing was attached for it." if looks_like_one else None
    if path.is_dir():
        return f"{named} is a directory; nothing was attached for it."
    if path.is_file() and path.stat().st_size > FILE_BYTES_MAX:
        return f"{named} is larger than {FILE_BYTES_MAX // (1024 * 1024)} MB and was not attached."
    return None
