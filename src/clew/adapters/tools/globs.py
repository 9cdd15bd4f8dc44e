"""File patterns: the ones people type, and the ones in `.gitignore` (gitignore(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(r"(?<![^/])\*\*/|/\*\*$|\*\*|\*|\?|\[!?\]?[^\]]*\]|\{[^{}]*\}|\\.|.", re.DOTALL)


def path_pattern(typed: str) -> re.Pattern[str]:
    """A pattern over paths relative to a directory, with `/` between names.

    `*` stays inside a name, `**` crosses directories, `{a,b}` is either; without a slash it is about the name only.
    Raises re.error for a range that runs backwards.
    """
    plain = typed.removeprefix("./").lstrip("/")
    return re.compile(("" if "/" in plain else "(?:.*/)?") + _regex(plain, braces=True), re.DOTALL)


def _regex(pattern: str, *, braces: bool) -> str:
    if pattern == "**":
        return ".*"
    return "".join(
        _either(token) if braces and len(token) > 1 and token[0] == "{" else _piece(token)
        for token in _TOKEN.findall(pattern)
    )


def _either(token: str) -> str:
    return f"(?:{'|'.join(_regex(one, braces=False) for one in token[1:-1].split(','))})"


def _piece(token: str) -> str:
    match token:
        case "**/":
            return "(?:.*/)?"
        case "/**":
            return "/.*"
        case "*" | "**":
            return "[^/]*"
        case "?":
            return "[^/]"
        case _ if len(token) > 1 and token[0] == "[":
            return _char_class(token[1:-1])
        case _ if len(token) > 1 and token[0] == "\\":
            return re.escape(token[1])
        case _:
            return re.escape(token)


def _char_class(inside: str) -> str:
    negated = inside[:1] in {"!", "^"}
    chars = re.sub(r"([\\\[\]&~|^])", r"\\\1", inside[1:] if negated else inside)
    return f"(?!/)[{'^' if negated else ''}{chars}]"


class IgnoreRule(NamedTuple):
    """One line of a `.gitignore`, made to match paths relative to that file's directory."""

    pattern: re.Pattern[str]
    keep: bool
    directories_only: bool


def ignore_rules(text: str) -> tuple[IgnoreRule, ...]:
    """The rules of a `.gitignore`, in order. A line no pattern can be made of matches nothing, as in git."""
    return tuple(_rules(text))


def _rules(text: str) -> Iterator[IgnoreRule]:
    for line in text.split("\n"):
        pattern = _without_trailing_blanks(line.removesuffix("\r"))
        if not pattern or pattern.startswith("#"):
            continue
        keep = pattern.startswith("!")
        pattern = pattern[1:] if keep else pattern
        directories_only = pattern.endswith("/")
        pattern = pattern.rstrip("/")
        anchored = "/" in pattern
        try:
            compiled = re.compile(
                ("" if anchored else "(?:.*/)?") + _regex(pattern.removeprefix("/"), braces=False), re.DOTALL
            )
        except re.error:
            continue
        if pattern:
            yield IgnoreRule(compiled, keep, directories_only)


def _without_trailing_blanks(line: str) -> str:
    stripped = line.rstrip(" ")
    return stripped + " " if stripped.endswith("\\") and stripped != line else stripped


class Ignored:
    """The rules in force in one directory: its own `.gitignore` after those of the directories above it."""

    def __init__(self, levels: tuple[tuple[str, tuple[IgnoreRule, ...]], ...] = ()) -> None:
        self._levels = levels

    def within(self, directory: Path, relative: str) -> Ignored:
        """These rules and those of `directory`, whose path relative to the top is `relative` ("" or "a/b/")."""
        rules: tuple[IgnoreRule, ...] = ()
        for source in (directory / ".git" / "info" / "exclude", directory / ".gitignore"):
            with suppress(OSError):  # there is none, or it is not ours to read: git goes on without it, too
                rules += ignore_rules(source.read_text("utf-8", errors="replace")) if source.is_file() else ()
        return Ignored((*self._levels, (relative, rules))) if rules else self

    def __call__(self, relative: str, *, is_directory: bool) -> bool:
        """Whether a path (relative to the top) is ignored: the last rule that matches decides."""
        for base, rules in reversed(self._levels):
            inner = relative[len(base) :]
            for rule in reversed(rules):
                if (is_directory or not rule.directories_only) and rule.pattern.fullmatch(inner):
                    return not rule.keep
        return False
