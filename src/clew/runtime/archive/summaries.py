"""In which order the summaries of a session can be made again.

A summary's `previous` is whatever was in force when it was made, and a new one comes into force. Going back from one to
its previous is `expand`; going forward to one made before is not a thing. So a tree of summaries is walked depth first,
and the one in force at the end comes last among its siblings, and so do those it follows from.
"""

from __future__ import annotations

from collections.abc import Mapping


def replay_order(previous: Mapping[int, int | None], in_force: int | None) -> list[int]:
    """Each summary after the one it follows from, so that expanding alone leads from each to the next's previous.

    Siblings keep their order, but for those that `in_force` follows from.
    """
    last = _chain(previous, in_force)
    following: dict[int | None, list[int]] = {}
    for number in sorted(previous, key=lambda number: (number in last, number)):
        following.setdefault(previous[number], []).append(number)
    order: list[int] = []
    stack = following.get(None, [])[::-1]
    while stack:
        number = stack.pop()
        order.append(number)
        stack += following.get(number, [])[::-1]
    return order


def _chain(previous: Mapping[int, int | None], in_force: int | None) -> set[int]:
    found: set[int] = set()
    at = in_force
    while at is not None:
        found.add(at)
        at = previous[at]
    return found
