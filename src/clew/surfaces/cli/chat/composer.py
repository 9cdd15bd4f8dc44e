"""The input line: what is being written, and what sending it would do.

A long paste stands in the line as one short mark and is sent whole. A message that is being edited remembers how many
turns sending it takes back; nothing is taken back before that. While a question is asked, the line answers it, and
what was half written comes back afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import Completer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import History

PASTED_LINES_MAX: Final = 12
PASTED_CHARACTERS_MAX: Final = 2_000
_MARK: Final = re.compile(r"\[pasted text (\d+): [^\]]*\]")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent from the input line."""

    text: str
    takes_back: int = 0
    """Turns that this message replaces."""


class Composer:
    """Holds the line. `accept` is given each entry and says whether it was taken."""

    def __init__(self, completer: Completer, history: History, accept: Callable[[Entry], bool]) -> None:
        self._accept = accept
        self._pasted: dict[int, str] = {}
        self._aside: tuple[Document, int] | None = None
        self._recalled = ""
        self.takes_back = 0
        self.buffer = Buffer(
            completer=completer,
            history=history,
            multiline=True,
            complete_while_typing=Condition(self._completes_by_itself),
            accept_handler=self._accepted,
        )

    # -- what stands in the line ---------------------------------------------------------------------------------
    @property
    def is_empty(self) -> bool:
        return not self.buffer.text

    @property
    def text(self) -> str:
        """What sending the line would send; while a question is asked, what was set aside for it."""
        document = self.buffer.document if self._aside is None else self._aside[0]
        return self._in_full(document.text)

    @property
    def is_untouched(self) -> bool:
        """Whether the text is still the one that was recalled."""
        return bool(self.takes_back) and self.buffer.text == self._recalled

    def put(self, text: str, *, takes_back: int = 0) -> None:
        """Puts a text into the line, to be edited and sent."""
        self._pasted.clear()
        shown = self._shortened(text)
        self.buffer.set_document(Document(shown), bypass_readonly=True)
        self._recalled, self.takes_back = shown, takes_back

    def clear(self) -> None:
        self.buffer.reset()
        self._recalled, self.takes_back = "", 0
        if self._aside is None:
            self._pasted.clear()

    def paste(self, text: str) -> None:
        """Inserts what was pasted; a long text as a mark."""
        self.buffer.insert_text(self._shortened(text.replace("\r\n", "\n").replace("\r", "\n")))

    # -- questions -----------------------------------------------------------------------------------------------
    def set_aside(self) -> None:
        """Empties the line for an answer."""
        if self._aside is None:
            self._aside = (self.buffer.document, self.takes_back)
            self.buffer.reset()

    def bring_back(self) -> None:
        """What was set aside stands in the line again."""
        if self._aside is not None:
            document, self.takes_back = self._aside
            self._aside = None
            if not self.buffer.text:
                self.buffer.set_document(document, bypass_readonly=True)

    # -- sending -------------------------------------------------------------------------------------------------
    def _accepted(self, buffer: Buffer) -> bool:
        text = self._in_full(buffer.text)
        taken = self._accept(Entry(text=text, takes_back=self.takes_back))
        if taken:
            if text.strip() and self._aside is None:
                buffer.history.append_string(text)
            self.clear()
        return True  # what is cleared was cleared here: the buffer would forget to ask whether it was taken

    def _in_full(self, text: str) -> str:
        return _MARK.sub(lambda mark: self._pasted.get(int(mark[1]), mark[0]), text)

    def _shortened(self, text: str) -> str:
        lines = len(text.splitlines())
        if lines <= PASTED_LINES_MAX and len(text) <= PASTED_CHARACTERS_MAX:
            return text
        number = len(self._pasted) + 1
        self._pasted[number] = text
        size = f"{lines} lines" if lines > 1 else f"{len(text)} characters"
        return f"[pasted text {number}: {size}]"

    def _completes_by_itself(self) -> bool:
        before = self.buffer.document.text_before_cursor
        return before.startswith("/") or before.rpartition(" ")[2].rpartition("\n")[2].startswith("@")
