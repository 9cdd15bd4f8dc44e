"""What a run is mostly about: how often each thing is done in it. Rare things come together only where they are not rare."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from clew.domain.ledger.commits import Caps

_USUAL: Final[Mapping[str, int]] = MappingProxyType(
    {
        "say": 24, "queue": 5, "take": 6, "deliver": 6, "undo": 4, "undo several": 2, "redo": 4, "retry": 4, "stop": 2,
        "stop here": 4, "branch": 1, "new": 1, "title": 1, "mode": 1, "compress": 2, "expand": 2, "resume": 2,
        "approve": 3, "deny": 2, "recover": 8, "change instructions": 2, "happen": 2, "delete": 1,
    }
)  # fmt: skip
_REMEMBERING: Final[Mapping[str, int]] = MappingProxyType({"remember": 8, "forget": 10})
_BESIDE: Final[Mapping[str, int]] = MappingProxyType({"background": 6, "catch up": 5})
_TOOLS: Final[Mapping[str, int]] = MappingProxyType(
    {"mark": 6, "look": 6, "put": 4, "raising": 2, "unsure": 3, "deadly": 1, "deadly-again": 1}
)


class Theme(msgspec.Struct, frozen=True, kw_only=True):
    """`actions` and `tools` are weights; `asks` is how many processes ask before a tool runs, `calls` how far a roll of the
    dice may go for the model to ask for tools, `kills` how often a process ends for no reason; `remembers` switches memory on,
    `beside` what works beside a session: titles, reviews, subagents."""

    name: str
    actions: Mapping[str, int] = _USUAL
    tools_weights: Mapping[str, int] = _TOOLS
    asks: float = 0.3
    calls: float = 0.5
    kills: float = 0.02
    caps: Caps = Caps()
    remembers: bool = False
    beside: bool = False

    @property
    def tools(self) -> tuple[str, ...]:
        return tuple(name for name, weight in self.tools_weights.items() for _ in range(weight))

    def action(self, chance: random.Random) -> str:
        (name,) = chance.choices(list(self.actions), list(self.actions.values()))
        return name


THEMES: Final = (
    Theme(
        name="everything",
        actions={**_USUAL, **_REMEMBERING, **_BESIDE},
        tools_weights={**_TOOLS, "memory": 4, "delegate": 2},
        remembers=True,
        beside=True,
    ),
    Theme(
        name="memory",
        actions={"say": 24, "take": 4, "undo": 2, "retry": 2, "stop": 1, "branch": 1, "new": 5, "compress": 4, "delete": 1, "recover": 6, **_REMEMBERING},
        tools_weights={"memory": 6, "look": 2, "deadly": 1},
        remembers=True,
    ),
    Theme(
        name="side sessions",
        actions={"say": 24, "take": 4, "undo": 3, "retry": 2, "stop": 1, "stop here": 2, "branch": 1, "new": 1, "compress": 1, "delete": 1, "recover": 10, "approve": 2, **_BESIDE},
        tools_weights={"delegate": 5, "mark": 4, "put": 2, "look": 1, "deadly": 1},
        asks=0.1,
        kills=0.03,
        beside=True,
    ),
    Theme(
        name="history",
        actions={**_USUAL, "say": 40, "new": 0, "branch": 0, "delete": 0, "undo": 14, "undo several": 4, "redo": 24, "retry": 10, "resume": 10, "compress": 8, "expand": 8},
        calls=0.3,
        kills=0.01,
    ),
    Theme(
        name="approvals",
        actions={**_USUAL, "say": 24, "approve": 12, "deny": 8, "queue": 1, "deliver": 1, "undo": 1, "take": 4},
        asks=0.95,
        calls=0.85,
        kills=0.01,
        tools_weights={"mark": 6, "put": 4, "unsure": 2},
    ),
    Theme(
        name="crashes",
        actions={**_USUAL, "recover": 30, "say": 16, "new": 0, "branch": 0, "resume": 0},
        calls=0.8,
        kills=0.05,
        tools_weights={**_TOOLS, "deadly-again": 4},
    ),
    Theme(
        name="summaries",
        actions={"say": 30, "take": 4, "compress": 16, "expand": 10, "undo": 4, "redo": 10, "retry": 2, "recover": 6},
        calls=0.2,
        kills=0.01,
        tools_weights={"look": 1},
    ),
    Theme(
        name="loops",
        actions={"say": 30, "take": 4, "recover": 8, "stop": 1, "undo": 4, "redo": 6, "retry": 2, "queue": 4, "happen": 4},
        calls=0.95,
        kills=0.01,
        tools_weights={"look": 6, "put": 1},
    ),
    Theme(
        name="at once",
        actions={**_USUAL, "say": 40, "stop": 5, "stop here": 10, "delete": 2},
        calls=0.8,
        kills=0.01,
        tools_weights={**_TOOLS, "delegate": 3},
        caps=Caps(usd_per_session=0.02, usd_per_day=0.1),
        remembers=True,
        beside=True,
    ),
)  # fmt: skip
