"""The editor at the other end: what it can do, what it is told, what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from clew.domain.conversation.ids import CallId
from clew.runtime.ports.people import Consent
from clew.runtime.ports.tools import TerminalEnd
from clew.surfaces.acp.calls import ShownCall, shown_in_terminal
from clew.surfaces.acp.updates import Update
from clew.wire.acp_types import (
    AgentThoughtChunkSent,
    CancelledOutcome,
    ClientCapabilities,
    CreateTerminalRequest,
    CreateTerminalResponse,
    EnvVariable,
    KillTerminalResponse,
    NoticeSent,
    PermissionOption,
    ReadTextFileRequest,
    ReadTextFileResponse,
    ReleaseTerminalResponse,
    RequestPermissionRequest,
    RequestPermissionResponse,
    SessionNotification,
    TerminalExitStatus,
    TerminalOutputRequest,
    TerminalOutputResponse,
    TextBlock,
    WaitForTerminalExitResponse,
    WriteTextFileRequest,
    WriteTextFileResponse,
)
from clew.wire.jsonrpc import RpcError
from clew.wire.peer import Disconnected, Peer

T = TypeVar("T")
RELEASE_SECONDS_MAX: Final = 5.0
"""For the editor to end what runs in a terminal, and let go of it."""
ANSWER_SECONDS_MAX: Final = 60.0
"""For the editor to read or write one file, or to start a command; how long that then runs is the tool's to say."""
_CHOICES: Final = (
    PermissionOption(option_id=Consent.ONCE, name="Allow once", kind="allow_once"),
    PermissionOption(option_id=Consent.SESSION, name="Allow in this session", kind="allow_always"),
    PermissionOption(option_id=Consent.NO, name="Refuse", kind="reject_once"),
)


class Dismissed(Exception):
    """The person closed the question instead of answering it: the turn is to end."""


class Editor:
    """`sent` returns when what was written is on its way, so that nobody writes more than the editor reads."""

    def __init__(self, peer: Peer, sent: Callable[[], Awaitable[None]]) -> None:
        self.capabilities = ClientCapabilities()
        self.sent = sent
        self.shown_in: dict[str, str] = {}
        """The terminal of each call that runs in one."""
        self._peer = peer

    def update(self, session: str, update: Update) -> None:
        self._peer.notify("session/update", SessionNotification(session_id=session, update=update))

    def notice(self, session: str, text: str) -> None:
        """Something beside the answer. Where the editor has no place for it, it is a thought: never the model's words."""
        takes = self.capabilities.session
        if takes is not None and takes.notices is not None:
            self.update(session, NoticeSent(severity="info", title=text or " "))
        else:
            self.update(session, AgentThoughtChunkSent(content=TextBlock(text=f"{text}\n")))

    @property
    def takes_compactions(self) -> bool:
        takes = self.capabilities.session
        return takes is not None and takes.compaction is not None

    async def permission(self, session: str, call: ShownCall, seconds_max: float) -> Consent | None:
        """The person's answer; None when none came. Raises Dismissed. Cancelled, the question is taken back."""
        question = RequestPermissionRequest(session_id=session, tool_call=call.asked(), options=[*_CHOICES])
        try:
            async with asyncio.timeout(seconds_max):
                answer = await self._peer.call(
                    "session/request_permission", question, RequestPermissionResponse
                )
        except (RpcError, Disconnected, TimeoutError):
            return None  # the question stays in the ledger: /approve and /deny answer it
        if isinstance(answer.outcome, CancelledOutcome):
            raise Dismissed
        chosen = answer.outcome.option_id
        return Consent(chosen) if chosen in set(Consent) else None

    def terminals(self, session: str) -> EditorTerminals | None:
        """The editor's terminals, if it has some."""
        return EditorTerminals(self, self._peer, session) if self.capabilities.terminal else None

    def files(self, session: str) -> EditorFiles | None:
        """The editor's files, if it lets us read and write them."""
        fs = self.capabilities.fs
        if fs is None or not (fs.read_text_file and fs.write_text_file):
            return None
        return EditorFiles(self._peer, session)


class EditorTerminals:
    """`Terminals`: what runs in them is shown where the call is."""

    def __init__(self, editor: Editor, peer: Peer, session: str) -> None:
        self._editor = editor
        self._peer = peer
        self._session = session
        self._ending: set[asyncio.Task[None]] = set()

    async def run(
        self,
        call: CallId,
        command: Sequence[str],
        directory: Path,
        environ: Mapping[str, str],
        *,
        seconds_max: float,
        output_bytes: int,
    ) -> TerminalEnd:
        wanted = CreateTerminalRequest(
            session_id=self._session, command=command[0], args=[*command[1:]], cwd=str(directory),
            env=[EnvVariable(name=name, value=value) for name, value in environ.items()],
            output_byte_limit=output_bytes,
        )  # fmt: skip
        creating = asyncio.create_task(_asked(self._peer, "terminal/create", wanted, CreateTerminalResponse))
        try:
            made = await asyncio.shield(creating)
        except asyncio.CancelledError:
            self._keep(self._let_go(creating))  # the editor may have made it, and not said so yet
            raise
        self._editor.shown_in[call] = made.terminal_id
        self._editor.update(self._session, shown_in_terminal(call, made.terminal_id))
        try:
            return await self._ended(made.terminal_id, seconds_max)
        finally:
            await self._release(made.terminal_id)

    async def _ended(self, terminal: str, seconds_max: float) -> TerminalEnd:
        named = TerminalOutputRequest(session_id=self._session, terminal_id=terminal)
        timed_out = False
        try:
            async with asyncio.timeout(seconds_max):
                await _asked(
                    self._peer, "terminal/wait_for_exit", named, WaitForTerminalExitResponse, seconds_max=None
                )
        except TimeoutError:
            timed_out = True
            await _asked(self._peer, "terminal/kill", named, KillTerminalResponse)
        shown = await _asked(self._peer, "terminal/output", named, TerminalOutputResponse)
        status = shown.exit_status or TerminalExitStatus()
        return TerminalEnd(
            output=shown.output, truncated=shown.truncated, exit_code=status.exit_code, signal=status.signal,
            timed_out=timed_out,
        )  # fmt: skip

    async def _release(self, terminal: str) -> None:
        """Ends what still runs in it. Done to the end, also when the call was cancelled."""
        await asyncio.shield(self._keep(self._released(terminal)))

    async def _let_go(self, creating: asyncio.Task[CreateTerminalResponse]) -> None:
        with suppress(OSError):  # there is none to let go of
            await self._released((await creating).terminal_id)

    def _keep(self, ending: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Lets it come to its end beside whatever was cancelled."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _released(self, terminal: str) -> None:
        named = TerminalOutputRequest(session_id=self._session, terminal_id=terminal)
        try:
            async with asyncio.timeout(RELEASE_SECONDS_MAX):
                await self._peer.call("terminal/release", named, ReleaseTerminalResponse)
        except (RpcError, Disconnected, TimeoutError) as error:
            self._editor.notice(self._session, f"The editor did not let go of terminal {terminal}: {error!r}")


class EditorFiles:
    """`TextFiles`: with what somebody typed and did not save."""

    def __init__(self, peer: Peer, session: str) -> None:
        self._peer = peer
        self._session = session

    async def read(self, path: Path) -> str:
        request = ReadTextFileRequest(session_id=self._session, path=str(path))
        answer = await _asked(self._peer, "fs/read_text_file", request, ReadTextFileResponse, f"{path}: ")
        return answer.content

    async def write(self, path: Path, text: str) -> None:
        request = WriteTextFileRequest(session_id=self._session, path=str(path), content=text)
        await _asked(self._peer, "fs/write_text_file", request, WriteTextFileResponse, f"{path}: ")


async def _asked(
    peer: Peer,
    method: str,
    request: object,
    kind: type[T],
    about: str = "",
    *,
    seconds_max: float | None = ANSWER_SECONDS_MAX,
) -> T:
    """The editor's answer. Raises OSError where it refuses, is gone, or does not answer in time."""
    try:
        async with asyncio.timeout(seconds_max):
            return await peer.call(method, request, kind)
    except RpcError as error:
        raise OSError(f"{about}the editor says: {error.message}") from error
    except TimeoutError as error:
        raise OSError(f"{about}the editor did not answer {method} in {seconds_max:g} s") from error
    except Disconnected as error:
        raise OSError(f"{about}the editor is gone") from error
