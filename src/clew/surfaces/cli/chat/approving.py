"""Questions to the person at the terminal: one at a time, answered at the input line with Enter.

Rule: only a whole answer is one. What somebody was typing when the question came is never taken for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from clew.runtime.ports.people import Consent, Question

_ANSWERS: Final = {
    "y": Consent.ONCE, "yes": Consent.ONCE, "/approve": Consent.ONCE,
    "a": Consent.SESSION, "always": Consent.SESSION,
    "n": Consent.NO, "no": Consent.NO, "/deny": Consent.NO,
}  # fmt: skip


class Asker:
    """`Approver` for the chat. `asked` and `settled` are called when a question comes and goes."""

    def __init__(self, asked: Callable[[Question], None], settled: Callable[[Question], None]) -> None:
        self.question: Question | None = None
        self._asked = asked
        self._settled = settled
        self._answer: asyncio.Future[Consent] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def ask(self, question: Question) -> Consent | None:
        async with self._one_at_a_time:
            self._answer = asyncio.get_running_loop().create_future()
            self.question = question
            self._asked(question)
            try:
                return await self._answer
            finally:
                self.question = None
                self._answer = None
                self._settled(question)

    def answer(self, typed: str) -> Consent | None:
        """The answer this was; None when it was none, and the question stays."""
        consent = _ANSWERS.get(typed.strip().lower())
        if consent is None or self._answer is None or self._answer.done():
            return None
        self._answer.set_result(consent)
        return consent
