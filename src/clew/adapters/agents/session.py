"""A conversation of ours with an agent, as a model: `ModelClient` for one session.

The request is the truth (see `priming`): an agent's session that was told something else, or whose process is no more,
is thrown away, and another is told all of it. That is also all there is to `/undo`, `/retry`, a compaction, a restart and
a model that was changed and changed back: none of them is known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from time import monotonic
from typing import Final, NamedTuple

import msgspec

from clew.adapters.agents.actions import GRANTED, OWN_NAMES, action_of
from clew.adapters.agents.bridge import SERVER_NAME, Binding, Dispatch, ToolReply
from clew.adapters.agents.client import Agent, AskedPermission, Update
from clew.adapters.agents.errors import AgentError, AgentGone, AgentRefused, AgentUnavailable
from clew.adapters.agents.files import inside, read_text
from clew.adapters.agents.priming import answered, new_parts, opening_parts, unheard
from clew.adapters.agents.programs import AgentKey
from clew.adapters.agents.prompt import Prompt
from clew.adapters.agents.terminals import Terminals
from clew.adapters.agents.timing import Breakdown, Told, Transport
from clew.adapters.processes.uninterrupted import to_the_end
from clew.domain.compaction.estimate import text_tokens
from clew.domain.conversation.messages import Thinking
from clew.domain.models.answer import (
    Answer,
    AskedCall,
    Failure,
    FailureKind,
    ModelEvent,
    Retrying,
    StopReason,
    TextDelta,
    Usage,
)
from clew.domain.models.request import ModelProfile, ModelRequest, RequestMessage, ToolDeclaration, UserTurn
from clew.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, RpcError

CANCEL_SECONDS_MAX: Final = 2.0
"""For an agent to end a prompt that was cancelled; it answers in milliseconds if it answers at all. One that does not is
used no more: others would wait for it, too."""
ACTION_CHARACTERS_MAX: Final = 4_000
_STOPS: Final = {
    "end_turn": StopReason.END,
    "max_tokens": StopReason.LENGTH,
    "max_turn_requests": StopReason.LENGTH,
    "refusal": StopReason.FILTERED,
}
WRITE: Final = "write"
"""Our tool by which an agent's files are written."""
SHELL: Final = "shell"
"""And by which its commands are run."""
NO_TURN: Final = "No turn is under way: nothing was run."


class Lent(NamedTuple):
    """An agent for as long as a session has it. Giving it back is idempotent, and ends an own process."""

    agent: Agent
    transport: Transport
    give_back: Callable[[], Awaitable[None]]


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What all sessions share."""

    lend: Callable[[AgentKey], Awaitable[Lent]]
    """Raises AgentError."""
    bind: Callable[[Dispatch], Awaitable[Binding]]
    told: Told
    """Is told where a prompt's time went."""
    characters_max: int
    """Of what an agent says in one prompt."""


class _Copy(msgspec.Struct):
    """What an agent holds of this conversation."""

    lent: Lent
    name: str
    binding: Binding
    system: str
    tools: tuple[ToolDeclaration, ...]
    terminals: Terminals
    told: tuple[RequestMessage, ...] = ()
    times: dict[str, float] = {}


class AgentSession:
    """One session's conversation with one agent. Calls come one after the other, as the steps of its turns do."""

    def __init__(self, means: Means, session: str, key: AgentKey, profile: ModelProfile) -> None:
        self._means = means
        self._session = session
        self._key = key
        self._profile = profile
        self._copy: _Copy | None = None
        self._prompt: Prompt | None = None
        self._prompting: asyncio.Task[str] | None = None
        self._waited = 0.0
        """Seconds that the agent waited for our tools in this prompt."""
        self._one_at_a_time = asyncio.Lock()

    @property
    def is_busy(self) -> bool:
        return self._prompting is not None or self._one_at_a_time.locked()

    # -- ModelClient ---------------------------------------------------------------------------------------------
    async def stream(
        self, request: ModelRequest, *, blobs: Mapping[str, bytes], key: str
    ) -> AsyncGenerator[ModelEvent, None]:
        """One step. An agent that dies in it, and did nothing by itself before, is replaced once by another."""
        async with self._one_at_a_time:
            may_retry = True
            while True:
                shown: list[str] = []
                has_ended = False
                try:
                    async for event in self._step(request, blobs):
                        if isinstance(event, TextDelta):
                            shown.append(event.text)
                        has_ended = isinstance(event, Answer)
                        yield event
                    return
                except AgentError as error:
                    granted = self._prompt is not None and self._prompt.granted
                    if not isinstance(error, AgentGone) or not may_retry or granted:
                        yield _failure(error, "".join(shown))
                        return
                    may_retry = False
                    retrying = Retrying(attempt=1, after_seconds=0.0, reason=f"{error} Another is started.")
                finally:
                    if not has_ended:
                        await to_the_end(self._drop())
                yield retrying

    async def profile(self, model: str) -> ModelProfile:
        return self._profile

    async def models(self) -> tuple[str, ...]:
        return (self._profile.name,)

    async def turn_ended(self) -> None:
        """Ends what the agent still does for the turn, and a process that is not kept."""
        if self._prompting is not None or (self._copy is not None and self._copy.lent.transport == "spawn"):
            await to_the_end(self._drop())

    async def close(self) -> None:
        """Lets go of the agent. Idempotent."""
        await to_the_end(self._drop())

    # -- a step --------------------------------------------------------------------------------------------------
    async def _step(
        self, request: ModelRequest, blobs: Mapping[str, bytes]
    ) -> AsyncGenerator[ModelEvent, None]:
        prompt = self._prompt
        if prompt is not None and prompt.go_on(request.messages):
            self._waited += monotonic() - prompt.asked_at
        else:
            prompt = await self._begun(request, blobs)
        said: list[str] = []
        thought: list[str] = []
        while True:
            ended = self._prompting is not None and self._prompting.done()
            for news in prompt.news():
                (said if isinstance(news, TextDelta) else thought).append(news.text)
                yield news
            if calls := prompt.take_calls():
                yield _answer(request, said, thought, StopReason.CALLS, calls=calls)
                return
            if ended:
                yield await self._ended(request, prompt, said, thought)
                return
            await prompt.changed.wait()
            prompt.changed.clear()

    async def _begun(self, request: ModelRequest, blobs: Mapping[str, bytes]) -> Prompt:
        copy = self._copy
        new = unheard(copy.told, request.messages) if copy is not None and copy.told else None
        is_current = copy is not None and (copy.system, copy.tools) == (request.system, request.tools)
        parts = new_parts(new) if new and all(isinstance(one, UserTurn) for one in new) else []
        is_lost = copy is not None and (copy.lent.agent.ended.is_set() or copy.lent.agent.stuck)
        if copy is None or is_lost or not is_current or not parts or self._prompting:
            await self._drop()
            copy = self._copy = await self._opened(request)
            parts = opening_parts(request)
        prompt = self._prompt = Prompt(request.messages, self._means.characters_max)
        self._waited = 0.0
        self._prompting = asyncio.create_task(copy.lent.agent.prompt(copy.name, parts, blobs))
        self._prompting.add_done_callback(lambda _: prompt.changed.set())
        return prompt

    async def _opened(self, request: ModelRequest) -> _Copy:
        """Another session of an agent, that knows nothing yet."""
        began = monotonic()
        async with AsyncExitStack() as undone:
            lent = await self._means.lend(self._key)
            undone.push_async_callback(lent.give_back)
            ready = monotonic()
            binding = await self._means.bind(self._dispatch)
            undone.callback(binding.release)
            binding.publish([tool for tool in request.tools if tool.name not in OWN_NAMES])
            bound = monotonic()
            name = await lent.agent.open_session(self._key.cwd, [binding.server], self)
            undone.pop_all()
        times = {"spawn": ready - began, "bridge": bound - ready, "session_new": monotonic() - bound}
        terminals = Terminals(self._key.cwd, lambda arguments: self._call(SHELL, arguments))
        return _Copy(lent, name, binding, request.system, request.tools, terminals, times=times)

    async def _ended(
        self, request: ModelRequest, prompt: Prompt, said: list[str], thought: list[str]
    ) -> Answer:
        assert self._prompting is not None and self._copy is not None, "a prompt is under way"  # noqa: PT018
        reason = await self._prompting
        if reason not in _STOPS:
            raise AgentGone(f"The agent {self._key.agent} ended its answer by itself ({reason}).")
        answer = _answer(request, said, thought, _STOPS[reason])
        prompt.close()
        self._prompt = self._prompting = None
        self._copy.told = (*prompt.told, answered(answer.text))
        self._tell(self._copy, prompt)
        return answer

    def _tell(self, copy: _Copy, prompt: Prompt) -> None:
        first = prompt.first_call_after
        spent = {name: seconds * 1000 for name, seconds in copy.times.items()}
        copy.times = {}
        self._means.told(
            Breakdown(
                session=self._session,
                agent=self._key.agent,
                transport=copy.lent.transport,
                first_tool=None if first is None else first * 1000,
                generation=(monotonic() - prompt.began - self._waited) * 1000,
                **spent,
            )
        )

    async def _drop(self) -> None:
        """Ends the prompt under way, takes the tools back, forgets the agent's session. Bounded. Idempotent."""
        copy, self._copy = self._copy, None
        prompt, self._prompt = self._prompt, None
        prompting, self._prompting = self._prompting, None
        if prompt is not None:
            prompt.close()
        if copy is None:
            return
        if prompting is not None and not prompting.done():
            copy.lent.agent.cancel(copy.name)
            await asyncio.wait([prompting], timeout=CANCEL_SECONDS_MAX)
            copy.lent.agent.stuck |= not prompting.done()
        copy.binding.release()
        if prompting is not None:
            prompting.cancel()
            with suppress(asyncio.CancelledError, AgentError):
                await prompting
        await copy.lent.agent.close_session(copy.name)
        await copy.lent.give_back()

    # -- SessionWatch: what the agent says and asks ----------------------------------------------------------------
    def updated(self, update: Update) -> None:
        if self._prompt is not None:
            self._prompt.updated(update)

    async def permission(self, asked: AskedPermission) -> bool:
        """As the turn's rules have it. A call of one of our tools is asked about when it comes, and not twice."""
        prompt = self._under_way()
        if self._is_of_ours(asked):
            return True
        action = action_of(asked.kind)
        if action is not None:
            given = bytes(asked.raw_input).decode()
            described = {
                "action": asked.title or asked.kind or "something",
                "input": given[:ACTION_CHARACTERS_MAX],
            }
            result = await prompt.call(action, msgspec.json.encode(described).decode())
            if result.partition("\n\n")[0] != GRANTED:
                return False
        prompt.granted = True
        return True

    def _is_of_ours(self, asked: AskedPermission) -> bool:
        tools = self._copy.tools if self._copy is not None else ()
        return any(asked.is_of(SERVER_NAME, tool.name) for tool in tools)

    async def read_file(self, path: str, line: int | None, limit: int | None) -> str:
        return await asyncio.to_thread(read_text, self._key.cwd, path, line, limit)

    async def write_file(self, path: str, text: str) -> None:
        """As a call of our own tool for it, with all that belongs to one."""
        result = await self._call(WRITE, {"path": str(inside(self._key.cwd, path)), "text": text})
        if result.startswith("["):
            raise RpcError(INTERNAL_ERROR, result)

    async def terminal(self, method: str, params: msgspec.Raw) -> object:
        if self._copy is None:
            raise RpcError(INTERNAL_ERROR, NO_TURN)
        return await self._copy.terminals.serve(method, params)

    async def _call(self, name: str, arguments: Mapping[str, object]) -> str:
        """A call of a tool of ours that the agent did not make as one."""
        if self._copy is None or all(tool.name != name for tool in self._copy.tools):
            raise RpcError(INVALID_PARAMS, f"There is no tool {name} here.")
        return await self._under_way().call(name, msgspec.json.encode(arguments).decode())

    async def _dispatch(self, name: str, arguments: str) -> ToolReply:
        return ToolReply(await self._under_way().call(name, arguments))

    def _under_way(self) -> Prompt:
        if self._prompt is None:
            raise RpcError(INTERNAL_ERROR, NO_TURN)
        return self._prompt


def _answer(
    request: ModelRequest,
    said: list[str],
    thought: list[str],
    stop: StopReason,
    calls: tuple[AskedCall, ...] = (),
) -> Answer:
    thinking = (Thinking(text="".join(thought), model=request.model),) if thought else ()
    text = "".join(said)
    usage = Usage(output=text_tokens(text), estimated=True)  # agents do not say what they used
    return Answer(text=text, calls=calls, thinking=thinking, stop=stop, usage=usage, model=request.model)


def _failure(error: AgentError, partial: str) -> Failure:
    match error:
        case AgentUnavailable():
            return Failure(kind=FailureKind.NETWORK, message=str(error), partial=partial, was_sent=False)
        case AgentRefused():
            return Failure(kind=FailureKind.SERVER, message=str(error), partial=partial)
        case _:
            return Failure(kind=FailureKind.CUT, message=str(error), partial=partial)
