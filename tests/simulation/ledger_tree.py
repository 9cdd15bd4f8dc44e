"""What a ledger means, on a page: a parent for every message, and a head for every session.

No branches, no positions, no versions: the test maps the ledger's answers to this, so an error of one kind of
bookkeeping cannot hide behind the same error in another.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from clew.domain.conversation.ids import PrincipalId
from clew.domain.conversation.messages import Head, Message
from clew.domain.ledger.rows import Handle

START = 0
"""The node before the first message of everything."""


@dataclass
class Summary:
    upto: int
    previous: Summary | None


@dataclass
class Talk:
    """A session as the model sees it."""

    number: int
    owner: PrincipalId
    head: int
    start: int
    root: Head
    handle: Handle
    parent: Talk | None = None
    summary: Summary | None = None
    undone: list[tuple[int, Summary | None]] = field(default_factory=list)
    stale: list[Handle] = field(default_factory=list)
    alive: bool = True


class Tree:
    """Who answers whom: a parent for every message, named by its id. Nothing is ever taken out but by a deletion."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        self.writers: dict[int, Talk] = {}
        self.opens: set[int] = set()
        self.heads: dict[int, Head] = {}
        self.talks: list[Talk] = []

    @property
    def alive(self) -> list[Talk]:
        return [talk for talk in self.talks if talk.alive]

    def path(self, node: int) -> list[int]:
        found: list[int] = []
        while node != START:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def grow(self, talk: Talk, message: Message) -> int:
        """A message after the talk's head, as the ledger stored it."""
        node = message.id
        self.parents[node], self.texts[node], self.writers[node] = talk.head, message.text, talk
        self.heads[node] = message.head
        if message.opens_turn:
            self.opens.add(node)
        talk.head = node
        return node

    def tree_of(self, talk: Talk) -> set[int]:
        """All a session has: what it wrote, and the path it was forked from."""
        return {node for node, writer in self.writers.items() if writer is talk} | set(self.path(talk.start))

    def starts(self, talk: Talk) -> list[int]:
        """What people sent to start turns, newest first."""
        return [node for node in reversed(self.path(talk.head)) if node in self.opens]

    def heirs(self, talk: Talk) -> list[Talk]:
        """Living sessions forked from this one or from its forks, sharing its tree."""
        found = [child for child in self.talks if child.parent is talk and child.start != START]
        return [each for child in found for each in ([child] if child.alive else []) + self.heirs(child)]

    def forget(self, doomed: list[Talk]) -> int:
        """How many messages go: those of deleted sessions that no living one's tree holds."""
        for talk in doomed:
            talk.alive = False
        kept = {node for talk in self.alive for node in self.tree_of(talk)}
        gone = [node for node, writer in self.writers.items() if not writer.alive and node not in kept]
        for node in gone:
            for table in (self.parents, self.texts, self.writers, self.heads):
                del table[node]
        self.opens -= set(gone)
        return len(gone)

    def falls_back(self, summary: Summary | None, head: int) -> Summary | None:
        """The nearest summary that stands on the path of a head."""
        path = self.path(head)
        while summary is not None and summary.upto not in path:
            summary = summary.previous
        return summary
