"""`clew run`: one message or command, one answer. What scripts rely on: the JSON object and the exit codes."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import click

from clew.domain.conversation.ids import LOCAL
from clew.domain.ledger.errors import Busy, Outdated, Refused
from clew.runtime.commands import CommandReply, is_command
from clew.runtime.ports.people import NobodyToAsk, Noticed, TextShown, TurnNews, Watch
from clew.runtime.talk import Talk
from clew.runtime.turns import NewFile, TurnOutcome, TurnStatus
from clew.runtime.turns.openings import Opening, Recover, Say
from clew.runtime.turns.runner import RunningTurn
from clew.surfaces.cli.codes import EXIT_OF_STATUS, Exit, UsageError, code_of, name_of, sentence_of
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.output import Printer
from clew.surfaces.cli.places import REFERENCE, TERMINAL, chosen

STDIN_BYTES_MAX: Final = 64 * 1024 * 1024
BUSY_POLL_SECONDS: Final = 0.2
SENDER_SECONDS: Final = 1.0
"""Several times what a chat takes to notice that another process's turn has ended."""
WAITING_CHARACTERS_SHOWN: Final = 100
FILE_BYTES_MAX: Final = 32 * 1024 * 1024
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("text", nargs=-1)
@click.option(
    "--session",
    "-s",
    "session",
    type=REFERENCE,
    metavar="ID",
    help="Go on with this session (id, its start, or title).",
)
@click.option("--continue", "-c", "go_on", is_flag=True, help="Go on with the last session.")
@click.option(
    "--file", "-f", "files", multiple=True, type=click.Path(path_type=Path), help="Attach a file or image."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option("--stream-json", "as_stream", is_flag=True, help="Print events as JSON, one a line.")
@click.pass_obj
def run(  # noqa: PLR0917
    host: Host,
    text: tuple[str, ...],
    session: str | None,
    go_on: bool,
    files: tuple[Path, ...],
    as_json: bool,
    as_stream: bool,
) -> int:
    """Say TEXT and print the answer.

    Without TEXT, or with `-`, what standard input holds is said. Commands such as /undo work too; /help lists them.

    \b
    clew run "What is in this folder?"
    clew run --continue "And the one above?"
    git diff | clew run --json -
    """
    printer = Printer(as_json=as_json, as_stream=as_stream)
    try:
        said = _said(text)
        attached = tuple(_attached(path) for path in files)
        if session is not None and go_on:
            raise UsageError("Use either --session or --continue.")
        return asyncio.run(_run(host, said, session, go_on, attached, printer))
    except (Exception, KeyboardInterrupt, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and not printer.is_json:
            return Exit.INTERRUPTED
        if not printer.is_json or printer.has_result:
            raise
        if debug_asked():
            traceback.print_exc()
        code = code_of(error)
        status = "interrupted" if code == Exit.INTERRUPTED else "failed"
        printer.error(name_of(error), sentence_of(error), status=status)
        return code


def _said(text: tuple[str, ...]) -> str | bytes:
    """The words of the command line, or the bytes of standard input."""
    if text and text != ("-",):
        words = " ".join(text)
        if not words.strip():
            raise UsageError("There is nothing to say: the message is empty.")
        return os.fsencode(words)
    if not text and sys.stdin.isatty():
        raise UsageError("Say something: clew run TEXT, or pipe it in. `clew` alone opens the chat.")
    said = sys.stdin.buffer.read(STDIN_BYTES_MAX + 1)
    if len(said) > STDIN_BYTES_MAX:
        raise UsageError(f"Standard input holds more than {STDIN_BYTES_MAX} bytes; nothing was sent.")
    stripped = said.removesuffix(b"\n").removesuffix(b"\r")
    if not stripped.strip():
        raise UsageError("There is nothing to say: the message is empty.")
    return stripped


def _attached(path: Path) -> NewFile:
    if not path.is_file():
        raise UsageError(f"{path} is not a file.")
    if path.stat().st_size > FILE_BYTES_MAX:
        raise UsageError(f"{path} is larger than {FILE_BYTES_MAX} bytes.")
    kind = mimetypes.guess_type(path.name)[0]
    content = path.read_bytes()
    if kind is None:
        kind = "text/plain" if b"\0" not in content[:8192] else "application/octet-stream"
    return NewFile(media_type=kind, bytes=content, name=path.name)


async def _run(  # noqa: PLR0917
    host: Host,
    said: str | bytes,
    session: str | None,
    go_on: bool,
    files: tuple[NewFile, ...],
    printer: Printer,
) -> int:
    async with _interruptible() as interrupt, host.services() as services:
        talk = Talk(services, LOCAL, TERMINAL, Path.cwd(), await chosen(services, session, go_on))
        printer.session = talk.session
        try:
            line = said.decode("utf-8", errors="replace") if isinstance(said, bytes) else said
            if not files and is_command(line):
                return await _command(talk, line, interrupt, printer)
            _note_replacement(said, printer)
            return await _turn(talk, talk.saying(said, files), interrupt, printer)
        finally:
            await talk.close()


def _note_replacement(said: str | bytes, printer: Printer) -> None:
    if isinstance(said, bytes):
        try:
            said.decode("utf-8")
        except UnicodeDecodeError:
            printer.note("Some bytes were not valid UTF-8: they are shown as \ufffd, and kept as they came.")


async def _command(talk: Talk, line: str, interrupt: _Interrupt, printer: Printer) -> int:
    if line.split(maxsplit=1)[0] == "/temporary":
        raise UsageError("/temporary needs the chat: a single command has nothing to forget.")
    reply: CommandReply = await talk.command(line)
    printer.session = talk.session
    if reply.opening is None:
        printer.command(reply.text)
        return Exit.DONE
    printer.note(reply.text)
    return await _turn(talk, reply.opening, interrupt, printer)


async def _begun(talk: Talk, opening: Opening, printer: Printer) -> RunningTurn | TurnOutcome:
    """Begins the turn when it is this one's: after one that was left in the middle here, and after another process's.

    The outcome instead, when another process answered a message of ours that waited.
    """
    if isinstance(opening, Say) and await talk.has_to_wait():
        opening = await talk.keep(opening)
    said_so = False
    while True:
        try:
            if not isinstance(opening, Recover):
                await _finish_interrupted(talk, printer)
            if isinstance(opening, Say):
                await _answer_waiting(talk, opening, printer)
            return await talk.begin(opening, printer.watch, NobodyToAsk())
        except Busy:
            opening = await talk.keep(talk.kept or opening)
            if not said_so:
                printer.note(
                    "Another process is in the middle of a turn of this session: waiting for its end."
                )
            said_so = True
            try:
                await asyncio.sleep(BUSY_POLL_SECONDS)
            except asyncio.CancelledError:
                if isinstance(opening, Say):
                    await talk.taken_back(opening)  # whoever sent it does not want it any more
                raise
        except Refused:
            opening = talk.kept or opening
            if not isinstance(opening, Say) or not opening.inbox or await talk.still_waits(*opening.inbox):
                raise
            outcome = await talk.answered_elsewhere(opening.inbox[0])
            if outcome is None:
                raise
            printer.note("Another process has answered this:")
            printer.watch(TextShown(outcome.text))
            return outcome


def _aside(printer: Printer) -> Watch:
    """What earlier turns say goes beside the answer that was asked for: whoever reads that asked something else."""

    def watch(news: TurnNews) -> None:
        if isinstance(news, Noticed):
            printer.watch(news)

    return watch


async def _answer_after(talk: Talk, printer: Printer) -> None:
    """What was sent while the turn ran comes next. A chat that waits for its own message is left the time to take it."""
    if await talk.next_queued() is None:
        return
    await asyncio.sleep(SENDER_SECONDS)
    with suppress(Busy):  # then whoever runs a turn now takes what still waits
        await _answer_waiting(talk, None, printer)


async def _answer_waiting(talk: Talk, own: Say | None, printer: Printer) -> None:
    """What was sent before and still waits comes first, in order: whoever was to send it has ended."""
    if talk.session is None:
        return
    waiting = await talk.next_queued()
    while waiting is not None and (own is None or waiting.inbox != own.inbox):
        try:
            turn = await talk.begin(waiting, _aside(printer), NobodyToAsk())
        except Refused:
            if await talk.still_waits(*waiting.inbox):
                raise
            waiting = await talk.next_queued()  # another process was quicker
            continue
        outcome = await turn.finish()
        said = " ".join(str(waiting.text).split())[:WAITING_CHARACTERS_SHOWN]
        when = "first" if own is not None else "next"
        printer.note(f"A message that waited came {when} ({outcome.status}): {said}")
        waiting = await talk.next_queued() if outcome.status == TurnStatus.DONE else None


async def _finish_interrupted(talk: Talk, printer: Printer) -> None:
    outcome = await talk.recover(_aside(printer), NobodyToAsk())
    if outcome is not None:
        printer.note(f"The turn that was interrupted before has ended ({outcome.status}): {outcome.text}")


async def _turn(talk: Talk, opening: Opening, interrupt: _Interrupt, printer: Printer) -> int:
    try:
        turn = await _begun(talk, opening, printer)
    finally:
        printer.session = talk.session
    outcome = turn if isinstance(turn, TurnOutcome) else await interrupt.finish(turn)
    printer.outcome(outcome)
    if outcome.status == TurnStatus.DONE:
        await _say_what_it_lacked(talk, printer)
        await _answer_after(talk, printer)
    for approval in outcome.waiting_for:
        printer.note(
            f"Waiting for approval {approval}. To allow it: clew run --session {talk.session} '/approve {approval}'"
        )
    if outcome.cause is not None and outcome.error is None:
        raise outcome.cause  # the answer is recorded, but it could not be shown
    if outcome.cause is not None and debug_asked():
        traceback.print_exception(outcome.cause)
    return Exit.RESTART if isinstance(outcome.cause, Outdated) else EXIT_OF_STATUS[outcome.status]


async def _say_what_it_lacked(talk: Talk, printer: Printer) -> None:
    """What a person should know of the answer: the model is only a demo, tools were missing."""
    row = await talk.services.ledger.session(LOCAL, await talk.ensure_session())
    profile = (await talk.services.models.choose(row.model)).profile
    if profile.is_demo:
        printer.note("(A tiny demo model answers: real, and poor. `clew setup` sets a better one.)")
    for problem in await talk.problems() if profile.takes_tools else ():
        printer.note(problem)


def debug_asked() -> bool:
    return bool(click.get_current_context().find_root().params.get("debug"))


class _Interrupt:
    """The first signal stops the turn and lets it record its end, or what comes before the turn; another leaves at once."""

    def __init__(self, whole: asyncio.Task[object]) -> None:
        self._whole = whole
        self._turn: RunningTurn | None = None
        self._asked = False

    def hit(self) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        if self._turn is None:
            self._whole.cancel()
        else:
            self._turn.stop("interrupted")

    async def finish(self, turn: RunningTurn) -> TurnOutcome:
        self._turn = turn
        try:
            return await turn.finish()
        finally:
            self._turn = None


@asynccontextmanager
async def _interruptible() -> AsyncIterator[_Interrupt]:
    whole = asyncio.current_task()
    assert whole is not None, "a coroutine runs in a task"
    interrupt = _Interrupt(whole)
    loop = asyncio.get_running_loop()
    heard = [
        number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN
    ]  # nohup, background jobs
    for number in heard:
        loop.add_signal_handler(number, interrupt.hit)
    try:
        yield interrupt
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
