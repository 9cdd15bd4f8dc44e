"""What tools returned in this chat, so that `/open` can show all of it."""

from __future__ import annotations

from typing import Final

import msgspec

KEPT_MAX: Final = 200
KEPT_CHARACTERS_MAX: Final = 20_000_000


class Result(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    line: str
    """What the call was."""
    text: str
    diff: str = ""


class Results:
    """The newest results; old ones are forgotten here, never in the ledger."""

    def __init__(self) -> None:
        self._kept: list[Result] = []
        self._count = 0

    def add(self, line: str, text: str, diff: str = "") -> Result:
        self._count += 1
        self._kept.append(Result(number=self._count, line=line, text=text, diff=diff))
        while len(self._kept) > 1 and (
            len(self._kept) > KEPT_MAX or sum(len(result.text) for result in self._kept) > KEPT_CHARACTERS_MAX
        ):
            del self._kept[0]
        return self._kept[-1]

    def get(self, number: int | None) -> Result | None:
        """A result by its number, or the last; None when it is not kept."""
        if number is None:
            return self._kept[-1] if self._kept else None
        return next((result for result in self._kept if result.number == number), None)

    @property
    def numbers(self) -> tuple[int, int] | None:
        """The first and the last number there is."""
        return (self._kept[0].number, self._kept[-1].number) if self._kept else None
