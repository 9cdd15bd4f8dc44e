"""What somebody probably meant. Imported for an error only: difflib and the list of time zones are slow."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from zoneinfo import available_timezones

from clew.config.environment import SHORT_NAMES
from clew.config.schema import TOP, Leaf, Named, Node, Path, child, children, dotted, places


def setting_like(path: Path) -> str:
    """How the sentence ends that begins with "there is no setting"."""
    *within, name = path
    node = _node_at(tuple(within))
    siblings = () if node is None or isinstance(node, Leaf | Named) else tuple(children(node.section))
    if sibling := _nearest(name, siblings):
        return f"did you mean {dotted((*within, sibling))}?"
    elsewhere = (dotted(place) for place, _ in places() if place[-1] == name)
    if like := next(elsewhere, None):
        return f"did you mean {like}?"
    return f"there are {', '.join(siblings)}" if siblings else f"{dotted(tuple(within))} holds one value"


def variable_like(name: str) -> str | None:
    """The short name that a variable is nearly; None for one that is something else's."""
    return next(iter(get_close_matches(name, SHORT_NAMES, n=1, cutoff=0.85)), None)


def zone_like(name: str) -> str:
    """How the sentence ends that says that a time zone is none."""
    zones = sorted(available_timezones())
    by_city = {zone.rpartition("/")[2].lower(): zone for zone in zones}
    if city := _nearest(name.replace(" ", "_").rpartition("/")[2].lower(), by_city):
        return f"did you mean {by_city[city]}?"
    return "it has to be a name such as Europe/Athens"


def _node_at(path: Path) -> Node | None:
    node: Node | None = TOP
    for name in path:
        if node is None or isinstance(node, Leaf):
            return None
        node = child(node, name)
    return node


def _nearest(word: str, words: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(word, list(words), n=1)), None)
