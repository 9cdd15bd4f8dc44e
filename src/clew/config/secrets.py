"""Keys and tokens: kept in a file only its owner can read, and never shown.

Rule: a secret leaves this module as a `Secret`, whose text only `reveal()` gives. The environment comes
before the file, so that a container can be given its keys without one.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path as FilePath

from clew.config.errors import SecretsError
from clew.config.home import Home, ensure_home, exclusive, write_atomically
from clew.config.lines import toml_problem
from clew.config.toml_edit import edited


class Secret:
    """A text that is not shown: not by `repr`, `str` or a format, and no codec of ours takes it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for whoever has to send it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class Secrets:
    """The secrets of one home, as they were when they were read."""

    __slots__ = ("_environ", "_kept")

    def __init__(self, kept: Mapping[str, str], environ: Mapping[str, str]) -> None:
        self._kept = kept
        self._environ = environ

    def get(self, name: str) -> Secret | None:
        """The secret of that name from the environment, else from the file. An empty one is none."""
        text = self._environ.get(name) or self._kept.get(name)
        return Secret(text) if text else None

    def names(self) -> tuple[str, ...]:
        """The names in the file."""
        return tuple(self._kept)


def load_secrets(home: Home, environ: Mapping[str, str]) -> Secrets:
    """Reads secrets.toml, which need not exist. Raises SecretsError, also when others could read it."""
    return Secrets(_parse(_read(home.secrets), home.secrets), environ)


def set_secret(home: Home, name: str, text: str) -> None:
    """Keeps a secret; on disk when this returns. Raises SecretsError, HomeError."""
    if not (name.isascii() and name.isidentifier()):
        raise SecretsError(
            "the name of a secret has to be like the name of a variable: letters, digits and _"
        )
    ensure_home(home)
    with exclusive(home):
        before = _read(home.secrets)
        _parse(before, home.secrets)
        write_atomically(home.secrets, edited(before, (name,), text).encode())


def _read(file: FilePath) -> str:
    try:
        with file.open("rb") as stream:
            _refuse_unless_private(os.fstat(stream.fileno()), file)
            return stream.read().decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise SecretsError(f"{file} is not UTF-8 text") from None  # as below
    except OSError as error:
        raise SecretsError(f"{file} cannot be read ({error.strerror or error})") from error


def _refuse_unless_private(status: os.stat_result, file: FilePath) -> None:
    if status.st_uid != os.geteuid():
        raise SecretsError(f"{file} belongs to another user: give it to yourself, or remove it")
    if mode := stat.S_IMODE(status.st_mode) & 0o077:
        raise SecretsError(f"{file} may be used by others (mode …{mode:02o}): run `chmod 600 {file}`")


def _parse(text: str, file: FilePath) -> Mapping[str, str]:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SecretsError(str(toml_problem(error, file))) from None  # the error holds the text
    for name, value in tree.items():
        if not isinstance(value, str):
            raise SecretsError(f"{file}: {name} has to be a text in quotes")
    return tree
