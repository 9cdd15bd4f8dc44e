"""What `clew config` does, as functions a surface calls: plain values in, plain values out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from clew.config.environment import variables
from clew.config.errors import Misfit, Problem, SettingsError
from clew.config.home import Home
from clew.config.load import Loaded, load
from clew.config.lookup import leaf_at
from clew.config.schema import Leaf, Path, dotted, values
from clew.config.values import is_secret
from clew.config.write import erase_setting, path_of, write_setting

Plain = str | int | float | bool | list[str] | None
HIDDEN: Final = "…"


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as it holds. `source` is "default", the path of config.toml, or the name of a variable."""

    key: str
    value: Plain
    default: Plain
    source: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a change of config.toml did. `overridden_by` names the variable that wins over the file, if any."""

    key: str
    changed: bool
    overridden_by: str = ""


def list_settings(home: Home, environ: Mapping[str, str]) -> tuple[Setting, ...]:
    """Every setting as it holds now, in the order of the documentation. Raises SettingsError.

    A reset override that says nothing is left out: what holds there is the level above.
    """
    loaded = load(home, environ)
    return tuple(
        _setting(path, leaf, value, loaded)
        for path, leaf, value in values(loaded.settings)
        if not (path[0] == "reset" and value is None)
    )


def get_setting(home: Home, environ: Mapping[str, str], key: str) -> Setting:
    """One setting as it holds now. Raises SettingsError, also for a key that names none."""
    path = _existing(key)
    loaded = load(home, environ)
    for other, leaf, value in values(loaded.settings):
        if other == path:
            return _setting(path, leaf, value, loaded)
    raise SettingsError(Problem(path=path, sentence=f"{dotted(path)} is not set"))


def set_setting(home: Home, environ: Mapping[str, str], key: str, text: str) -> Change:
    """Writes one setting to config.toml, or refuses and leaves the file. Raises SettingsError, HomeError."""
    path = _existing(key)
    return _change(path, write_setting(home, path, text), environ)


def unset_setting(home: Home, environ: Mapping[str, str], key: str) -> Change:
    """Takes a key out of config.toml, also one that is no setting. Raises SettingsError, HomeError."""
    path = path_of(key)
    return _change(path, erase_setting(home, path), environ)


def _existing(key: str) -> Path:
    path = path_of(key)
    try:
        leaf_at(path)
    except Misfit as error:
        raise SettingsError(Problem(path=path, sentence=str(error))) from error
    return path


def _change(path: Path, changed: bool, environ: Mapping[str, str]) -> Change:
    winner = [name for name, other, _ in variables(environ, [path]) if other == path]
    return Change(key=dotted(path), changed=changed, overridden_by=winner[-1] if winner else "")


def _setting(path: Path, leaf: Leaf, value: object, loaded: Loaded) -> Setting:
    source = loaded.source(path)
    return Setting(
        key=dotted(path),
        value=HIDDEN if is_secret(leaf) else _plain(value),
        default=_plain(leaf.default),
        source=source.name or source.layer,
    )


def _plain(value: object) -> Plain:
    match value:
        case tuple():
            return [str(item) for item in value]
        case str() | int() | float() | None:
            return value
        case _:
            raise AssertionError(f"no setting holds {value!r}")
