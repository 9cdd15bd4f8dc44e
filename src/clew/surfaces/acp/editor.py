"""The editor at the other end: what it can do, what it is told, what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from clew.runtime.ports.people import Consent
from clew.surfaces.acp.calls import ShownCall
from clew.surfaces.acp.updates import Update
from clew.wire.acp_types import (
    AgentThoughtChunkSent,
    CancelledOutcome,
    ClientCapabilities,
    NoticeSent,
    PermissionOption,
    ReadTextFileRequest,
    ReadTextFileResponse,
    RequestPermissionRequest,
    RequestPermissionResponse,
    SessionNotification,
    TextBlock,
    WriteTextFileRequest,
    WriteTextFileResponse,
)
from clew.wire.jsonrpc import RpcError
from clew.wire.peer import Disconnected, Peer

T = TypeVar("T")
FILE_SECONDS_MAX: Final = 60.0
"""For the editor to read or write one file."""
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

    def files(self, session: str) -> EditorFiles | None:
        """The editor's files, if it lets us read and write them."""
        fs = self.capabilities.fs
        if fs is None or not (fs.read_text_file and fs.write_text_file):
            return None
        return EditorFiles(self._peer, session)


class EditorFiles:
    """`TextFiles`: with what somebody typed and did not save."""

    def __init__(self, peer: Peer, session: str) -> None:
        self._peer = peer
        self._session = session

    async def read(self, path: Path) -> str:
        request = ReadTextFileRequest(session_id=self._session, path=str(path))
        return (await self._ask("fs/read_text_file", request, ReadTextFileResponse, path)).content

    async def write(self, path: Path, text: str) -> None:
        request = WriteTextFileRequest(session_id=self._session, path=str(path), content=text)
        await self._ask("fs/write_text_file", request, WriteTextFileResponse, path)

    async def _ask(self, method: str, request: object, kind: type[T], path: Path) -> T:
        try:
            async with asyncio.timeout(FILE_SECONDS_MAX):
                return await self._peer.call(method, request, kind)
        except RpcError as error:
            raise OSError(f"{path}: the editor says: {error.message}") from error
        except TimeoutError as error:
            raise OSError(f"{path}: the editor did not answer in {FILE_SECONDS_MAX:g} s") from error
        except Disconnected as error:
            raise OSError(f"{path}: the editor is gone") from error
