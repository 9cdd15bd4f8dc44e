"""Finds the place a path names, or says which one was probably meant."""

from __future__ import annotations

from clew.config.errors import Misfit
from clew.config.schema import TOP, Leaf, Node, Path, child, dotted, places


def leaf_at(path: Path) -> Leaf:
    """The place at a path. Raises Misfit where there is none, naming the one that was probably meant."""
    node: Node = TOP
    for depth, name in enumerate(path, 1):
        below = None if isinstance(node, Leaf) else child(node, name)
        if below is None:
            raise Misfit(_no_such_setting(path[:depth]))
        node = below
    if isinstance(node, Leaf):
        return node
    inside, _ = next(places(node, path))
    raise Misfit(f"{dotted(path)} is a section; name one of its settings, such as {dotted(inside)}")


def _no_such_setting(path: Path) -> str:
    """The sentence for a key that means nothing."""
    from clew.config.suggestions import setting_like  # noqa: PLC0415  slow to import, only for an error

    return f"there is no setting {dotted(path)}; {setting_like(path)}"
