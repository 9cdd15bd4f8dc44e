"""The client's end of the protocol: one agent process, and the sessions it holds for us.

What is sent is said in the types of the schema. Of what comes, only what is used is read, and leniently: agents differ in
version, and a field that is new, gone or misshapen is no reason to lose an answer. A line that is no frame is ignored.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from clew import __version__
from clew.adapters.agents.errors import AgentGone, AgentRefused, AgentUnavailable
from clew.adapters.agents.process import AgentProcess
from clew.adapters.agents.programs import AgentProgram
from clew.adapters.processes.groups import StartedGroups
from clew.domain.models.request import ImagePart, Part, TextPart
from clew.wire.acp_types import (
    AuthenticateRequest,
    CancelNotification,
    ClientCapabilities,
    CloseSessionRequest,
    FileSystemCapabilities,
    ImageBlock,
    Implementation,
    InitializeRequest,
    McpServer,
    NewSessionRequest,
    PermissionOption,
    PromptRequest,
    ReadTextFileRequest,
    ReadTextFileResponse,
    TextBlock,
    WriteTextFileRequest,
    WriteTextFileResponse,
)
from clew.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError, decoded
from clew.wire.peer import Disconnected, Peer

T = TypeVar("T")
PROTOCOL_VERSION: Final = 1
AUTH_REQUIRED: Final = -32000
CANCELLED_OUTCOME: Final = {"outcome": {"outcome": "cancelled"}}


class AgentLimits(msgspec.Struct, frozen=True, kw_only=True):
    initialize_seconds: float = 30.0
    session_seconds: float = 60.0
    """For an agent to open a session; it may start the session's tool server meanwhile."""
    close_seconds: float = 2.0
    """For an agent to let go of a session."""


class Update(msgspec.Struct, frozen=True):
    """News of a prompt, as far as it is used here."""

    session_update: str = msgspec.field(name="sessionUpdate")
    content: msgspec.Raw = msgspec.Raw(b"null")
    title: str | None = None
    status: str | None = None

    def text(self) -> str:
        """The text of a chunk; empty when it holds none."""
        try:
            return msgspec.json.decode(self.content, type=_Chunk).text
        except msgspec.DecodeError:
            return ""


class _Question(msgspec.Struct):
    message: str = ""


class _CodexInput(msgspec.Struct):
    id: str = ""
    request: _Question = msgspec.field(default_factory=_Question)


class AskedPermission(msgspec.Struct, frozen=True):
    """What the agent wants to do by itself, as it describes it."""

    tool_call_id: str = msgspec.field(name="toolCallId")
    title: str | None = None
    kind: str | None = None
    name: str | None = None
    raw_input: msgspec.Raw = msgspec.field(name="rawInput", default=msgspec.Raw(b"null"))

    def is_of(self, server: str, tool: str) -> bool:
        """Whether it is a call of that MCP server's tool, by the name or the id that agents give those.

        gemini-cli puts the name into the id; a title may hold what the model chose, so it has to say nothing else.
        """
        names = (f"mcp_{server}_{tool}", f"mcp__{server}__{tool}")
        ids = tuple(start for name in names for start in (f"{name}-", f"{name}__{name}_", f"synth_{name}_"))
        named = self.name in names or self.title in names or self.tool_call_id.startswith(ids)
        return named or self._is_asked_by_codex(server, tool)

    def _is_asked_by_codex(self, server: str, tool: str) -> bool:
        """codex-acp says it in its question alone; the id in it is one that no model can foretell."""
        try:
            given = msgspec.json.decode(self.raw_input, type=_CodexInput)
        except msgspec.DecodeError:
            return False
        asked = f'Allow the {server} MCP server to run tool "{tool}"?'
        return given.id == f"mcp_tool_call_approval_{self.tool_call_id}" and given.request.message == asked


class SessionWatch(Protocol):
    """Whoever a session is held for. `cwd` is the only place where files are served from."""

    def updated(self, update: Update) -> None:
        """Takes it at once; raises nothing."""
        ...

    async def permission(self, asked: AskedPermission) -> bool:
        """Whether the agent may do it. Raises RpcError."""
        ...

    async def read_file(self, path: str, line: int | None, limit: int | None) -> str:
        """Raises RpcError."""
        ...

    async def write_file(self, path: str, text: str) -> None:
        """Raises RpcError."""
        ...

    async def terminal(self, method: str, params: msgspec.Raw) -> object:
        """Answers one of the protocol's `terminal/` requests. Raises RpcError."""
        ...


class _Chunk(msgspec.Struct):
    text: str = ""


class _Takes(msgspec.Struct):
    image: bool = False


class _Capabilities(msgspec.Struct):
    prompt: _Takes = msgspec.field(name="promptCapabilities", default_factory=_Takes)
    session: Mapping[str, object] | None = msgspec.field(name="sessionCapabilities", default=None)


class _Initialized(msgspec.Struct):
    protocol_version: int = msgspec.field(name="protocolVersion")
    capabilities: _Capabilities = msgspec.field(name="agentCapabilities", default_factory=_Capabilities)


class _Opened(msgspec.Struct):
    session_id: str = msgspec.field(name="sessionId")


class _OfSession(msgspec.Struct):
    session_id: str = msgspec.field(name="sessionId")


class _Prompted(msgspec.Struct):
    stop_reason: str = msgspec.field(name="stopReason")


class _Updated(msgspec.Struct):
    session_id: str = msgspec.field(name="sessionId")
    update: Update


class _Permission(msgspec.Struct):
    session_id: str = msgspec.field(name="sessionId")
    tool_call: AskedPermission = msgspec.field(name="toolCall")
    options: list[PermissionOption]


class _Nothing(msgspec.Struct):
    """A result that is not looked at."""


class Agent:
    """A process that answered `initialize`. Made by `start`; ends by itself or by `close`, and by nothing else."""

    def __init__(self, program: AgentProgram, limits: AgentLimits) -> None:
        self._program = program
        self._limits = limits
        self._sessions: dict[str, SessionWatch] = {}
        self._peer = Peer(
            self._write, serve=self._serve, heard=self._heard, broke=self._broke, answers_noise=False
        )
        self._process: AgentProcess | None = None
        self._takes_images = False
        self._closes = False
        self.ended = asyncio.Event()
        """Set when the agent is no more; what was asked of it has failed by then."""
        self.stuck = False
        """Set when it left something unanswered that it had time for: nobody is to wait for it again."""
        self.opened = 0
        """How many sessions it was ever asked for: it may keep something of each as long as it lives."""

    @classmethod
    async def start(
        cls,
        program: AgentProgram,
        model: str,
        cwd: Path,
        *,
        environ: Mapping[str, str],
        groups: StartedGroups,
        limits: AgentLimits = AgentLimits(),  # noqa: B008 - frozen
    ) -> Agent:
        """Starts it and waits until it is ready. Raises AgentUnavailable; then, or when cancelled, nothing of it is left."""
        agent = cls(program, limits)
        try:
            agent._process = await AgentProcess.start(
                program.command,
                program.arguments(model),
                {**environ, **program.environment(model)},
                cwd,
                groups,
                received=agent._received,
                ended=agent.ended.set,
            )
            async with asyncio.timeout(limits.initialize_seconds):
                await agent._initialize()
        except TimeoutError as error:
            silent = f"it did not answer within {limits.initialize_seconds:g} s"
            raise await agent._unavailable(silent, is_silent=True) from error
        except AgentGone as error:
            raise await agent._unavailable("it ended") from error
        except AgentRefused as error:
            raise await agent._unavailable(f"it says: {error}", for_good=True) from error
        except AgentUnavailable as error:
            raise await agent._unavailable(str(error), for_good=error.for_good) from error
        except BaseException:
            await agent.close()
            raise
        return agent

    async def _unavailable(
        self, problem: str, *, for_good: bool = False, is_silent: bool = False
    ) -> AgentUnavailable:
        """The whole sentence, once nothing of the agent is left. Nobody waits as long again for one that was silent."""
        await self.close()
        said = self._process.last_words() if self._process is not None else ""
        words = f" (its last words: {said})" if said else ""
        hint = f" To get it: {self._program.install}." if self._program.install and for_good else ""
        sentence = f"The agent {self._program.name} did not start: {problem}{words}.{hint}"
        return AgentUnavailable(sentence, for_good=for_good or is_silent)

    async def _initialize(self) -> None:
        files = FileSystemCapabilities(read_text_file=True, write_text_file=True)
        asked = InitializeRequest(
            protocol_version=PROTOCOL_VERSION,
            client_capabilities=ClientCapabilities(fs=files, terminal=True),
            client_info=Implementation(name="clew", version=__version__),
        )
        answer = await self._ask("initialize", asked, _Initialized)
        if answer.protocol_version != PROTOCOL_VERSION:
            raise AgentUnavailable(
                f"it speaks version {answer.protocol_version} of the protocol, and Clew speaks {PROTOCOL_VERSION}",
                for_good=True,
            )
        self._takes_images = answer.capabilities.prompt.image
        self._closes = "close" in (answer.capabilities.session or {})
        if self._program.auth:
            await self._ask("authenticate", AuthenticateRequest(method_id=self._program.auth), _Nothing)

    # -- sessions ------------------------------------------------------------------------------------------------
    @property
    def resident_mb(self) -> int:
        return 0 if self._process is None else self._process.resident_mb

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was started"
        return self._process.pid

    async def open_session(self, cwd: Path, servers: Sequence[McpServer], watch: SessionWatch) -> str:
        """A session of its own in that directory. Raises AgentError."""
        self.opened += 1
        asked = NewSessionRequest(cwd=str(cwd), mcp_servers=list(servers))
        try:
            async with asyncio.timeout(self._limits.session_seconds):
                session = (await self._ask("session/new", asked, _Opened)).session_id
        except TimeoutError as error:
            self.stuck = True
            seconds = self._limits.session_seconds
            raise AgentGone(
                f"The agent {self._program.name} opened no session within {seconds:g} s."
            ) from error
        except AgentRefused as error:
            if error.code != AUTH_REQUIRED:
                raise
            sentence = f"The agent {self._program.name} is not signed in: start {self._program.command} once by itself, or set its key."
            raise AgentUnavailable(sentence, for_good=True) from error
        if session in self._sessions:
            raise AgentRefused(
                f"The agent {self._program.name} gave a session the name of another.", INTERNAL_ERROR
            )
        self._sessions[session] = watch
        return session

    async def prompt(self, session: str, parts: Sequence[Part], blobs: Mapping[str, bytes]) -> str:
        """Returns the agent's stop reason, after every update of the prompt was given to the watch. Raises AgentError."""
        asked = PromptRequest(session_id=session, prompt=[self._block(part, blobs) for part in parts])
        return (await self._ask("session/prompt", asked, _Prompted)).stop_reason

    def _block(self, part: Part, blobs: Mapping[str, bytes]) -> TextBlock | ImageBlock:
        match part:
            case TextPart(text):
                return TextBlock(text=text)
            case ImagePart(sha256, media_type) if self._takes_images:
                return ImageBlock(data=b64encode(blobs[sha256]).decode("ascii"), mime_type=media_type)
            case _:
                return TextBlock(text="[image: this agent takes none]")

    def cancel(self, session: str) -> None:
        """Asks the agent to end the prompt under way there."""
        self._peer.notify("session/cancel", CancelNotification(session_id=session))

    async def close_session(self, session: str) -> None:
        """Hears nothing more of it, and lets the agent forget it where it can. Idempotent, bounded, raises nothing of the agent."""
        known = self._sessions.pop(session, None) is not None
        if not known or not self._closes or self.stuck or self.ended.is_set():
            return
        try:
            async with asyncio.timeout(self._limits.close_seconds):
                await self._ask("session/close", CloseSessionRequest(session_id=session), _Nothing)
        except (TimeoutError, AgentGone, AgentRefused):
            pass  # it keeps what it cannot let go of until its process is recycled

    async def _ask(self, method: str, params: object, kind: type[T]) -> T:
        asked = asyncio.ensure_future(self._peer.call(method, params, kind))
        ending = asyncio.ensure_future(self.ended.wait())
        try:
            await asyncio.wait([asked, ending], return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise AgentGone(self._gone())
            return await asked
        except Disconnected as error:
            raise AgentGone(self._gone()) from error
        except RpcError as error:
            sentence = f"The agent {self._program.name} says: {error.message}"
            raise AgentRefused(sentence, error.code) from error
        finally:
            for task in (asked, ending):
                task.cancel()
            await asyncio.gather(asked, ending, return_exceptions=True)

    def _gone(self) -> str:
        said = self._process.last_words() if self._process is not None else ""
        return f"The agent {self._program.name} ended in the middle" + (f": {said}" if said else ".")

    # -- what it asks --------------------------------------------------------------------------------------------
    def _write(self, line: bytes) -> None:
        if self._process is not None and not self.ended.is_set():
            self._process.write(line)

    def _received(self, data: bytes) -> None:
        if not self.ended.is_set():
            self._peer.receive(data)

    def _heard(self, method: str, params: msgspec.Raw) -> None:
        if method != "session/update":
            return
        told = decoded(params, _Updated)
        if (watch := self._sessions.get(told.session_id)) is not None:
            watch.updated(told.update)

    async def _serve(self, method: str, params: msgspec.Raw) -> object:
        match method:
            case "session/request_permission":
                return await self._permission(decoded(params, _Permission))
            case "fs/read_text_file":
                wanted = decoded(params, ReadTextFileRequest)
                text = await self._watch(wanted.session_id).read_file(wanted.path, wanted.line, wanted.limit)
                return ReadTextFileResponse(content=text)
            case "fs/write_text_file":
                written = decoded(params, WriteTextFileRequest)
                await self._watch(written.session_id).write_file(written.path, written.content)
                return WriteTextFileResponse()
            case _ if method.startswith("terminal/"):
                session = decoded(params, _OfSession).session_id
                return await self._watch(session).terminal(method, params)
            case _:
                raise RpcError(METHOD_NOT_FOUND, f"Clew does not serve {method}.")

    async def _permission(self, asked: _Permission) -> object:
        """Once or not at all: what is always allowed is decided here, not by an agent that remembers a yes."""
        watch = self._sessions.get(asked.session_id)
        if watch is None:
            return CANCELLED_OUTCOME
        kind = "allow_once" if await watch.permission(asked.tool_call) else "reject_once"
        option = next((option for option in asked.options if option.kind == kind), None)
        if option is None:
            return CANCELLED_OUTCOME
        return {"outcome": {"outcome": "selected", "optionId": option.option_id}}

    def _watch(self, session: str) -> SessionWatch:
        if session not in self._sessions:
            raise RpcError(INVALID_PARAMS, "There is no such session.")
        return self._sessions[session]

    def _broke(self, error: BaseException) -> None:
        """An error of ours while the agent was served: it is an answer to the agent, and said nowhere else."""

    async def close(self) -> None:
        """Ends the agent with all that it started. Idempotent."""
        self.ended.set()
        await self._peer.close()
        if self._process is not None:
            await self._process.close()
