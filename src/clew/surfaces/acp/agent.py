"""The agent: what each method of the protocol does. It keeps no history; sessions are those of the ledger."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from clew import __version__
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.ledger.commits import SessionPatch
from clew.domain.ledger.errors import LedgerError, NotFound, Outdated, Refused
from clew.domain.ledger.rows import SessionRow
from clew.domain.turn.prefix import Instructions
from clew.runtime.commands import CommandError
from clew.runtime.model_choice import NOTHING_FOUND
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.ports.tools import Surroundings, ToolServer
from clew.runtime.talk import Services
from clew.surfaces.acp.content import said
from clew.surfaces.acp.editor import Editor
from clew.surfaces.acp.options import EFFORT, MODE, MODEL, commands, modes
from clew.surfaces.acp.session import EditorSession, place_of
from clew.wire.acp_types import (
    AgentCapabilities,
    AuthMethod,
    AvailableCommandsUpdateSent,
    CancelNotification,
    ClientCapabilities,
    CloseSessionRequest,
    CloseSessionResponse,
    DeleteSessionRequest,
    DeleteSessionResponse,
    Implementation,
    InitializeRequest,
    InitializeResponse,
    ListSessionsRequest,
    ListSessionsResponse,
    LoadSessionRequest,
    LoadSessionResponse,
    McpCapabilities,
    McpServer,
    NewSessionRequest,
    NewSessionResponse,
    PromptCapabilities,
    PromptRequest,
    PromptResponse,
    ResumeSessionRequest,
    ResumeSessionResponse,
    SessionAdditionalDirectoriesCapabilities,
    SessionCapabilities,
    SessionCloseCapabilities,
    SessionDeleteCapabilities,
    SessionInfo,
    SessionListCapabilities,
    SessionResumeCapabilities,
    SetSessionConfigOptionRequest,
    SetSessionConfigOptionResponse,
    SetSessionModeRequest,
    SetSessionModeResponse,
)
from clew.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError, decoded
from clew.wire.peer import Then

PROTOCOL_VERSION: Final = 1
AUTH_REQUIRED: Final = -32000
NOT_FOUND: Final = -32002
SETUP: Final = "--setup"
"""The option of `clew acp` that an editor appends to let somebody choose a model in a terminal."""
LISTED: Final = 50
MOVED: Final = (
    "The person's editor works in {cwd} from here on; before, it was {before}. Tools start from there."
)
MODELS_SHOWN_MAX: Final = 200

Opened = NewSessionRequest | LoadSessionRequest | ResumeSessionRequest


class Agent:
    """`ready` is awaited before anything is said; `outdated` is told when no turn can begin here any more."""

    def __init__(
        self,
        services: Services,
        editor: Editor,
        *,
        ready: Callable[[], Coroutine[Any, Any, None]],
        outdated: Callable[[Outdated], None],
    ) -> None:
        self._services = services
        self._editor = editor
        self._ready = ready
        self._outdated = outdated
        self._sessions: dict[str, EditorSession] = {}
        self._models: tuple[str, ...] = ()
        self._methods: Mapping[str, Callable[[msgspec.Raw], Awaitable[object]]] = {
            "initialize": self._initialize,
            "authenticate": self._authenticate,
            "session/new": self._new,
            "session/load": self._load,
            "session/resume": self._resume,
            "session/fork": self._fork,
            "session/list": self._list,
            "session/delete": self._delete,
            "session/close": self._close,
            "session/set_mode": self._set_mode,
            "session/set_config_option": self._set_option,
            "session/prompt": self._prompt,
        }

    async def serve(self, method: str, params: msgspec.Raw) -> object:
        """Answers a request. Raises RpcError; any other error is a bug of ours."""
        known = self._methods.get(method)
        if known is None:
            raise RpcError(METHOD_NOT_FOUND, f"There is no method {method[:80]}.")
        try:
            return await known(params)
        except Outdated as error:
            self._outdated(error)
            raise _in_rpc(error) from error
        except (LedgerError, ModelUnavailable, CommandError, OSError) as error:
            raise _in_rpc(error) from error

    def heard(self, method: str, params: msgspec.Raw) -> None:
        """Takes a notification; one that is not known is nothing to us."""
        if method == "session/cancel":
            session = self._sessions.get(decoded(params, CancelNotification).session_id)
            if session is not None:
                session.cancel()

    async def close(self) -> None:
        """Ends every turn, and what the tools started. The sessions stay."""
        for session in self._sessions.values():
            session.cancel()
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    # -- the connection ------------------------------------------------------------------------------------------
    async def _initialize(self, params: msgspec.Raw) -> object:
        request = decoded(params, InitializeRequest)
        takes = self._editor.capabilities = request.client_capabilities or ClientCapabilities()
        setup = AuthMethod(
            type="terminal", id="setup", name="Set up a model", args=[SETUP],
            description="Opens Clew's setup in a terminal: where the model runs, and its key",
        )  # fmt: skip
        answer = InitializeResponse(
            protocol_version=PROTOCOL_VERSION,
            agent_info=Implementation(name="clew", title="Clew", version=__version__),
            agent_capabilities=AgentCapabilities(
                load_session=True,
                prompt_capabilities=PromptCapabilities(image=True, audio=True, embedded_context=True),
                mcp_capabilities=McpCapabilities(http=True, sse=True),
                session_capabilities=SessionCapabilities(
                    list=SessionListCapabilities(),
                    delete=SessionDeleteCapabilities(),
                    resume=SessionResumeCapabilities(),
                    close=SessionCloseCapabilities(),
                    additional_directories=SessionAdditionalDirectoriesCapabilities(),
                ),
            ),
            auth_methods=[setup] if takes.auth is not None and takes.auth.terminal else [],
        )
        told: dict[str, Any] = msgspec.to_builtins(answer)
        told["agentCapabilities"]["sessionCapabilities"]["fork"] = {}  # not in the stable schema yet
        return told

    async def _authenticate(self, params: msgspec.Raw) -> object:
        raise RpcError(INVALID_PARAMS, "There is no such way to authenticate: `clew setup` chooses a model.")

    # -- sessions ------------------------------------------------------------------------------------------------
    async def _new(self, params: msgspec.Raw) -> object:
        request = decoded(params, NewSessionRequest)
        cwd = _directory(request.cwd)
        number = self._services.desk.new_id()
        services = self._around(number, request)
        left = await self._services.desk.open(LOCAL, place_of(number), cwd=str(cwd), session=number)
        session = self._open(EditorSession(number, services, left.row, cwd, self._editor))
        answer = NewSessionResponse(session_id=number, **await self._settings(session))
        return Then(answer, partial(self._introduce, session))

    async def _load(self, params: msgspec.Raw) -> object:
        request = decoded(params, LoadSessionRequest)
        session = await self._reopened(request.session_id, request)
        await session.replay()
        answer = LoadSessionResponse(**await self._settings(session))
        return Then(answer, partial(self._go_on, session))

    async def _resume(self, params: msgspec.Raw) -> object:
        request = decoded(params, ResumeSessionRequest)
        session = await self._reopened(request.session_id, request)
        answer = ResumeSessionResponse(**await self._settings(session))
        return Then(answer, partial(self._go_on, session))

    async def _fork(self, params: msgspec.Raw) -> object:
        """Not in the stable schema: it has the parameters of `session/resume` and the answer of `session/new`."""
        request = decoded(params, ResumeSessionRequest)
        cwd = _directory(request.cwd)
        parent = await self._found(request.session_id)
        number = self._services.desk.new_id()
        services = self._around(number, request)
        row = await self._services.desk.branch(LOCAL, parent.id, place_of(number), into=number)
        row = await self._moved(row, cwd)
        session = self._open(EditorSession(number, services, row, cwd, self._editor))
        answer = NewSessionResponse(session_id=number, **await self._settings(session))
        return Then(answer, partial(self._introduce, session))

    async def _list(self, params: msgspec.Raw) -> object:
        request = decoded(params, ListSessionsRequest)
        cwd = None if request.cwd is None else str(_absolute(request.cwd))
        before = None if request.cursor is None else _cursor(request.cursor)
        shown: list[SessionInfo] = []
        while True:
            rows = await self._services.ledger.sessions(LOCAL, limit=LISTED, before=before)
            for row in rows:
                before = (row.last_active_at, row.id)
                if cwd is None or row.cwd == cwd:
                    shown.append(await self._info(row))
                if len(shown) == LISTED:
                    return ListSessionsResponse(sessions=shown, next_cursor=f"{before[0]}.{before[1]}")
            if len(rows) < LISTED:
                return ListSessionsResponse(sessions=shown)

    async def _info(self, row: SessionRow) -> SessionInfo:
        """A session that was left for another in its place has the other's title: that is what loading it shows."""
        current = await self._found(row.id)
        return SessionInfo(
            session_id=row.id,
            cwd=row.cwd or str(Path.home()),
            title=current.title or row.title,
            updated_at=datetime.fromtimestamp(current.last_active_at / 1000, UTC).isoformat(),
        )

    async def _delete(self, params: msgspec.Raw) -> object:
        number = decoded(params, DeleteSessionRequest).session_id
        try:
            row = await self._services.ledger.session(LOCAL, SessionId(number))
        except NotFound:
            if not await self._services.ledger.was_forgotten(LOCAL, SessionId(number)):
                raise  # it was never there, or is somebody else's
            return DeleteSessionResponse()  # gone already
        await self._shut(number)
        await self._services.ledger.forget(LOCAL, row.id, self._services.clock.now_ms())
        return DeleteSessionResponse()

    async def _close(self, params: msgspec.Raw) -> object:
        number = decoded(params, CloseSessionRequest).session_id
        if number not in self._sessions:
            await self._found(number)
        await self._shut(number)
        return CloseSessionResponse()

    # -- in a session --------------------------------------------------------------------------------------------
    async def _prompt(self, params: msgspec.Raw) -> object:
        request = decoded(params, PromptRequest)
        session = self._session(request.session_id)
        content = said(request.prompt)
        return PromptResponse(stop_reason=await session.prompt(content, self._ready))

    async def _set_mode(self, params: msgspec.Raw) -> object:
        request = decoded(params, SetSessionModeRequest)
        await self._set(self._session(request.session_id), MODE, request.mode_id)
        return SetSessionModeResponse()

    async def _set_option(self, params: msgspec.Raw) -> object:
        request = decoded(params, SetSessionConfigOptionRequest)
        session = self._session(request.session_id)
        if request.config_id not in (MODE, MODEL, EFFORT) or not isinstance(request.value, str):
            raise RpcError(INVALID_PARAMS, f"There is no option {request.config_id[:40]} with such a value.")
        await self._set(session, request.config_id, request.value)
        return SetSessionConfigOptionResponse(config_options=await session.options())

    async def _set(self, session: EditorSession, name: str, value: str) -> None:
        if not value.strip():
            raise RpcError(INVALID_PARAMS, f"The value of {name} is empty.")
        await session.set(f"/{name} {value}")

    # -- pieces --------------------------------------------------------------------------------------------------
    def _session(self, number: str) -> EditorSession:
        session = self._sessions.get(number)
        if session is None:
            sentence = f"There is no session {number[:40]} here: session/load or session/resume opens one."
            raise RpcError(NOT_FOUND, sentence)
        return session

    async def _found(self, number: str) -> SessionRow:
        """The session that an id stands for: the one its place is in by now, or the one of that id. Raises NotFound."""
        place = await self._services.ledger.conversation(place_of(number).route_key)
        if place is not None and place.session is not None:
            try:
                return await self._services.ledger.session(LOCAL, place.session)
            except NotFound:
                pass  # what it was in was deleted: the id itself is next
        return await self._services.ledger.session(LOCAL, SessionId(number))

    async def _settings(self, session: EditorSession) -> dict[str, Any]:
        """What every answer that opens a session says of it."""
        return {
            "modes": modes(await session.row(), session.default_mode),
            "config_options": await session.options(),
        }

    def _open(self, session: EditorSession) -> EditorSession:
        session.models = self._models
        self._sessions[session.id] = session
        return session

    async def _reopened(self, number: str, request: Opened) -> EditorSession:
        """Opens a session with what the editor has for it now. While a prompt of it runs here it stays as it is, and
        cannot be moved."""
        cwd = _directory(request.cwd)
        services = self._around(number, request)
        row = await self._found(number)
        known = self._sessions.get(number)
        if known is not None and known.is_busy:
            if known.talk.cwd != cwd:
                raise RpcError(
                    INVALID_PARAMS, f"A prompt is running in {known.talk.cwd}: cancel it to move the session."
                )
            return known
        await self._shut(number)
        session = self._open(EditorSession(number, services, await self._moved(row, cwd), cwd, self._editor))
        if row.cwd != str(cwd) and row.handle.head.seq:
            await session.talk.happened("moved", MOVED.format(cwd=cwd, before=row.cwd or "nowhere"))
        return session

    async def _shut(self, number: str) -> None:
        session = self._sessions.pop(number, None)
        if session is not None:
            await session.close()

    async def _moved(self, row: SessionRow, cwd: Path) -> SessionRow:
        """Keeps where a session works now."""
        if row.cwd == str(cwd):
            return row
        return await self._services.desk.change(LOCAL, row.id, SessionPatch(cwd=str(cwd)))

    def _around(self, number: str, request: Opened) -> Services:
        """The services of one session: the editor's tool servers and files, instructions of all its directories."""
        directories = [_directory(path) for path in request.additional_directories or ()]
        servers = tuple(_server(server) for server in request.mcp_servers or ())
        surroundings = Surroundings(
            servers=servers, files=self._editor.files(number), terminals=self._editor.terminals(number)
        )
        return msgspec.structs.replace(
            self._services,
            toolmaker=self._services.toolmaker.within(surroundings),
            instructions=partial(self._instructions, directories),
            in_memory=None,
        )

    def _instructions(self, directories: Sequence[Path], cwd: Path) -> Sequence[Instructions]:
        own = list(self._services.instructions(cwd))
        if not directories:
            return own
        named = "\n".join(str(path) for path in directories)
        own.append(
            Instructions(source="the editor", text=f"These directories belong to the project too:\n{named}")
        )
        for path in directories:
            own += [found for found in self._services.instructions(path) if found not in own]
        return own

    async def _introduce(self, session: EditorSession) -> None:
        """What an editor is told of a session it has just opened."""
        found = AvailableCommandsUpdateSent(available_commands=commands())
        self._editor.update(session.id, found)
        await self._ready()
        await self._find_models(session)

    async def _go_on(self, session: EditorSession) -> None:
        await self._introduce(session)
        await session.recover()

    async def _find_models(self, session: EditorSession) -> None:
        """The models that can be chosen, once their server has said so; nothing waits for that."""
        if not self._models:
            try:
                choice = await self._services.models.choose(None)
                names = await choice.client.models()
            except ModelUnavailable:
                return  # the first prompt says it, under its own request
            others = [name for name in names[:MODELS_SHOWN_MAX] if name != choice.profile.name]
            self._models = (choice.profile.name, *others)
        session.models = self._models
        await session.tell_options()


def _in_rpc(error: Exception) -> RpcError:
    """What an error of the runtime is to an editor."""
    match error:
        case NotFound():
            return RpcError(NOT_FOUND, str(error))
        case CommandError() | Refused():
            return RpcError(INVALID_PARAMS, str(error))
        case ModelUnavailable() if str(error) == NOTHING_FOUND:
            return RpcError(AUTH_REQUIRED, NOTHING_FOUND)
        case _:
            return RpcError(INTERNAL_ERROR, str(error))


def _absolute(typed: str) -> Path:
    if not os.path.isabs(typed) or "\0" in typed:
        raise RpcError(INVALID_PARAMS, f"{typed[:200]!r} is no absolute path.")
    return Path(os.path.normpath(typed))


def _directory(typed: str) -> Path:
    path = _absolute(typed)
    if not path.is_dir():
        raise RpcError(INVALID_PARAMS, f"{typed[:200]!r} is no directory.")
    return path


def _cursor(typed: str) -> tuple[int, str]:
    at, _, number = typed.partition(".")
    if not at.isascii() or not at.isdigit() or len(at) > 16 or not number:
        raise RpcError(INVALID_PARAMS, "This cursor is none of ours.")
    return int(at), number


def _server(server: McpServer) -> ToolServer:
    if not server.name:
        raise RpcError(INVALID_PARAMS, "An MCP server has no name.")
    if server.type in ("http", "sse"):
        if not server.url:
            raise RpcError(INVALID_PARAMS, f"MCP server {server.name} has no address.")
        headers = {header.name: header.value for header in server.headers or ()}
        return ToolServer(name=server.name, url=server.url, sse=server.type == "sse", headers=headers)
    if not server.command:
        raise RpcError(INVALID_PARAMS, f"MCP server {server.name} has no command.")
    environ = {variable.name: variable.value for variable in server.env or ()}
    return ToolServer(name=server.name, command=server.command, args=tuple(server.args or ()), env=environ)
