"""A turn that goes in circles: the same call that brings the same result, again and again."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Final

from clew.domain.conversation.messages import ToolCall
from clew.domain.tools.spec import ToolResult

REPEATS_MAX: Final = 8


class Repeats:
    """Counts equal calls with equal results over a whole turn, so that circles of several calls are found too.

    A result that differs in a single byte is another one: whoever waits for something and sees it move may go on.
    """

    def __init__(self, times_max: int = REPEATS_MAX) -> None:
        self.reached: str | None = None
        """The sentence to end the turn with, once a call came back too often."""
        self._times_max = times_max
        self._times: Counter[bytes] = Counter()

    def note(self, call: ToolCall, result: ToolResult) -> None:
        key = _digest(call, result)
        self._times[key] += 1
        if self._times[key] >= self._times_max and self.reached is None:
            self.reached = (
                f"The turn went in circles: {call.name} was called with the same arguments and brought the same result "
                f"{self._times_max} times."
            )


def _digest(call: ToolCall, result: ToolResult) -> bytes:
    """Of all that the model sees; as long for a picture as for a word."""
    digest = hashlib.sha256()
    words = (call.name, call.arguments, result.status, result.text, result.diff)
    for part in (
        *(word.encode(errors="surrogatepass") for word in words),
        *(file.bytes for file in result.files),
    ):
        digest.update(len(part).to_bytes(8) + part)
    return digest.digest()
