"""What every agent behind the Agent Client Protocol comes to as a model of ours, the pretended one and real ones.

Subclass `AgentContract` and give it an `agents` fixture: `Agents` that know an agent called `subject`, whose model does
what the newest line of a person orders. `CALL name {arguments}` calls a tool and tells its result, `HANG` says `working`
and then nothing, `HEARD` tells all texts that were sent to the model, `SEES` how many images there are among them, and anything else is answered `echo: TEXT`.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final, Protocol

import pytest

from clew.adapters.agents.agents import Agents
from clew.domain.conversation.ids import SessionId
from clew.domain.models.answer import Answer, AskedCall, Failure, Retrying, TextDelta
from clew.domain.models.request import (
    AssistantTurn,
    CallPart,
    ImagePart,
    ModelRequest,
    RequestMessage,
    TextPart,
    ToolDeclaration,
    ToolTurn,
    UserTurn,
)
from clew.runtime.ports.models import ModelChoice

SYSTEM: Final = "You are the subject."
NOTE: Final = ToolDeclaration(
    name="note",
    description="Takes a note.",
    parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
)

PIXEL: Final = ImagePart("pixel", "image/png")
BLOBS: Final = {
    "pixel": b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
}


class Choosing(Protocol):
    def choice(self, name: str) -> ModelChoice: ...


class Conversation:
    """Plays the turns of one session: every call is answered by `run`, as the runner would."""

    def __init__(
        self, agents: Choosing, session: str, cwd: Path, run: Callable[[AskedCall], str] | None = None
    ) -> None:
        self.model: ModelChoice = agents.choice("acp:subject")
        assert self.model.within is not None
        self.model = self.model.within(SessionId(session), cwd)
        self.messages: list[RequestMessage] = []
        self.calls: list[AskedCall] = []
        self.shown = ""
        self.replaced = asyncio.Event()
        """Set when an agent died and another goes on."""
        self._spoke = asyncio.Event()
        self.tools: tuple[ToolDeclaration, ...] = (NOTE,)
        self._run = run or (lambda call: f"{session} noted {call.arguments}")
        self._turns = 0

    async def say(self, text: str, *images: ImagePart) -> str:
        """The answer to it. A failure is raised as an AssertionError with its sentence."""
        self._turns += 1
        self.messages.append(
            UserTurn(parts=(TextPart(text), *images, TextPart(f'<sent at="{self._turns}"/>')))
        )
        return await self.go_on()

    async def shows(self, words: str) -> None:
        """Returns when the step under way has said them."""
        while words not in self.shown:
            self._spoke.clear()
            await self._spoke.wait()

    async def go_on(self) -> str:
        said = ""
        try:
            while True:
                answer = await self._step()
                said += answer.text
                self.messages.append(
                    AssistantTurn(text=answer.text, calls=tuple(_part(call) for call in answer.calls))
                )
                if not answer.calls:
                    return said
                for call in answer.calls:
                    self.calls.append(call)
                    self.messages.append(
                        ToolTurn(call=call.provider_id, name=call.name, text=self._run(call))
                    )
        finally:
            await self.model.turn_ended()

    async def _step(self) -> Answer:
        request = ModelRequest(
            model="acp:subject", system=SYSTEM, tools=self.tools, messages=tuple(self.messages)
        )
        self.shown = ""
        async with aclosing(self.model.client.stream(request, blobs=BLOBS, key="k")) as events:  # type: ignore[type-var]
            async for event in events:
                match event:
                    case TextDelta(text):
                        self.shown += text
                        self._spoke.set()
                    case Retrying():
                        self.shown = ""
                        self.replaced.set()
                    case Failure():
                        raise AssertionError(event.message)
                    case Answer():
                        return event
                    case _:
                        pass
        raise AssertionError("a stream ends with an answer or a failure")


def _part(call: AskedCall) -> CallPart:
    return CallPart(id=call.provider_id, name=call.name, arguments=call.arguments)


class AgentContract:
    """Subclass it with an `agents` fixture."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    async def test_an_answer_is_streamed(self, agents: Agents, tmp_path: Path) -> None:
        """What the agent says comes as it is said, and whole at the end; so does the next answer."""
        one = Conversation(agents, "one", tmp_path)
        assert (await one.say("hello")).strip() == "echo: hello"
        assert one.shown.strip() == "echo: hello"
        assert (await one.say("again")).strip() == "echo: again"

    async def test_a_call_of_a_tool_is_a_step_of_the_turn(self, agents: Agents, tmp_path: Path) -> None:
        """A tool that the agent's model calls is asked of the turn, and its result goes back to where it was called."""
        one = Conversation(agents, "one", tmp_path)
        said = await one.say('CALL note {"text":"alpha"}')
        assert [(call.name, call.arguments) for call in one.calls] == [("note", '{"text":"alpha"}')]
        assert "one noted" in said
        assert "alpha" in said

    async def test_the_agent_is_told_only_what_is_new(self, agents: Agents, tmp_path: Path) -> None:
        """A conversation that goes on is not told again; one whose past is another is told anew, and nothing of the old."""
        one = Conversation(agents, "one", tmp_path)
        await one.say("first words")
        heard = await one.say("HEARD")
        assert heard.count(SYSTEM) == 1
        assert heard.count("\nfirst words") == 1
        del one.messages[1:]  # /undo of the second turn, and of the answer to the first
        one.messages[0] = UserTurn(parts=(TextPart("other words"),))
        one.messages.append(AssistantTurn(text="my reply"))
        heard = await one.say("HEARD")
        assert "first words" not in heard
        assert heard.index("other words") < heard.index("my reply") < heard.index("HEARD")

    async def test_images_are_shown(self, agents: Agents, tmp_path: Path) -> None:
        """An image that a person sends is shown to the agent, and again to one that is told all of it anew."""
        one = Conversation(agents, "one", tmp_path)
        assert "images: 1" in await one.say("SEES", PIXEL)
        two = Conversation(agents, "two", tmp_path)
        two.messages = list(one.messages)
        assert "images: 1" in await two.say("SEES")

    async def test_a_stop_ends_the_prompt(self, agents: Agents, tmp_path: Path) -> None:
        """A turn that is stopped ends at the agent too; the next is told the conversation, and other ones go on."""
        one, two = Conversation(agents, "one", tmp_path), Conversation(agents, "two", tmp_path)
        await two.say("hello")
        saying = asyncio.ensure_future(one.say("HANG"))
        await one.shows("working")
        saying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saying
        one.messages.append(AssistantTurn(text="working\n[interrupted before the end]"))
        assert (await two.say("still there?")).strip() == "echo: still there?"
        heard = await one.say("HEARD")
        assert heard.count("[interrupted before the end]") == 1

    async def test_conversations_do_not_cross(self, agents: Agents, tmp_path: Path) -> None:
        """Eight at once: no list of tools, call, result or answer of one is seen by another."""
        sessions = [Conversation(agents, f"s{n}", tmp_path) for n in range(8)]
        for n, one in enumerate(sessions):
            one.tools = (
                NOTE,
                ToolDeclaration(name=f"own{n}", description="Own.", parameters={"type": "object"}),
            )
        answers = await asyncio.gather(
            *(one.say(f'CALL own{n} {{"text":"marker{n}"}}') for n, one in enumerate(sessions))
        )
        for n, (one, answer) in enumerate(zip(sessions, answers, strict=True)):
            assert f"s{n} noted" in answer
            assert [(call.name, call.arguments) for call in one.calls] == [
                (f"own{n}", f'{{"text":"marker{n}"}}')
            ]
            others = [f"marker{other}" for other in range(8) if other != n]
            assert not any(marker in answer for marker in others)

    async def test_another_list_of_tools_is_offered(self, agents: Agents, tmp_path: Path) -> None:
        """When the tools of a session change, the agent has the new ones in the next turn, and the conversation still."""
        one = Conversation(agents, "one", tmp_path)
        await one.say("first words")
        one.tools = (ToolDeclaration(name="later", description="Later.", parameters={"type": "object"}),)
        assert "one noted" in await one.say("CALL later {}")
        assert "first words" in await one.say("HEARD")

    async def test_tools_that_are_taken_back(self, agents: Agents, tmp_path: Path) -> None:
        """A session whose tools are taken back while it calls one is given an error, and no other is touched."""

        def take_back(_: AskedCall) -> str:
            for binding in bound:
                binding.release()
            return "a result that comes too late"

        one = Conversation(agents, "one", tmp_path, run=take_back)
        two = Conversation(agents, "two", tmp_path)
        await one.say("hello")
        bound = agents.bridge.bindings
        await two.say("hello")
        if not bound:  # a process that is not kept has let go of them, and is given others in the next turn
            pytest.skip("a session without a process has no tools to take back")
        said = await one.say('CALL note {"text":"a"}')
        assert "taken back" in said
        assert "too late" not in said
        assert "two noted" in await two.say('CALL note {"text":"b"}')
