"""What one request is shown of a turn, as pieces that any wire can carry.

Rule: what was shown is a prefix of what is stored, or the answer ends in an error: the wire has no word for taking
something back. So when an attempt of the model is void after part of it was shown, the next one is held back until it is
on disk, and shown only if it begins in the same way. Texts of several steps are told apart by an empty line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from clew.domain.conversation.ids import CallId, InboxId, SessionId
from clew.domain.models.answer import StopReason, Usage
from clew.runtime.ports.people import (
    AttemptVoid,
    CallAnnounced,
    CallEnded,
    StepRecorded,
    TextShown,
    TurnNews,
)
from clew.runtime.turns import TurnOutcome, TurnStatus
from clew.surfaces.http.errors import ApiError, of_turn
from clew.wire.openai_chat import FinishReason

BETWEEN_STEPS: Final = "\n\n"
_FINISH: Final[dict[StopReason, FinishReason]] = {
    StopReason.LENGTH: "length",
    StopReason.FILTERED: "content_filter",
}


class Began(msgspec.Struct, frozen=True, kw_only=True):
    """The turn's first commit is on disk."""

    session: SessionId
    turn: int
    after: int = 0
    """The step whose calls the client ran: it is answered from there on."""

    @property
    def ident(self) -> str:
        """What names this answer alone."""
        return f"{self.session}_{self.turn}" + (f"_{self.after}" if self.after else "")


class Text(msgspec.Struct, frozen=True):
    text: str


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a tool of the client's: it runs it, and sends the result."""

    id: CallId
    name: str
    arguments: str


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The last piece. `error` says why there is no more."""

    finish: FinishReason = "stop"
    usage: Usage = Usage()
    error: ApiError | None = None


Piece = Began | Text | Call | Ended
Batches = AsyncIterator[Sequence[Piece]]
"""Pieces in order, to the end; together come those that were there when the ones before were taken."""


class Exchange:
    """One request's view of a turn. `watch` is told the turn's news; `taken` gives them on, once, to whoever asked."""

    def __init__(self, client_tools: frozenset[str], *, is_kept: bool) -> None:
        """`is_kept`: what was said stays in its session, whatever becomes of the answer."""
        self.received: InboxId | None = None
        """The row of the inbox that the turn answers."""
        self.is_ended = False
        self._client_tools = client_tools
        self._is_kept = is_kept
        self._session: SessionId | None = None
        self._pieces: list[Piece] = []
        self._news = asyncio.Event()
        self._usage = Usage()
        self._stop = StopReason.END
        self._shown = ""
        self._is_held = False
        self._said_before = False
        self._asked: dict[CallId, CallAnnounced] = {}
        self._waiting: set[CallId] = set()

    async def taken(self) -> Sequence[Piece]:
        """What came since this was last asked, once there is something; nothing comes after an Ended. Text that nobody took
        yet is joined, so a slow reader costs what the answer is long."""
        await self._news.wait()
        self._news.clear()
        taken, self._pieces = self._pieces, []
        return taken

    def began(self, session: SessionId, turn: int, after: int = 0) -> None:
        self._session = session
        self._add(Began(session=session, turn=turn, after=after))

    def watch(self, news: TurnNews) -> None:
        match news:
            case TextShown(text=text):
                if not self._is_held:
                    self._show(text)
            case AttemptVoid():
                self._is_held = bool(self._shown)
            case StepRecorded():
                self._recorded(news)
            case CallAnnounced(call=call, name=name) if name in self._client_tools:
                self._asked[call] = news
            case CallEnded(call=call):
                self._asked.pop(call, None)
                self._hand_over()
            case _:
                pass  # told to whoever follows the session

    def waits_for(self, call: CallId) -> None:
        """A call waits for the client."""
        self._waiting.add(call)
        self._hand_over()

    def end(self, outcome: TurnOutcome) -> None:
        """The turn came out so."""
        if self._session is None and not self.is_ended:
            self.began(outcome.handle.session, outcome.turn)
        if outcome.status != TurnStatus.DONE:
            self.fail(of_turn(outcome))
        elif outcome.text and not (self._said_before or self._shown):
            self._show(outcome.text)  # another process had it: nothing was seen on the way
            self._finish(Ended(usage=outcome.usage))
        else:
            self._finish(Ended(finish=_FINISH.get(self._stop, "stop"), usage=self._usage))

    def fail(self, error: ApiError) -> None:
        if self._is_kept and self._session is not None:
            error = error.of_kept(self._session)
        self._finish(Ended(usage=self._usage, error=error))

    # -- steps ---------------------------------------------------------------------------------------------------
    def _recorded(self, step: StepRecorded) -> None:
        was, used = self._usage, step.usage
        self._usage = Usage(
            input=was.input + used.input,
            output=was.output + used.output,
            cache_read=was.cache_read + used.cache_read,
            cache_write=was.cache_write + used.cache_write,
            estimated=was.estimated or used.estimated,
        )
        self._stop = step.stop
        if step.text.startswith(self._shown):
            if rest := step.text[len(self._shown) :]:
                self._show(rest)
        else:
            why = "The model began anew after part of its answer was sent; the session has the whole answer."
            self.fail(ApiError(502, "answer_changed", why))
        self._said_before = self._said_before or bool(step.text)
        self._shown, self._is_held = "", False

    def _show(self, text: str) -> None:
        if self.is_ended or not text:
            return
        apart = BETWEEN_STEPS if self._said_before and not self._shown else ""
        self._shown += text
        if self._pieces and isinstance(last := self._pieces[-1], Text):
            self._pieces[-1] = Text(f"{last.text}{apart}{text}")
        else:
            self._add(Text(f"{apart}{text}"))

    def _hand_over(self) -> None:
        """Once all of the client's own tools are waited for, the answer is their calls."""
        if self._asked and self._waiting >= set(self._asked) and not self.is_ended:
            for call in self._asked.values():
                self._add(Call(id=call.call, name=call.name, arguments=call.arguments))
            self._finish(Ended(finish="tool_calls", usage=self._usage))

    def _finish(self, ended: Ended) -> None:
        if not self.is_ended:
            self.is_ended = True
            self._add(ended)

    def _add(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._news.set()
