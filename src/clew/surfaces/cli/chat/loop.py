"""The chat itself: lines in, turns and commands out. What is typed while a turn runs waits in the ledger."""

from __future__ import annotations

import asyncio

from clew.runtime.commands import CommandError, CommandReply, is_command
from clew.runtime.talk import Talk
from clew.runtime.turns import TurnOutcome
from clew.runtime.turns.opening import Opening, Say
from clew.runtime.turns.runner import RunningTurn
from clew.surfaces.cli.chat.approving import Asker
from clew.surfaces.cli.chat.attach import attachments
from clew.surfaces.cli.chat.screen import Screen
from clew.surfaces.cli.chat.shell import run_shell
from clew.surfaces.cli.chat.status import StatusLine
from clew.surfaces.cli.codes import EXPECTED

QUIT = frozenset({"/quit", "/exit", "/q"})


class ChatLoop:
    """One person's chat. `draft` is text for the input line, set by /undo; whoever shows the line takes it."""

    def __init__(self, talk: Talk, screen: Screen, status: StatusLine) -> None:
        self.talk = talk
        self.asker = Asker()
        self.draft = ""
        self._screen = screen
        self._status = status
        self._turn: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._turn is not None and not self._turn.done()

    async def line(self, text: str) -> bool:
        """Does what a line says; False when the chat should end. Every expected error is one line on the screen."""
        if self.asker.question is not None and self.asker.answer(text):
            return True
        if text.strip() in QUIT:
            return False
        try:
            await self._do(text, text.strip())
        except EXPECTED as error:
            self._screen.problem(str(error))
        await self._status.refresh(self.talk)
        return True

    def interrupt(self) -> bool:
        """Stops the running turn; False when none runs."""
        if not self.is_busy or self.talk.running is None:
            return False
        self.talk.running.stop("interrupted")
        return True

    async def close(self) -> None:
        """Ends what runs, and waits until its end is on disk."""
        self.interrupt()
        await self._turn_settled()

    async def _do(self, text: str, stripped: str) -> None:
        if not stripped:
            return
        if stripped.split(maxsplit=1)[0] == "/open":
            self._open(stripped)
        elif stripped.startswith("!"):
            await run_shell(stripped[1:], self.talk.cwd, self._screen)
        elif is_command(text):
            await self._command(stripped)
        else:
            await self._say(text)

    def _open(self, line: str) -> None:
        argument = line.removeprefix("/open").strip()
        if argument and not (argument.isascii() and argument.isdigit()):
            raise CommandError("/open takes the number of a result.")
        self._screen.open_result(int(argument) if argument else None)

    async def _command(self, line: str) -> None:
        if line.split(maxsplit=1)[0] == "/stop" and self.interrupt():
            return
        reply: CommandReply = await self.talk.command(line)
        if reply.opening is not None or reply.draft is not None or reply.session is not None:
            await self._turn_settled()
        self._screen.reply(reply.text)
        if reply.draft is not None:
            self.draft = reply.draft
        if reply.opening is not None:
            await self._begin(reply.opening)

    async def _say(self, text: str) -> None:
        files, problems = attachments(text, self.talk.cwd)
        for problem in problems:
            self._screen.problem(problem)
        if self.is_busy:
            await self.talk.queue(text, files)
            self._screen.notice("Queued: it is sent when this turn ends. /stop ends the turn now.")
            return
        for file in files:
            self._screen.notice(f"attached {file.name} ({file.media_type}, {len(file.bytes)} bytes)")
        await self._begin(Say(text=text, files=tuple(files), cwd=str(self.talk.cwd)))

    async def _begin(self, opening: Opening) -> None:
        await self._turn_settled()
        running = await self.talk.begin(opening, self._screen.watch, self.asker)
        self._turn = asyncio.create_task(self._follow(running))

    async def _follow(self, running: RunningTurn | None) -> None:
        """Runs the turn to its end, then those that wait, one after the other."""
        while running is not None:
            outcome = await running.finish()
            self._screen.end()
            self._told(outcome)
            await self._status.refresh(self.talk)
            running = await self._next(outcome)

    async def _next(self, outcome: TurnOutcome) -> RunningTurn | None:
        if outcome.error is not None and outcome.error[0] == "fenced":
            return None
        waiting = await self.talk.next_queued()
        if waiting is None:
            return None
        self._screen.person(str(waiting.text))
        return await self.talk.begin(waiting, self._screen.watch, self.asker)

    def _told(self, outcome: TurnOutcome) -> None:
        if outcome.error is not None:
            self._screen.problem(outcome.error[1])
        elif outcome.status != "done":
            self._screen.notice(f"({outcome.status})")

    async def _turn_settled(self) -> None:
        """Waits for a turn that was ended to notice."""
        if self._turn is not None:
            turn, self._turn = self._turn, None
            await turn
