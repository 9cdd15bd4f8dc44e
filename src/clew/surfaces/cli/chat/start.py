"""Opens the chat: which session, which view, and the order in which all of it ends."""

from __future__ import annotations

import asyncio
import io
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Final, Protocol

import msgspec

from clew import __version__
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.runtime.talk import Talk
from clew.surfaces.cli.chat.completion import ChatCompleter
from clew.surfaces.cli.chat.composer import Composer
from clew.surfaces.cli.chat.history import ChatHistory, ShellLines, said_before
from clew.surfaces.cli.chat.loop import ChatLoop
from clew.surfaces.cli.chat.plain import PlainDisplay, PlainView
from clew.surfaces.cli.chat.screen import Display, Screen, ScreenOptions
from clew.surfaces.cli.chat.status import StatusLine
from clew.surfaces.cli.chat.typesetting import Typesetter
from clew.surfaces.cli.chat.view import ChatView, Terminal
from clew.surfaces.cli.codes import Exit, UsageError
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.places import TERMINAL, chosen
from clew.surfaces.cli.setup import offer_setup, run_setup
from clew.surfaces.cli.terminal import SteadyOutput, is_dumb, quiet_terminal, uses_colours

HELLO: Final = "/help lists commands · ↑ edits your last message · Ctrl-D leaves"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a chat ended."""

    code: Exit
    session: SessionId | None
    wants_setup: bool = False


class View(Protocol):
    """How the chat is shown and typed into."""

    async def run(self) -> None: ...

    async def stands(self) -> None:
        """Returns once it is on the screen, or has ended."""
        ...

    def exit(self) -> None: ...

    def leave_picker(self) -> None: ...


def chat(host: Host, session: str | None, go_on: bool, *, pick: bool = False, debug: bool = False) -> int:
    """Runs the chat until the person leaves. The first time, without any model, setup comes before it."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("The chat needs a terminal; `clew run TEXT` does not.")
    if (session is not None) + go_on + pick > 1:
        raise UsageError("Use one of --session, --continue and --resume.")
    offer_setup(host)
    while True:
        with ExitStack() as stack:
            if not is_dumb(host.environ):
                stack.enter_context(quiet_terminal())
            ended = asyncio.run(_opened(host, session, go_on, pick=pick, debug=debug))
        if not ended.wants_setup:
            return ended.code
        run_setup(host)
        session, go_on, pick = ended.session, False, False


async def _opened(host: Host, session: str | None, go_on: bool, *, pick: bool, debug: bool) -> Ended:
    async with host.services() as services:
        going_on = await chosen(services, session, go_on)
        if going_on is not None:
            await services.desk.point(TERMINAL, going_on)
        talk = Talk(services, LOCAL, TERMINAL, Path.cwd(), going_on)
        try:
            return await _Chat(host, talk, debug=debug).run(pick=pick)
        finally:
            await talk.close()


class _Chat:
    """The parts of one chat, put together."""

    def __init__(self, host: Host, talk: Talk, *, debug: bool) -> None:
        self._host = host
        self._talk = talk
        self._debug = debug
        self._code = Exit.DONE
        self._status = StatusLine()
        self._display = self._made_display()
        settings = host.settings().terminal
        self._screen = Screen(
            self._display,
            Typesetter(styles=not is_dumb(host.environ), colours=uses_colours(host.environ)),
            ScreenOptions(
                repeats_lines=not is_dumb(host.environ),
                show_thinking=settings.show_thinking,
                tool_output_lines=settings.tool_output_lines,
            ),
        )
        self._loop = ChatLoop(
            talk, self._screen, self._status, changed=self._display.changed, broken=self._broken
        )

    async def run(self, *, pick: bool) -> Ended:
        view = await self._made_view()
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            stack.enter_context(self._stray_prints())
            asyncio.get_running_loop().set_exception_handler(self._stray_error)
            self._welcome()
            running = asyncio.create_task(self._run_loop(view, pick=pick))
            running.add_done_callback(lambda _: view.exit())
            try:
                await view.run()
            finally:
                self._loop.leave()
                view.leave_picker()
                await running
        self._farewell()
        code = Exit.RESTART if self._loop.outdated is not None else self._code
        return Ended(code=code, session=self._talk.session, wants_setup=self._loop.wants_setup)

    async def _run_loop(self, view: View, *, pick: bool) -> None:
        """What is typed before our modules are imported waits for a few hundredths of a second."""
        await view.stands()
        await self._host.import_own_modules()
        await self._loop.run(pick=pick)

    # -- pieces --------------------------------------------------------------------------------------------------
    def _made_display(self) -> Display:
        if is_dumb(self._host.environ):
            return PlainDisplay(sys.stdout)
        return Terminal(SteadyOutput(sys.stdout, self._host.environ))

    async def _made_view(self) -> View:
        if not isinstance(self._display, Terminal):
            return PlainView(self._screen, self._loop)
        lines = ShellLines(self._host.home.root / "history")
        past = [*await said_before(self._talk.services.ledger, LOCAL), *lines.read()]
        history = ChatHistory(past, lines, self._talk.services.clock)
        composer = Composer(ChatCompleter(self._talk.cwd), history, self._loop.enter)
        return ChatView(
            self._display, self._screen, self._status, self._loop, composer, environ=self._host.environ
        )

    def _welcome(self) -> None:
        self._screen.notice(f"Clew {__version__} · {self._talk.cwd}")
        self._screen.notice(HELLO)
        self._loop.name_instructions(first=True)
        self._screen.gap()

    def _farewell(self) -> None:
        if self._loop.outdated is not None:
            self._loop.tell_unsent()
        if self._talk.session is not None and not self._loop.wants_setup:
            self._screen.notice(f"Session {self._talk.session}. `clew --continue` goes on with it.")

    # -- what comes from outside ---------------------------------------------------------------------------------
    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGHUP leave as a person would: what runs is stopped, and its end recorded."""
        loop, numbers = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._told_to_end)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _told_to_end(self) -> None:
        self._code = Exit.INTERRUPTED
        self._loop.leave()

    @contextmanager
    def _stray_prints(self) -> Iterator[None]:
        """What a library prints goes above the input line, not through it."""
        stream = _StrayText(asyncio.get_running_loop(), self._screen.notice)
        with redirect_stdout(stream), redirect_stderr(stream):
            yield

    def _stray_error(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        self._broken(error if isinstance(error, BaseException) else RuntimeError(str(context.get("message"))))

    def _broken(self, error: BaseException) -> None:
        """An error nobody expected: said in one line, in full with --debug."""
        if self._debug:
            self._screen.problem("".join(traceback.format_exception(error)).rstrip())
        else:
            self._screen.problem(f"An error inside Clew: {error!r}. `clew --debug` shows where.")


class _StrayText(io.TextIOBase):
    """A stream whose whole lines are shown; may be written to from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, show: Callable[[str], None]) -> None:
        self._loop = loop
        self._show = show
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._loop.call_soon_threadsafe(self._show, "\n".join(lines))
        return len(text)

    def writable(self) -> bool:
        return True
