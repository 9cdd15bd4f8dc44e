"""Changes config.toml: one setting, checked before it is written, with everything else as it was."""

from __future__ import annotations

import tomllib
from pathlib import Path as FilePath

from clew.config.errors import Misfit, Problem, SettingsError
from clew.config.home import Home, ensure_home, exclusive, write_atomically
from clew.config.load import parse, read, read_text
from clew.config.schema import Path
from clew.config.toml_edit import edited
from clew.config.values import fit_text


def path_of(key: str) -> Path:
    """The path of a key as TOML writes it: `turn.busy`, `mcp."my.server".url`. Raises SettingsError."""
    path: Path = ()
    try:
        tree: object = tomllib.loads(f"{key} = 0") if "\n" not in key else {}
    except tomllib.TOMLDecodeError:
        tree = {}
    while isinstance(tree, dict) and len(tree) == 1:
        [(name, tree)] = tree.items()
        path = (*path, name)
    if tree != 0:
        raise _refused((), f"{key!r} is no key; write one as section.name, such as turn.busy")
    return path


def write_setting(home: Home, path: Path, text: str) -> bool:
    """Sets one setting to what the text stands for; on disk when this returns.

    False where the file says so already. Raises SettingsError, HomeError.
    """
    try:
        value = fit_text(path, text)
    except Misfit as error:
        raise _refused(path, str(error)) from error
    return _write(home, path, list(value) if isinstance(value, tuple) else value)


def erase_setting(home: Home, path: Path) -> bool:
    """Takes a key out of the file, also one that names no setting.

    False where the file does not hold it. Raises SettingsError, HomeError.
    """
    return _write(home, path, None)


def _write(home: Home, path: Path, value: object | None) -> bool:
    ensure_home(home)
    with exclusive(home):
        before = read_text(home.config)
        tree = parse(before, home.config)
        try:
            after = edited(before, path, value)
        except Misfit as error:
            raise _refused(path, str(error)) from error
        if parse(after, home.config) == tree:
            return False
        _refuse_new_problems(before, after, home.config)
        write_atomically(home.config, after.encode())
        return True


def _refuse_new_problems(before: str, after: str, file: FilePath) -> None:
    """A file that is wrong already may be mended one key at a time, but no change makes it worse."""
    old = {(problem.path, problem.sentence) for problem in _problems(before, file)}
    new = [problem for problem in _problems(after, file) if (problem.path, problem.sentence) not in old]
    if new:
        raise SettingsError(*new)


def _problems(text: str, file: FilePath) -> tuple[Problem, ...]:
    try:
        read(text, file, {})
    except SettingsError as error:
        return error.problems
    return ()


def _refused(path: Path, sentence: str) -> SettingsError:
    return SettingsError(Problem(path=path, sentence=sentence))
