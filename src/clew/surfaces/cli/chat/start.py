"""Opens the chat: the first-run setup, the session, the input line, and the order in which all of it ends."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from rich.console import Console

from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.ledger.errors import NotFound
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.talk import Services, Talk
from clew.surfaces.cli.chat.completion import ChatCompleter
from clew.surfaces.cli.chat.loop import ChatLoop
from clew.surfaces.cli.chat.screen import Screen
from clew.surfaces.cli.chat.status import StatusLine
from clew.surfaces.cli.codes import Exit, UsageError
from clew.surfaces.cli.host import Host
from clew.surfaces.cli.places import TERMINAL

WELCOME = "Clew. Say something; /help lists commands, Ctrl-D leaves, Alt-Enter starts a new line."


def chat(host: Host, session: str | None, go_on: bool) -> int:
    """Runs the chat until the person leaves."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("The chat needs a terminal; `clew run TEXT` does not.")
    return asyncio.run(_chat(host, session, go_on))


async def _chat(host: Host, session: str | None, go_on: bool) -> int:
    async with host.services() as services:
        chosen = await _chosen(services, session, go_on)
        talk = Talk(services, LOCAL, TERMINAL, Path.cwd(), chosen)
        try:
            await ChatScreen(host, talk).run()
        finally:
            await talk.close()
    return Exit.DONE


async def _chosen(services: Services, session: str | None, go_on: bool) -> SessionId | None:
    if session is not None:
        return await services.ledger.resolve(LOCAL, session)
    if not go_on:
        return None
    row = await services.desk.current(LOCAL, TERMINAL)
    if row is None:
        raise NotFound("There is no session to continue.")
    return row.id


class ChatScreen:
    """The input line at the bottom and what scrolls above it."""

    def __init__(self, host: Host, talk: Talk) -> None:
        # Everything is printed through the patched stdout, so that it lands above the input line.
        self._screen = Screen(Console(), self._redraw)
        self._status = StatusLine(self._screen)
        self._loop = ChatLoop(talk, self._screen, self._status)
        self._talk = talk
        history = (
            FileHistory(str(host.home.root / "history")) if host.home.root.exists() else InMemoryHistory()
        )
        self._prompt: PromptSession[str] = PromptSession(
            history=history,
            completer=ChatCompleter(talk.cwd),
            complete_while_typing=False,
            key_bindings=self._keys(),
            multiline=True,
            prompt_continuation="  ",
            bottom_toolbar=self._status.text,
            refresh_interval=0.5,
        )

    async def run(self) -> None:
        with patch_stdout(raw=True):
            self._screen = self._rebound()
            await self._welcome()
            while await self._once():
                pass
            await self._loop.close()

    def _rebound(self) -> Screen:
        """A console made while stdout is patched writes above the input line."""
        screen = Screen(Console(force_terminal=True, color_system="auto"), self._redraw)
        self._status = StatusLine(screen)
        self._loop = ChatLoop(self._talk, screen, self._status)
        self._prompt.bottom_toolbar = self._status.text
        return screen

    async def _welcome(self) -> None:
        self._screen.notice(WELCOME)
        await self._status.refresh(self._talk)
        for found in self._talk.services.instructions(self._talk.cwd):
            self._screen.notice(f"Project instructions: {found.source}")
        if self._talk.session is not None:
            row = await self._talk.services.ledger.session(LOCAL, self._talk.session)
            self._screen.notice(
                f"Session {row.id}: {row.title or 'untitled'}, {row.handle.head.seq} messages."
            )
        try:
            await self._talk.services.models.choose(None)
        except ModelUnavailable as error:
            self._screen.problem(str(error))

    async def _once(self) -> bool:
        draft, self._loop.draft = self._loop.draft, ""
        try:
            line = await self._prompt.prompt_async(self._message, default=draft)
        except KeyboardInterrupt:
            if not self._loop.interrupt():
                self._screen.notice("Ctrl-D or /quit leaves.")
            return True
        except EOFError:
            return False
        if line.strip() and self._loop.asker.question is None:
            pass  # the line stays on the screen as it was typed
        return await self._loop.line(line)

    def _message(self) -> FormattedText:
        parts: list[tuple[str, str]] = []
        if self._screen.growing:
            parts.append(("", self._screen.growing + "\n"))
        question = self._loop.asker.question
        if question is not None:
            parts.append(("bold fg:ansiyellow", f"{question.line}\n"))
            parts.append(("bold", "allow? [y]es  [a]lways in this session  [n]o ❯ "))
            return FormattedText(parts)
        if self._loop.is_busy:
            parts.append(("fg:ansibrightblack", f"… {self._screen.activity or 'working'}  (Ctrl-C stops)\n"))
        parts.append(("bold fg:ansicyan", "❯ "))
        return FormattedText(parts)

    def _redraw(self) -> None:
        if self._prompt.app.is_running:
            self._prompt.app.invalidate()

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @keys.add("escape", "enter")
        @keys.add("c-j")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        return keys
