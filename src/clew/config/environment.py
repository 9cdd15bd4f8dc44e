"""Settings from the environment: `CLEW__SECTION__KEY` for any of them, and three short names.

`CLEW_API_KEY` holds a secret, so what becomes a setting is only where to find it. A short name that is empty counts as
unset, as in the files of container tools; long names win over short ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from clew.config.schema import TOP, Leaf, Named, Node, Path, child

PREFIX: Final = "CLEW__"
SERVER: Final = "CLEW_BASE_URL"
PROVIDER: Final[Path] = ("model", "provider")
VALUES: Final[Mapping[str, Path]] = {"CLEW_MODEL": ("model", "name"), SERVER: ("model", "base_url")}
SECRETS: Final[Mapping[str, Path]] = {"CLEW_API_KEY": ("model", "api_key_env")}
DATABASE: Final = "CLEW_DATABASE_URL"
SHORT_NAMES: Final = frozenset({"CLEW_HOME", DATABASE, *VALUES, *SECRETS})


def variables(environ: Mapping[str, str], known: Iterable[Path]) -> Iterator[tuple[str, Path, str]]:
    """The variables that set something: name, path and text; later ones win.

    `known` are paths that exist already: a name of the user's choosing is spelled as it is there, because a
    variable cannot hold its small letters and hyphens.
    """
    known = list(known)
    if environ.get(SERVER) and PROVIDER in known:
        # Another server than that of the file's provider, whose key it is not to be shown.
        yield SERVER, PROVIDER, ""
        yield SERVER, SECRETS["CLEW_API_KEY"], ""
    for name, path in VALUES.items():
        if text := environ.get(name):
            yield name, path, text
    for name, path in SECRETS.items():
        if environ.get(name):
            yield name, path, name
    for name in sorted(environ):
        if name.startswith(PREFIX):
            yield name, _path(name.removeprefix(PREFIX).split("__"), known), environ[name]


def _path(parts: list[str], known: list[Path]) -> Path:
    path: Path = ()
    node: Node | None = TOP
    for part in parts:
        name = part.lower()
        if isinstance(node, Named):
            name = _chosen(part, node, (other[len(path)] for other in known if other[: len(path)] == path))
        path = (*path, name)
        node = None if node is None or isinstance(node, Leaf) else child(node, name)
    return path


def _chosen(part: str, node: Named, names: Iterable[str]) -> str:
    """A user's own name: as in the file, else in small letters; the names of `env` and `headers` stay."""
    for name in names:
        if name.replace("-", "_").lower() == part.lower():
            return name
    return part if isinstance(node.item, Leaf) else part.lower()
