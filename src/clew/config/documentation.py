"""Writes docs/settings.md from the settings: `python -m clew.config.documentation > docs/settings.md`.

What a setting means is the line under its field, which Python does not keep: it is read from the source.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache

from clew.config import settings
from clew.config.schema import TOP, Leaf, Named, Node, Path, Table, children, dotted
from clew.config.settings import Section
from clew.config.values import expected, shown

HEAD = """\
# Settings

This file is written by `python -m clew.config.documentation`; change `src/clew/config/settings.py` instead.

Settings stand in `config.toml` in `CLEW_HOME` (`~/.clew` where that is not set). What is not there has its
default. `clew config set turn.busy steer` changes one and keeps the comments; `clew config list` shows all, and
where each comes from. A setting that is misspelt or does not fit is an error, never ignored.

The environment wins over the file. `CLEW__TURN__BUSY=steer` sets `turn.busy`, and likewise any other; a list
is written `a,b`. For the most common ones there are short names:

| variable | sets |
|---|---|
| `CLEW_MODEL` | `model.name` |
| `CLEW_BASE_URL` | `model.base_url`; a `model.provider` of the file, with its key, does not count then |
| `CLEW_API_KEY` | the key itself; `model.api_key_env` then names this variable |

Secrets do not belong in `config.toml`. A setting whose name ends in `_env` names an environment variable, or an
entry of `secrets.toml` beside it (`NAME = "secret"`, readable by its owner only), that holds the secret.
"""


def render() -> str:
    """The whole page."""
    written: dict[type[Section], Path] = {}
    return "\n".join([HEAD, *_sections(TOP, (), written)])


def meaning(section: type[Section], name: str) -> str:
    """The line under a field, also where the field is inherited; empty where there is none."""
    documented = (_lines().get((owner.__name__, name)) for owner in section.__mro__)
    return next((line for line in documented if line), "")


def _sections(node: Node, path: Path, written: dict[type[Section], Path]) -> Iterator[str]:
    """Each section once; one that takes the same settings as an earlier one only says so."""
    match node:
        case Named(item=Table() as item):
            yield from _sections(item, (*path, "NAME"), written)
        case Table(section=section) if section in written:
            yield f"`[{dotted(path)}]` takes the same settings as `[{dotted(written[section])}]`.\n"
        case Table(section=section):
            if path:
                written[section] = path
                yield f"## [{dotted(path)}]\n\n{inspect.getdoc(section)}\n"
            yield from _table(section)
            for name, below in children(section).items():
                yield from _sections(below, (*path, name), written)
        case _:
            return


def _table(section: type[Section]) -> Iterator[str]:
    rows = [_row(section, name, node) for name, node in children(section).items() if _is_value(node)]
    if rows:
        yield "\n".join(["| setting | default | takes | |", "|---|---|---|---|", *rows, ""])


def _is_value(node: Node) -> bool:
    return isinstance(node, Leaf) or (isinstance(node, Named) and isinstance(node.item, Leaf))


def _row(section: type[Section], name: str, node: Node) -> str:
    if isinstance(node, Leaf):
        default = "not set" if node.default is None else f"`{shown(node.default)}`"
        return f"| `{name}` | {default} | {expected(node.hint)} | {meaning(section, name)} |"
    return f"| `{name}` | `{{}}` | names and texts | {meaning(section, name)} |"


@cache
def _lines() -> Mapping[tuple[str, str], str]:
    """What stands under each field, by class and field."""
    found = {}
    for owner in ast.parse(inspect.getsource(settings)).body:
        if isinstance(owner, ast.ClassDef):
            for field, below in zip(owner.body, owner.body[1:], strict=False):
                match field, below:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str() as line)),
                    ):
                        found[owner.name, name] = line
                    case _:
                        continue
    return found


if __name__ == "__main__":
    sys.stdout.write(render())
