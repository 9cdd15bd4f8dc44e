"""The chat itself: what a line does. Turns and shell commands run beside it, so that the line is always there.

Lines are taken one after the other, in the order they were sent. Nothing a person sees as sent is only in memory: a
message goes into a turn or into the ledger's inbox before it is said to be queued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from clew.domain.conversation.ids import SessionId
from clew.domain.ledger.errors import NotFound, Outdated
from clew.runtime.background import Background
from clew.runtime.commands import CommandError, CommandReply, is_command
from clew.runtime.ports.people import Consent, Question
from clew.runtime.recovery import Recovery
from clew.runtime.talk import Talk
from clew.runtime.turns.openings import Hear, Opening, Recover, Say
from clew.runtime.turns.waiting import BusyMode
from clew.surfaces.cli.chat.approving import Asker
from clew.surfaces.cli.chat.attach import attachments
from clew.surfaces.cli.chat.completion import LOCAL_COMMANDS
from clew.surfaces.cli.chat.composer import Entry
from clew.surfaces.cli.chat.preview import preview
from clew.surfaces.cli.chat.recap import describe, recap
from clew.surfaces.cli.chat.reminding import say_reminders
from clew.surfaces.cli.chat.screen import Screen
from clew.surfaces.cli.chat.shell import ShellCommand
from clew.surfaces.cli.chat.status import StatusLine
from clew.surfaces.cli.chat.turns import TurnDriver
from clew.surfaces.cli.codes import EXPECTED

ENTRIES_MAX: Final = 100
LOOK_SECONDS: Final = 1.0
"""How often a chat in which nothing runs looks whether another process took what waits."""
QUIT: Final = frozenset({"/quit", "/exit", "/q"})
SETUP: Final = "/setup"
DEMO: Final = "A tiny demo model answers: real, and poor, without tools. /setup chooses a better one."
WHILE_BUSY: Final = {
    BusyMode.QUEUE: "sends after it; /steer sends into it, Ctrl-C stops it",
    BusyMode.STEER: "sends into it, after the running tool; /queue sends after it, Ctrl-C stops it",
    BusyMode.INTERRUPT: "stops it and sends; /queue sends after it, /steer into it",
}
_SETTLED: Final = {
    Consent.ONCE: "Allowed once.",
    Consent.SESSION: "Allowed in this session from now on.",
    Consent.NO: "Refused.",
}


class Line(Protocol):
    """The input line, as the chat needs it."""

    @property
    def is_empty(self) -> bool: ...

    @property
    def text(self) -> str:
        """What sending it would send."""
        ...

    def put(self, text: str, *, takes_back: int = 0) -> None: ...

    def set_aside(self) -> None: ...

    def bring_back(self) -> None: ...


class Chooser(Protocol):
    """Lets the person pick a session."""

    async def session(self, talk: Talk) -> SessionId | None: ...


class ChatLoop:
    """One person's chat."""

    def __init__(
        self,
        talk: Talk,
        screen: Screen,
        status: StatusLine,
        *,
        changed: Callable[[], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self.talk = talk
        self.wants_setup = False
        self.outdated: Outdated | None = None
        """Why this program has to be started anew: the ledger, or the package on disk, is a newer one's."""
        self.asker = Asker(self._asked, self._answered)
        self.line: Line | None = None
        self.chooser: Chooser | None = None
        self._screen = screen
        self._status = status
        self._changed = changed
        self._broken = broken
        self._is_leaving = False
        self._entries: asyncio.Queue[Entry | None] = asyncio.Queue(ENTRIES_MAX + 1)
        self._beside: set[asyncio.Task[None]] = set()
        self._shell: ShellCommand | None = None
        self._instructions: tuple[tuple[str, str], ...] = ()
        self._background = Background(talk, told=self._background_told, broken=broken)
        talk.background = self._background
        talk.titled = self._titled
        self.turns = TurnDriver(
            talk, screen, status, self.asker,
            give_back=self._give_back, settled=self._turn_settled, outdated=self._drain, broken=broken,
        )  # fmt: skip

    # -- what the keys do ----------------------------------------------------------------------------------------
    def enter(self, entry: Entry) -> bool:
        """Takes a line; False when so many wait already that this one has to stay where it is."""
        if self._entries.qsize() >= ENTRIES_MAX:
            return False
        self._entries.put_nowait(entry)
        return True

    def interrupt(self) -> bool:
        """Ctrl-C: stops what runs; False when nothing does."""
        if self._shell is not None:
            self._shell.stop()
            return True
        return self.turns.interrupt()

    def leave(self) -> None:
        """Ends the chat after the lines that were sent. Idempotent."""
        if not self._is_leaving:
            self._is_leaving = True
            self._entries.put_nowait(None)

    def recall(self, turns_back: int) -> None:
        """Puts an earlier message into the line, to be edited."""
        self.beside(partial(self._recall, turns_back))

    @property
    def activity(self) -> str:
        """What is being waited for."""
        if self._shell is not None:
            return f"! {self._shell.command}"
        if not self.turns.is_busy:
            return ""
        return "thinking" if self._screen.thinking else "working"

    # -- the loop ------------------------------------------------------------------------------------------------
    async def run(self, *, pick: bool = False) -> None:
        """Until somebody leaves. What ran is ended, and its end recorded, when this returns."""
        try:
            await self._expecting(partial(self._begin, pick=pick))
            self._screen.gap()
            while (entry := await self._entries.get()) is not None:
                if not await self._taken(entry):
                    break
        finally:
            await self._close()

    def beside(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs something beside the line; what goes wrong in it is said."""
        task = asyncio.create_task(self._expecting(work))
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _expecting(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Outdated as error:
            self._drain(error)
        except EXPECTED as error:
            self._screen.problem(str(error))
            self._screen.gap()
        except Exception as error:  # noqa: BLE001 - the supervisor: said on the screen, in full with --debug
            self._broken(error)
        self._changed()

    async def _taken(self, entry: Entry) -> bool:
        """Does what a line says; False when the chat should end."""
        stripped = entry.text.strip()
        if self.asker.question is not None and self._decides(self.asker.question, stripped):
            return True
        if stripped.lower() in QUIT:
            return False
        if stripped.lower() == SETUP:
            self.wants_setup = True
            return False
        await self._expecting(partial(self._do, entry, stripped))
        self._screen.gap()
        self.refresh()
        return True

    async def _do(self, entry: Entry, stripped: str) -> None:
        if not stripped:
            await self._empty_line()
        elif entry.text.startswith("!") and not entry.takes_back:
            self._run_shell(stripped)
        elif is_command(stripped) and not entry.text[0].isspace():
            await self._command(stripped)
        else:
            await self._message(entry)

    def refresh(self) -> None:
        """Reads the facts of the status line again."""
        self.beside(self._refresh)

    def _titled(self) -> None:
        if not self._is_leaving:
            self.refresh()

    async def _refresh(self) -> None:
        await self.turns.refresh_waiting()
        with suppress(NotFound):  # it was deleted: whoever goes on talking in it is told
            await self._status.refresh(self.talk)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.turns.waiting and not self.turns.is_busy:
                await self.turns.refresh_waiting()
                self._changed()

    async def _close(self) -> None:
        if self._shell is not None:
            self._shell.stop()
        await self.turns.close()
        await self._background.close()
        for task in tuple(self._beside):
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)

    # -- beginning -----------------------------------------------------------------------------------------------
    async def _begin(self, *, pick: bool) -> None:
        if self.talk.session is not None:
            self._screen.notice(await describe(self.talk))
            await self._show_session()
        elif pick:
            await self._pick()
        self.beside(self._introduce_model)
        self.beside(self._look)
        recovery = Recovery(self.talk.services, self.talk.place, self._told_of)
        self.beside(partial(recovery.run, lambda: self.talk.session))
        self.beside(partial(say_reminders, self.talk, self._reminded))
        if (jobs := self.talk.services.jobs) is not None:
            self.beside(jobs.run)

    async def _reminded(self, words: str) -> None:
        """A reminder was said: its turn begins, where none runs that hears of it."""
        self._screen.notice(words)
        self._screen.gap()
        self._changed()
        if isinstance(await self.talk.next_opening(), Hear):
            await self.turns.send_waiting()

    def _background_told(self, side: SessionId, sentence: str) -> None:
        self._screen.notice(f"{sentence}\n/resume {side} shows all of it.")
        self._screen.gap()
        self._changed()

    def _told_of(self, session: SessionId, sentence: str) -> None:
        """What came of a turn that another process left in the middle."""
        self._screen.notice(f"Session {session}: {sentence} /resume {session} shows it.")

    async def _introduce_model(self) -> None:
        """Looks for the model, which may take a while, and says what somebody should know of it."""
        row = None
        if self.talk.session is not None:
            row = await self.talk.services.ledger.session(self.talk.principal, self.talk.session)
        try:
            choice = await self.talk.services.models.choose(row.model if row else None)
            if choice.profile.is_demo:
                self._screen.notice(DEMO)
                self._screen.gap()
        finally:
            await self._refresh()

    async def _show_session(self) -> None:
        await recap(self.talk, self._screen)
        if self.talk.session is not None and not self.talk.is_temporary:
            await self._background.catch_up(self.talk.session)
        await self.turns.refresh_waiting()
        if self.turns.waiting:
            count = len(self.turns.waiting)
            what = "A message waits" if count == 1 else f"{count} messages wait"
            self._screen.notice(
                f"{what} from before and will be sent first. Enter on the empty line sends now."
            )
        if not self.turns.is_busy and await self.talk.is_left_open():
            self.turns.start(Recover())

    def name_instructions(self, *, first: bool = False) -> None:
        """Says which instructions of the project hold, when that is new. Raises OSError."""
        found = tuple((i.source, i.text) for i in self.talk.services.instructions(self.talk.cwd))
        if found == self._instructions:
            return
        before, self._instructions = dict(self._instructions), found
        names = [self._near(source) for source, text in found if first or before.get(source) != text]
        gone = [self._near(source) for source in before if source not in dict(found)]
        if names:
            self._screen.notice(
                f"{'Project instructions' if first else 'New project instructions'}: {', '.join(names)}"
            )
        if gone:
            self._screen.notice(f"No longer among the project's instructions: {', '.join(gone)}")

    def _near(self, source: str) -> str:
        return source.removeprefix(f"{self.talk.cwd}/")

    # -- lines ---------------------------------------------------------------------------------------------------
    async def _empty_line(self) -> None:
        if self.turns.waiting and not self.turns.is_busy:
            await self.turns.send_waiting()

    async def _message(self, entry: Entry) -> None:
        """Sends it, in place of what it replaces; one that cannot be sent comes back."""
        try:
            if entry.takes_back:
                await self._run_command(f"/undo {entry.takes_back}", draft=False)
            await self._say(entry.text)
        except EXPECTED:
            self._give_back(entry.text)
            raise

    async def _say(self, text: str) -> None:
        await self.talk.ensure_session()  # here, where one line follows another: two at once would open two
        files, problems = await asyncio.to_thread(attachments, text, self.talk.cwd)
        for problem in problems:
            self._screen.notice(problem)
        opening = await self.turns.send(text, files)
        if opening is not None:
            self._start(opening)

    def _start(self, opening: Opening) -> None:
        self.name_instructions()
        if isinstance(opening, Say):
            files = tuple(f"{f.name} ({f.media_type}, {len(f.bytes)} bytes)" for f in opening.files)
            self._screen.person(str(opening.text), files)
        self.turns.start(opening)

    def _give_back(self, text: str) -> None:
        if self.line is not None and self.line.is_empty:
            self.line.put(text)
        else:
            self._screen.notice(f"Not sent: {text}")

    def tell_unsent(self) -> None:
        """When the chat ended by itself: says what waits in the ledger, and prints what is nowhere else."""
        if self.talk.is_temporary:
            for text in self.turns.waiting:
                self._screen.notice(f"Not sent: {text}")
        elif self.turns.waiting:
            count = len(self.turns.waiting)
            self._screen.notice(f"{count} message{'s wait' if count > 1 else ' waits'} in the session.")
        while not self._entries.empty():
            entry = self._entries.get_nowait()
            if entry is not None:
                self._screen.notice(f"Not sent: {entry.text}")
        if self.line is not None and self.line.text:
            self._screen.notice(f"Not sent: {self.line.text}")

    def _run_shell(self, line: str) -> None:
        if self._shell is not None:
            raise CommandError(f"Still running: !{self._shell.command}. Ctrl-C ends it.")
        self._screen.entered(line)
        self._shell = ShellCommand(line[1:], self.talk.cwd, self._screen)
        self.beside(partial(self._follow_shell, self._shell))

    async def _follow_shell(self, shell: ShellCommand) -> None:
        try:
            await shell.run()
        finally:
            self._shell = None
            self._screen.gap()
            self._leave_if_drained()

    # -- commands ------------------------------------------------------------------------------------------------
    async def _command(self, line: str) -> None:
        name, _, argument = line[1:].partition(" ")
        match name.lower(), argument.strip():
            case "open", argument:
                self._screen.entered(line)
                self._open(argument)
            case "stop", "" if not await self.turns.waits_for_another() and self.turns.interrupt():
                pass  # the end of the turn says it
            case "resume", "":
                self._screen.entered(line)
                await self._pick()
            case "help", "":
                await self._run_command(line, entered=line)
                self._screen.reply("\n".join(f"{u:32} {s}" for u, s in LOCAL_COMMANDS.values()))
                self._screen.reply("!command                         run it in your shell, beside the chat\n"
                                   "@path in a message               attach a file or an image\n"
                                   f"Enter while a turn runs          {WHILE_BUSY[self.talk.busy]}")  # fmt: skip
            case _:
                await self._run_command(line, entered=line)

    def _open(self, argument: str) -> None:
        if argument and not (argument.isascii() and argument.isdigit()):
            raise CommandError("/open takes the number of a result.")
        self._screen.open_result(int(argument[:9]) if argument else None)

    async def _pick(self) -> None:
        if not await self.talk.services.ledger.sessions(self.talk.principal, limit=1):
            raise CommandError("There are no sessions yet.")
        if self.chooser is None:
            raise CommandError("/resume takes a session's id, title or number in the list; see /sessions.")
        chosen = await self.chooser.session(self.talk)
        if chosen is None:
            self._screen.notice("Nothing was picked.")
        elif chosen == self.talk.session:
            self._screen.notice("You are in it.")
        else:
            await self._run_command(f"/resume {chosen}")

    async def _run_command(self, line: str, *, entered: str = "", draft: bool = True) -> None:
        """Does a command; `entered` is shown after what the turn said that it ended."""
        name = line[1:].partition(" ")[0].lower()
        before = self.talk.session
        try:
            reply = await self.talk.command(line)
            if reply.ends_turn:
                await self.turns.end_unheard()
                self._status.moved()
        finally:
            if entered:
                self._screen.entered(entered)
        if not reply.ends_turn and self.talk.session != before and self.turns.leave():
            self._screen.notice(f"The answer in {before} goes on there.")
        self._screen.reply(reply.text)
        await self._after(reply, before, name, draft=draft)

    async def _after(self, reply: CommandReply, before: SessionId | None, name: str, *, draft: bool) -> None:
        if self.talk.session != before:
            self._status.moved()
            if name == "resume":
                await self._show_session()
        if draft and reply.draft is not None and self.line is not None and self.line.is_empty:
            self.line.put(reply.draft)
        await self.turns.refresh_waiting()
        if reply.opening is not None:
            await self.turns.stop()
            self._start(reply.opening)
        elif reply.waits:
            await self.turns.send_waiting()

    async def _recall(self, turns_back: int) -> None:
        if self.line is None or self.talk.session is None:
            return
        waiting = self.turns.waiting
        wanted = turns_back - len(waiting)
        if wanted <= 0:
            self.line.put(waiting[-turns_back], takes_back=turns_back)
            return
        ledger = self.talk.services.ledger
        starts = await ledger.turn_starts(self.talk.principal, self.talk.session, wanted)
        if len(starts) >= wanted:
            self.line.put(starts[wanted - 1].text, takes_back=turns_back)

    # -- questions -----------------------------------------------------------------------------------------------
    def _asked(self, question: Question) -> None:
        self._screen.gap()
        self._screen.raw(preview(question, self.talk.cwd, self._screen.typesetter))
        self._screen.previewed.add(question.call)
        if self.line is not None:
            self.line.set_aside()
        self._changed()

    def _answered(self, question: Question) -> None:
        if self.line is not None:
            self.line.bring_back()
        self._changed()

    def _decides(self, question: Question, typed: str) -> bool:
        """Whether this was about the question; anything else is done as always, and the question stays."""
        if typed.lower() == "v":
            self._screen.raw(preview(question, self.talk.cwd, self._screen.typesetter, whole=True))
            return True
        consent = self.asker.answer(typed)
        if consent is None:
            return not typed
        self._screen.notice(_SETTLED[consent])
        return True

    def _turn_settled(self) -> None:
        self.refresh()
        self._changed()
        self._leave_if_drained()

    # -- draining ------------------------------------------------------------------------------------------------
    def _drain(self, error: Outdated) -> None:
        """This program has to be started anew: says so once, and leaves as soon as nothing runs."""
        if self.outdated is None:
            self.outdated = error
            self._screen.problem(str(error))
        self._leave_if_drained()

    def _leave_if_drained(self) -> None:
        if self.outdated is not None and self._shell is None and not self.turns.anything_runs:
            self.leave()
