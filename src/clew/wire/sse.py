"""Server-Sent Events, decoded from bytes however the network splits them.

The rules are those of the WHATWG HTML standard, "Parsing an event stream" (html.spec.whatwg.org, section 9.2.5 and
9.2.6): a line ends at CR, LF or CRLF; one leading byte order mark is ignored; a line that starts with a colon is a
comment; an event ends at an empty line, and is dropped when it had no `data`. What the stream leaves unfinished when
it ends is no event. `retry` is passed over: nobody here connects again by itself. The one addition is a bound: an event
without end would otherwise take all memory.

Rule: the events do not depend on how the bytes were split.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

EVENT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Default bound of one event. A model's largest chunk is a whole tool call: far below."""

_BOM: Final = b"\xef\xbb\xbf"


class ServerSentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A dispatched event. `data` holds the data lines joined by LF; bytes that are no UTF-8 became U+FFFD."""

    data: str
    event: str = "message"
    last_event_id: str = ""


class EventTooLarge(ValueError):
    """An event, or a line of one, is longer than the decoder holds."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"a server-sent event is longer than {bytes_max} bytes")
        self.bytes_max = bytes_max


class SseDecoder:
    """Turns bytes into events. Sans-IO: whoever reads the network feeds it.

    After `EventTooLarge` it is of no further use: the position in the stream is lost.
    """

    def __init__(self, *, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._event_bytes_max = event_bytes_max
        self._partial: list[bytes] = []  # a line of which the end has not come yet, in the pieces it came in
        self._partial_bytes = 0
        self._at_start = True
        self._after_cr = False
        self._data: list[str] = []
        self._data_bytes = 0
        self._event = ""
        self._last_event_id = ""

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Yields the events this chunk completes, in order. Consume it before feeding the next.

        Raises:
            EventTooLarge: after the events before it were yielded, as soon as the bound is passed.
        """
        if not chunk:
            return
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        for piece in chunk.splitlines(keepends=True):
            content = piece.rstrip(b"\r\n")
            self._hold(content)
            if len(content) < len(piece) and (event := self._line(self._whole_line())) is not None:
                yield event

    def _hold(self, content: bytes) -> None:
        """Terminators are not counted: a CRLF cut in two would make a difference."""
        self._partial.append(content)
        self._partial_bytes += len(content)
        if self._data_bytes + self._partial_bytes > self._event_bytes_max:
            raise EventTooLarge(self._event_bytes_max)

    def _whole_line(self) -> bytes:
        line = self._partial[0] if len(self._partial) == 1 else b"".join(self._partial)
        self._partial.clear()
        self._partial_bytes = 0
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        return line

    def _line(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        if not line.startswith(b":"):
            name, _, value = line.partition(b":")
            self._field(name, value.removeprefix(b" "))
        return None

    def _field(self, name: bytes, value: bytes) -> None:
        """Other names are ignored, as the standard says."""
        if name == b"data":
            self._data.append(value.decode("utf-8", "replace"))
            self._data_bytes += len(value) + 1
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._last_event_id = value.decode("utf-8", "replace")

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event, self._data_bytes = [], "", 0
        if not data:
            return None
        return ServerSentEvent(
            data="\n".join(data), event=event or "message", last_event_id=self._last_event_id
        )
