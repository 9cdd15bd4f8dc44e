"""The program that walks and searches files for `glob` and `grep`: a process of its own.

A regular expression can take forever on one line, and Python can then neither be interrupted nor do anything else;
a process can be ended. It reads one `Search` as JSON from standard input and writes one JSON value a line: `Found`
as it finds, `Finished` at the end. Whoever ended it early has what was found so far.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from clew.adapters.tools.globs import Ignored, path_pattern
from clew.adapters.tools.kinds import SAMPLE_BYTES, is_binary

FILE_BYTES_MAX: Final = 20_000_000
LINE_CHARS_MAX: Final = 400


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for below `root`. Without `pattern` names are enough; without `glob` any name will do."""

    root: str
    pattern: str | None = None
    glob: str = ""
    ignore_case: bool = False
    include_ignored: bool = False
    limit: int


class Found(msgspec.Struct, frozen=True, kw_only=True, tag="found", omit_defaults=True):
    """A file, or with `line` (counted from 1) a line in one. `path` is relative to the root."""

    path: str
    line: int = 0
    text: str = ""


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """The search came to its end, or to its limit."""

    limited: bool
    too_large: int
    unreadable: int


Answer = Found | Finished
Step = tuple[str, os.DirEntry[str], Ignored]


class Finder:
    """One search; counts what it had to pass over, so that it can be said."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._root = Path(search.root)
        self._name = path_pattern(search.glob) if search.glob else None
        self._pattern = re.compile(search.pattern or "", re.IGNORECASE if search.ignore_case else 0)
        self._too_large = 0
        self._unreadable = 0

    def answers(self) -> Iterator[Answer]:
        limited = False
        for count, found in enumerate(self._all()):
            if count == self._search.limit:
                limited = True
                break
            yield found
        yield Finished(limited=limited, too_large=self._too_large, unreadable=self._unreadable)

    def _all(self) -> Iterator[Found]:
        for relative in self._files():
            if self._search.pattern is None:
                yield Found(path=relative)
            else:
                yield from self._lines(relative)

    def _files(self) -> Iterator[str]:
        """Names below the root that the glob admits, directory by directory, sorted."""
        if self._root.is_file():
            yield ""
            return
        top = _top_of_repository(self._root)
        prefix = f"{self._root.relative_to(top).as_posix()}/" if self._root != top else ""
        for path in self._walk(self._root, prefix, self._rules_above(top)):
            relative = path[len(prefix) :]
            if self._name is None or self._name.fullmatch(relative):
                yield relative

    def _rules_above(self, top: Path) -> Ignored:
        """The rules of the directories from the repository's top down to the one above the root."""
        ignored = Ignored()
        if self._search.include_ignored or self._root == top:
            return ignored
        base, names = "", self._root.relative_to(top).parts[:-1]
        directory, ignored = top, ignored.within(top, base)
        for name in names:
            directory, base = directory / name, f"{base}{name}/"
            ignored = ignored.within(directory, base)
        return ignored

    def _walk(self, top: Path, base: str, above: Ignored) -> Iterator[str]:
        """Paths of files relative to the repository's top; `base` is the first directory's own, such as "a/b/".

        Not recursive: a tree may be deeper than Python's stack.
        """
        open_directories = [self._admitted(top, base, above)]
        while open_directories:
            path, entry, ignored = next(open_directories[-1], (None, None, None))
            if entry is None or path is None or ignored is None:
                open_directories.pop()
            elif entry.is_dir(follow_symlinks=False):
                open_directories.append(self._admitted(Path(entry.path), f"{path}/", ignored))
            elif entry.is_file():
                yield path

    def _admitted(self, directory: Path, base: str, above: Ignored) -> Iterator[Step]:
        """What is to be looked at in one directory, each with the rules in force there."""
        ignored = above if self._search.include_ignored else above.within(directory, base)
        for entry in self._entries(directory):
            path = base + entry.name
            if entry.name != ".git" and not ignored(path, is_directory=entry.is_dir(follow_symlinks=False)):
                yield path, entry, ignored

    def _entries(self, directory: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(directory) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError:
            self._unreadable += 1
            return []

    def _lines(self, relative: str) -> Iterator[Found]:
        for number, line in enumerate(self._text(self._root / relative).split("\n"), 1):
            if match := self._pattern.search(line):
                yield Found(path=relative, line=number, text=_around(line, match.start()))

    def _text(self, path: Path) -> str:
        """The file as text; empty for a binary or too large one."""
        try:
            with path.open("rb") as file:
                return self._decoded(file)
        except OSError:
            self._unreadable += 1
            return ""

    def _decoded(self, file: BinaryIO) -> str:
        if os.fstat(file.fileno()).st_size > FILE_BYTES_MAX:
            self._too_large += 1
            return ""
        data = file.read()
        return "" if is_binary(data[:SAMPLE_BYTES]) else data.decode("utf-8", errors="replace")


def _top_of_repository(root: Path) -> Path:
    """The nearest directory from the root upwards that holds a `.git`; the root itself where there is none."""
    return next((one for one in (root, *root.parents) if (one / ".git").exists()), root)


def _around(line: str, at: int) -> str:
    """The line, or the stretch of it in which the match begins."""
    line = line.rstrip("\r")
    if len(line) <= LINE_CHARS_MAX:
        return line
    start = max(0, at - LINE_CHARS_MAX // 4)
    end = start + LINE_CHARS_MAX
    return f"{'…' if start else ''}{line[start:end]}{'…' if end < len(line) else ''}"


def main(source: BinaryIO, sink: BinaryIO) -> None:
    """Answers one search; each answer is flushed, because this process may be ended at any moment."""
    for answer in Finder(msgspec.json.decode(source.read(), type=Search)).answers():
        sink.write(msgspec.json.encode(_writable(answer)) + b"\n")
        sink.flush()


def _writable(answer: Answer) -> Answer:
    """File names may be bytes that are no Unicode; JSON is."""
    match answer:
        case Found(path=path):
            return msgspec.structs.replace(answer, path=path.encode("utf-8", "replace").decode())
        case Finished():
            return answer


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
