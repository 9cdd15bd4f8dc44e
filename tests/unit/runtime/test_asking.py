"""Questions that are answered somewhere else than where they are asked."""

from __future__ import annotations

import asyncio

import pytest

from clew.adapters.stores.memory import MemoryLedger
from clew.domain.tools.spec import Effect
from clew.runtime.ports.people import Consent, Question
from clew.testing.scripted_model import ask, say
from clew.testing.virtual_time import simulate
from clew.testing.world import RecordingTool, World, exchange


@pytest.mark.parametrize("line", ["/approve", "/deny"])
def test_a_question_that_was_answered_elsewhere_is_taken_back(line: str) -> None:
    """Whoever is asked here is asked no more, and the turn goes on by the answer."""

    class Undecided:
        def __init__(self) -> None:
            self.asked, self.is_asking = asyncio.Event(), False

        async def ask(self, question: Question) -> Consent | None:
            self.is_asking = True
            self.asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.is_asking = False
            return None

    async def scenario() -> None:
        tool, person, ledger = RecordingTool("change", effect=Effect.EDIT), Undecided(), MemoryLedger()
        talk = World(ledger, [ask("change"), say("done")], tools=[tool]).talk()
        running = asyncio.create_task(exchange(talk, "do it", approver=person))
        await person.asked.wait()
        assert (await World(ledger, owner="there").talk(talk.session).command(line)).opening is None
        assert (await running).text == "done"
        assert (len(tool.ran), person.is_asking) == (1 if line == "/approve" else 0, False)

    simulate(1, scenario())
