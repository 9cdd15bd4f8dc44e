"""Sessions from JSON lines: a stream goes in, histories equal to those it was written from come out, or nothing does.

Memory holds a few commits' messages and the summaries, however long the stream. Whatever ends the import before its end,
a bad line, a refusing ledger, a cancellation, the sessions it had begun are forgotten again. Until all of the stream was
read they are hidden, so that nobody talks in one that may be forgotten; where somebody did all the same, it stays.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Final

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.errors import LedgerError, NotFound, StoreUnusable
from clew.domain.ledger.rows import SessionRow
from clew.runtime.archive.errors import ImportFailed
from clew.runtime.archive.lines import (
    FORMAT_VERSION,
    UNREADABLE,
    BlobLine,
    BranchLine,
    EndLine,
    ExportLine,
    Line,
    MessageLine,
    SessionLine,
    SummaryLine,
    decoded,
    version_of,
)
from clew.runtime.archive.replay import Replay
from clew.runtime.ports.ledger import Ledger

LINE_BYTES_MAX: Final = 256 * 1024 * 1024
"""An attachment of 180 MB, or a text of 40 MB whose every character is written as an escape."""
_BOM: Final = b"\xef\xbb\xbf"

Progress = Callable[[int], None]


def nobody_waits(_: int) -> None:
    """A progress that nobody follows."""


async def import_jsonl(
    ledger: Ledger,
    principal: PrincipalId,
    lines: AsyncIterable[bytes],
    *,
    new_id: Callable[[], SessionId],
    at: int,
    progress: Progress = nobody_waits,
) -> tuple[SessionRow, ...]:
    """The sessions of a stream, in its order, each under a new id and with `principal` as its owner.

    `lines` may be cut anywhere. Messages keep their times; the sessions were last active `at`. `progress` is told how many
    messages were read, after each. Raises ImportFailed in one sentence, StoreUnusable when the ledger's file is; then
    nothing was imported.
    """
    async with AsyncExitStack() as begun:
        importer = _Import(ledger, principal, new_id, at, begun)
        async for number, raw in _numbered(lines):
            with _said(f"Line {number}"):
                await importer.take(_read(raw, number))
            progress(importer.messages)
        with _said("The end"):
            importer.check_whole()
            rows = [await replay.reveal() for replay in importer.whole]
        begun.pop_all()
        return tuple(rows)


@contextmanager
def _said(where: str) -> Iterator[None]:
    """Makes a sentence of what went wrong there. A store that cannot be used says so itself."""
    try:
        yield
    except StoreUnusable:
        raise
    except ImportFailed as error:
        raise ImportFailed(f"{where}: {error}.") from error
    except LedgerError as error:
        raise ImportFailed(f"{where}: the ledger refused what was read so far. {error}") from error


class _Import:
    """Hands each line to the session it belongs to."""

    def __init__(
        self,
        ledger: Ledger,
        principal: PrincipalId,
        new_id: Callable[[], SessionId],
        at: int,
        begun: AsyncExitStack,
    ) -> None:
        self._ledger = ledger
        self._principal = principal
        self._new_id = new_id
        self._at = at
        self._begun = begun
        self._replay: Replay | None = None
        self._replays: dict[SessionId, Replay] = {}
        self._announced = False
        self._read_before = 0
        self.whole: list[Replay] = []

    @property
    def messages(self) -> int:
        return self._read_before + (self._replay.messages if self._replay else 0)

    def check_whole(self) -> None:
        """Raises ImportFailed when the stream ends in the middle of a session, or held none."""
        if self._replay is not None or self._announced:
            raise ImportFailed(
                f"after {self.messages} messages a session is not complete, the file was cut off"
            )
        if not self.whole:
            raise ImportFailed("there is no session, the file is empty")

    async def take(self, line: Line) -> None:
        replay = self._replay
        match line:
            case ExportLine() if replay is None and not self._announced:
                self._announced = True
            case SessionLine() if self._announced and replay is None:
                await self._begin(line)
            case ExportLine() | SessionLine():
                raise ImportFailed("a session starts before the one before it ended")
            case _ if replay is None:
                raise ImportFailed("no session has started here")
            case BranchLine():
                replay.branch(line)
            case BlobLine():
                replay.blob(line)
            case MessageLine():
                await replay.message(line)
            case SummaryLine():
                replay.summary(line)
            case EndLine():
                await replay.end(line)
                self.whole.append(replay)
                self._read_before += replay.messages
                self._replay = None

    async def _begin(self, line: SessionLine) -> None:
        self._announced = False
        ident = self._new_id()
        # Whatever fails from here on forgets this id, so it must not be another session's.
        if await self._exists(ident):
            raise ImportFailed(f"there is already a session {ident}")
        self._begun.push_async_exit(partial(self._clean_up, ident))
        replay = await Replay.begin(self._ledger, self._principal, line, ident, self._at)
        self._replay = self._replays[ident] = replay
        await replay.hide()

    async def _exists(self, session: SessionId) -> bool:
        try:
            await self._ledger.session(self._principal, session)
        except NotFound:
            return False
        return True

    async def _clean_up(
        self, ident: SessionId, _: type[BaseException] | None, reason: BaseException | None, __: object
    ) -> None:
        """Forgets a session that was begun, unless a person's words are in it."""
        try:
            replay = self._replays.get(ident)
            if replay is not None and not await replay.is_all_ours():
                raise ImportFailed(
                    f"Somebody wrote to session {ident} while it was being imported, so it stays as it is. {reason}"
                )
            await self._ledger.forget(self._principal, ident, self._at)
        except NotFound:
            return  # it was never opened
        except LedgerError as error:
            raise ImportFailed(
                f"Session {ident} was begun and could not be removed: {error} {reason}"
            ) from error


def _read(raw: bytes, number: int) -> Line:
    """Raises ImportFailed without the line's number."""
    try:
        line = decoded(raw)
    except UNREADABLE as error:
        raise _unreadable(raw, number, error) from error
    if isinstance(line, ExportLine) and line.version > FORMAT_VERSION:
        raise _newer(line.version)
    return line


def _unreadable(raw: bytes, number: int, error: Exception) -> ImportFailed:
    version = version_of(raw)
    if version is not None and version > FORMAT_VERSION:
        return _newer(version)
    if version is None and number == 1:
        return ImportFailed("this is not an export of Clew, which would say so here")
    if isinstance(error, msgspec.ValidationError):
        return ImportFailed(f"this is no line of an export ({error})")
    return ImportFailed(f"this is not JSON, or it was cut off ({error})")


def _newer(version: int) -> ImportFailed:
    return ImportFailed(
        f"this export has format {version}, and this Clew reads up to {FORMAT_VERSION}: update Clew"
    )


async def _numbered(chunks: AsyncIterable[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """The lines that say something, with their numbers from 1, however the stream is cut."""
    number = 0
    async for line in _split(chunks):
        number += 1
        said = line.removeprefix(_BOM).strip() if number == 1 else line.strip()
        if said:
            yield number, said


async def _split(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Raises ImportFailed for a line that is too long to be held."""
    begun: list[bytes] = []
    size = 0
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*begun, line))
            begun, size = [], 0
        begun.append(rest)
        size += len(rest)
        if size > LINE_BYTES_MAX:
            raise ImportFailed(f"It has a line of more than {LINE_BYTES_MAX} bytes.")
    yield b"".join(begun)
