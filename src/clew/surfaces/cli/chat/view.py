"""The chat on a terminal that can move its cursor: one application that lives as long as the chat.

The transcript is written above it with the application taken off the screen and put back in one write; so the input
line is never gone, and what is printed stays in the terminal's own scrollback, where it can be searched and copied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition, has_completions, is_done, is_searching
from prompt_toolkit.formatted_text import ANSI, StyleAndTextTuples
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    DynamicContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    VerticalAlign,
    Window,
)
from prompt_toolkit.layout.containers import AnyContainer
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import (
    AfterInput,
    ConditionalProcessor,
    HighlightIncrementalSearchProcessor,
)
from prompt_toolkit.widgets import SearchToolbar

from clew.domain.conversation.ids import SessionId
from clew.runtime.talk import Talk
from clew.surfaces.cli.chat.choosing import session_choices
from clew.surfaces.cli.chat.composer import Composer
from clew.surfaces.cli.chat.keys import chat_keys
from clew.surfaces.cli.chat.live import TICKS_A_SECOND, LiveLines, Moment
from clew.surfaces.cli.chat.loop import ChatLoop
from clew.surfaces.cli.chat.resizing import rows_gained
from clew.surfaces.cli.chat.screen import PROMPT, Screen
from clew.surfaces.cli.chat.status import StatusLine
from clew.surfaces.cli.picker import Choice, Picker
from clew.surfaces.cli.terminal import SteadyOutput, has_typed_ahead, rewraps_lines

ROWS_KEPT: Final = 2
"""Rows of the transcript that stay visible."""
REDRAW_SECONDS: Final = 0.04
EARLY_SECONDS: Final = 0.05
"""What was typed before the input line was there is read at once."""
QUESTION: Final = "Allow it?  y once · a always in this session · n no   (Enter)"
QUESTION_NARROW: Final = "Allow? y once, a always, n no"
PLACEHOLDER: Final = "Say something; / for commands"


class Terminal:
    """`Display` of the chat: what is shown is written above the application while it runs."""

    def __init__(self, output: SteadyOutput) -> None:
        self.output = output
        self.application: ChatApplication | None = None
        self._pending: list[str] = []

    @property
    def columns(self) -> int:
        return self.output.get_size().columns

    def show(self, text: str) -> None:
        self._pending.append(text.replace("\r\n", "\n").replace("\n", "\r\n"))
        if not self._is_drawn:
            self.flush()
        elif len(self._pending) == 1:
            asyncio.get_running_loop().call_soon(self.flush)

    def changed(self) -> None:
        if self.application is not None:
            self.application.invalidate()

    def flush(self) -> None:
        """Writes what is pending, together with the application's next drawing."""
        text, self._pending = "".join(self._pending), []
        if not text:
            return
        if self.application is not None and self._is_drawn:
            self.output.hold()
            self.application.take_off()
            self.output.write_raw(text)
            self.application.invalidate()
        else:
            self.output.write_raw(text)
            self.output.flush()

    @property
    def _is_drawn(self) -> bool:
        return self.application is not None and self.application.is_running


class ChatApplication(Application[None]):
    """Finds where its picture begins also after the terminal broke its lines anew."""

    rewraps = True
    """Whether this terminal does that."""
    _drawn_columns = 0

    def take_off(self) -> None:
        """Erases the picture, as wide as it was drawn; what is written next stands in its place."""
        screen, columns = self.renderer.last_rendered_screen, self.output.get_size().columns
        if screen is not None and columns < self._drawn_columns and self.rewraps:
            cursor = screen.get_cursor_position(self.layout.current_window)
            self.output.cursor_up(rows_gained(screen, cursor.y, cursor.x, columns))
        self.renderer.erase()
        self._drawn_columns = columns

    def before_drawing(self) -> None:
        """Takes the picture off when it cannot be drawn over: at another width, or when it became lower."""
        size, screen = self.output.get_size(), self.renderer.last_rendered_screen
        wanted = self.layout.container.preferred_height(size.columns, size.rows).preferred
        if screen is not None and (size.columns != self._drawn_columns or wanted < screen.height):
            self.take_off()
        self._drawn_columns = size.columns

    def _on_resize(self) -> None:
        """In place of the method that is called for SIGWINCH, which erases as if nothing had moved."""
        self._redraw()


class ChatView:
    """Draws the chat and hands keys to it. `Chooser` of its loop."""

    def __init__(
        self,
        terminal: Terminal,
        screen: Screen,
        status: StatusLine,
        loop: ChatLoop,
        composer: Composer,
        *,
        environ: Mapping[str, str],
    ) -> None:
        self._terminal = terminal
        self._status = status
        self._loop = loop
        self._live = LiveLines(screen)
        self._lines: list[str] = []
        self._picker: Picker | None = None
        self._stands = asyncio.Event()
        self.composer = composer
        self.hint = ""
        self.is_early = False
        self._search = SearchToolbar(forward_search_prompt="search: ", backward_search_prompt="search back: ")
        self._input = self._input_window()
        self.application = ChatApplication(
            layout=Layout(self._layout(), focused_element=self._input),
            key_bindings=chat_keys(self, loop),
            output=terminal.output,
            erase_when_done=True,
            min_redraw_interval=REDRAW_SECONDS,
            before_render=self._before_render,
            after_render=self._after_render,
        )
        self.application.rewraps = rewraps_lines(environ)
        self.application.ttimeoutlen, self.application.timeoutlen = 0.1, 0.3  # how soon Esc alone is Esc
        composer.buffer.on_text_changed += self._forget_hint
        terminal.application = self.application
        loop.line, loop.chooser = composer, self

    async def run(self) -> None:
        """Until the person leaves or the terminal is gone."""
        ticking = asyncio.create_task(self._tick())
        self.is_early = has_typed_ahead()
        asyncio.get_running_loop().call_later(EARLY_SECONDS, self._no_longer_early)
        try:
            await self.application.run_async(set_exception_handler=False)
        except EOFError:
            pass  # the terminal was closed: the same as leaving
        finally:
            ticking.cancel()
            self._stands.set()
            self._terminal.output.release()
            self._terminal.flush()

    async def stands(self) -> None:
        """Returns once it was drawn, or has ended."""
        await self._stands.wait()

    def exit(self) -> None:
        """Takes the input line off the screen. Idempotent."""
        if self.application.is_running and not self.application.is_done:
            self.application.exit()

    async def session(self, talk: Talk) -> SessionId | None:
        """Lets the person pick a session."""
        chosen = await self._picked(Picker("Go on with which session?", await session_choices(talk)))
        return SessionId(chosen.key) if chosen is not None else None

    async def _picked(self, picker: Picker) -> Choice | None:
        self._picker = picker
        self.application.layout.focus(picker.buffer)
        self.application.invalidate()
        try:
            return await picker.chosen()
        finally:
            self._picker = None
            self.application.layout.focus(self._input)
            self.application.invalidate()

    def leave_picker(self) -> None:
        if self._picker is not None:
            self._picker.leave()

    def _no_longer_early(self) -> None:
        self.is_early = False

    def _forget_hint(self, _: Buffer) -> None:
        self.hint = ""

    # -- drawing -------------------------------------------------------------------------------------------------
    async def _tick(self) -> None:
        """Turns the spinner while something runs."""
        while True:
            await asyncio.sleep(1 / TICKS_A_SECOND)
            if self._loop.activity:
                self.application.invalidate()

    def _before_render(self, application: Application[None]) -> None:
        """Draws the moment; when the picture became lower, the old one is taken off first."""
        self._terminal.output.hold()
        size = application.output.get_size()
        if self._picker is not None:
            self._picker.fit(size.rows)
        below = self._input_rows(size.rows) + 1
        self._lines = self._live.draw(self._moment(), size.columns, max(size.rows - below - ROWS_KEPT, 1))
        self.application.before_drawing()

    def _after_render(self, _: Application[None]) -> None:
        self._terminal.output.release()
        self._stands.set()

    def _moment(self) -> Moment:
        loop, columns = self._loop, self._terminal.columns
        question = (QUESTION if columns > len(QUESTION) else QUESTION_NARROW) if loop.asker.question else ""
        seconds = asyncio.get_running_loop().time() - loop.turns.began_at if loop.turns.is_busy else 0.0
        return Moment(
            activity=loop.activity,
            seconds=seconds,
            waiting=loop.turns.waiting_shown,
            enter=f"{loop.talk.busy}s" if loop.turns.is_busy else "",
            question=question,
            editing=self._editing(),
            hint=self.hint,
        )

    def _editing(self) -> str:
        turns = self.composer.takes_back
        if not turns:
            return ""
        if turns <= len(self._loop.turns.waiting):
            what, taken = "a message that waits", "it"
        elif turns == 1:
            what, taken = "your last message", "that turn"
        else:
            what, taken = f"a message {turns} turns back", f"these {turns} turns"
        return f"Editing {what}: Enter takes {taken} back and sends this\nEsc leaves it · ↑ the one before"

    def _layout(self) -> AnyContainer:
        return HSplit(
            [
                ConditionalContainer(
                    Window(FormattedTextControl(self._drawn), dont_extend_height=True, wrap_lines=False),
                    filter=Condition(lambda: bool(self._lines)),
                ),
                DynamicContainer(lambda: self._picker.container if self._picker else self._input),
                ConditionalContainer(
                    CompletionsMenu(max_height=8, scroll_offset=1, extra_filter=~is_done),
                    filter=has_completions & Condition(lambda: self._picker is None),
                ),
                self._search,
                Window(FormattedTextControl(self._status_line), height=1, wrap_lines=False),
            ],
            align=VerticalAlign.TOP,
        )

    def _input_window(self) -> Window:
        placeholder = ConditionalProcessor(
            AfterInput([("ansibrightblack", PLACEHOLDER)]),
            Condition(lambda: self.composer.is_empty and not self._loop.activity and not self._lines)
            & ~is_searching,
        )
        control = BufferControl(
            self.composer.buffer,
            input_processors=[HighlightIncrementalSearchProcessor(), placeholder],
            search_buffer_control=self._search.control,
            preview_search=True,
        )
        return Window(
            control,
            height=lambda: Dimension(min=1, max=self._input_rows(self._terminal.output.get_size().rows)),
            dont_extend_height=True,
            wrap_lines=True,
            get_line_prefix=self._prefix,
        )

    def _input_rows(self, rows: int) -> int:
        return max(1, min(self.composer.buffer.document.line_count + 8, rows // 2))

    def _prefix(self, line: int, wraps: int) -> StyleAndTextTuples:
        return [("bold ansicyan", PROMPT)] if line == 0 and wraps == 0 else [("", "  ")]

    def _drawn(self) -> ANSI:
        return ANSI("\n".join(self._lines))

    def _status_line(self) -> StyleAndTextTuples:
        return [("ansibrightblack", self._status.text(self._terminal.columns))]
