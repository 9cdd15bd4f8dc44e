"""Questions to the person at the terminal: one at a time, answered at the input line."""

from __future__ import annotations

import asyncio

from clew.runtime.ports.people import Consent, Question

_ANSWERS = {
    "y": Consent.ONCE, "yes": Consent.ONCE,
    "a": Consent.SESSION, "always": Consent.SESSION,
    "n": Consent.NO, "no": Consent.NO,
}  # fmt: skip


class Asker:
    """`Approver` for the chat. While `question` is set, what is typed is its answer."""

    def __init__(self) -> None:
        self.question: Question | None = None
        self._answer: asyncio.Future[Consent] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._asked = asyncio.Event()

    async def ask(self, question: Question) -> Consent | None:
        async with self._one_at_a_time:
            self._answer = asyncio.get_running_loop().create_future()
            self.question = question
            self._asked.set()
            try:
                return await self._answer
            finally:
                self.question = None
                self._answer = None
                self._asked.clear()

    def answer(self, typed: str) -> bool:
        """Whether this was an answer; anything else leaves the question open."""
        consent = _ANSWERS.get(typed.strip().lower())
        if consent is None or self._answer is None or self._answer.done():
            return False
        self._answer.set_result(consent)
        return True
