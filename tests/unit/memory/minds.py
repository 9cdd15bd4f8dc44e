"""What the tests of memory share: a model that talks and looks for facts, and what of it was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.models.request import ModelRequest, TextPart, UserTurn
from clew.runtime.ports.ledger import Ledger
from clew.testing.scripted_model import Step, say
from clew.testing.world import World

LOOKS: str = "You note what is worth remembering"
"""How the prompt of an extraction begins."""
Finds = Callable[[str], str]


def words_of(request: ModelRequest) -> str:
    """All that a request says."""
    said = [request.system]
    for message in request.messages:
        if isinstance(message, UserTurn):
            said += (part.text for part in message.parts if isinstance(part, TextPart))
        else:
            said.append(message.text)
    return "\n".join(said)


def is_looking(request: ModelRequest) -> bool:
    return request.system.startswith(LOOKS)


class Mind:
    """Answers `ok`, and to a request for facts whatever `finds` makes of the conversation."""

    def __init__(self, ledger: Ledger | None = None, finds: Finds = lambda _: "[]", **rest: Any) -> None:
        self.finds = finds
        self.world = World(ledger or MemoryLedger(), self._answer, remembers=True, **rest)

    def _answer(self, request: ModelRequest) -> Step:
        return say(self.finds(words_of(request))) if is_looking(request) else say("ok")

    @property
    def told(self) -> list[str]:
        """The words of every request of a turn, in order."""
        return [words_of(sent.request) for sent in self.world.model.sent if not is_looking(sent.request)]

    @property
    def looked(self) -> list[str]:
        return [words_of(sent.request) for sent in self.world.model.sent if is_looking(sent.request)]

    async def look(self) -> None:
        """Every job that is due now is done."""
        await self.world.jobs.look()
        await self.world.jobs.settled()


def found(*facts: Mapping[str, object]) -> str:
    """As a model says it that likes to talk."""
    return f"Here they are:\n```json\n{json.dumps(facts)}\n```"


def noting(pattern: str, text: str, **rest: object) -> Finds:
    """Finds `text` wherever the person says what fits the pattern, under the number of that message."""

    def finds(conversation: str) -> str:
        said = conversation.partition("<conversation>")[2]
        hits = re.findall(rf"\[(\d+)\] user[^\n]*:\n[^\n]*{pattern}", said)
        return found(*({"text": text, "message": int(number), "confidence": 0.9, **rest} for number in hits))

    return finds
