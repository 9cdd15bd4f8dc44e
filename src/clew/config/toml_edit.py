"""Changes one value of a TOML text and keeps the rest as a person wrote it, comments included."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, MutableMapping
from typing import Any

from clew.config.errors import Misfit
from clew.config.schema import Path, dotted

Tree = MutableMapping[str, Any]


def edited(text: str, path: Path, value: object | None) -> str:
    """The text with the value set, or with the key removed where the value is None. The text has to be TOML.

    Raises Misfit where the change cannot be made without another one, and a person has to make it. tomlkit gets
    some texts wrong (dotted keys before plain ones), so what it wrote is read again and compared.
    """
    import tomlkit  # noqa: PLC0415  slow to import, for writing only
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415

    wanted = tomllib.loads(text)
    if path[0] not in wanted and len(path) > 1 and text.strip():
        text = text.rstrip("\n") + "\n\n"
    try:
        document = tomlkit.parse(text)
        _change(document, path, value, lambda holds_tables: tomlkit.table(is_super_table=holds_tables))
        after = document.as_string().rstrip("\n") + "\n"
        found = tomllib.loads(after)
    except (TOMLKitError, ValueError) as error:
        raise _by_hand(path) from error
    _change(wanted, path, value, lambda _: {})
    if _without_empty_tables(found) != _without_empty_tables(wanted):
        raise _by_hand(path)
    return after


def _change(tree: Tree, path: Path, value: object | None, new_table: Callable[[bool], Tree]) -> None:
    for depth, name in enumerate(path[:-1], 1):
        if name not in tree:
            if value is None:
                return
            tree[name] = new_table(depth < len(path) - 1)
        tree = tree[name]
        if not isinstance(tree, MutableMapping):
            raise Misfit(f"{dotted(path[:depth])} is no section in the file: edit it by hand")
    if value is None:
        tree.pop(path[-1], None)
    else:
        tree[path[-1]] = value


def _without_empty_tables(tree: Tree) -> Tree:
    """What a text says, but for sections that hold nothing: the last key of one may take the section with it."""
    full = {
        name: _without_empty_tables(value) if isinstance(value, dict) else value
        for name, value in tree.items()
    }
    return {name: value for name, value in full.items() if value != {}}


def _by_hand(path: Path) -> Misfit:
    return Misfit(f"{dotted(path)} cannot be changed without changing more: edit the file by hand")
