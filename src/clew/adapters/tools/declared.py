"""A tool put together from what it declares and one function that does it.

This is where everything expected becomes a result: arguments that do not fit, a sentence a tool refuses with,
and the operating system's own no.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic

from clew.adapters.tools.arguments import ArgumentsT, Misfit, fit, parameters_of
from clew.domain.conversation.messages import Status
from clew.domain.conversation.text import one_line
from clew.domain.tools.spec import Effect, JsonObject, ToolResult, ToolSpec
from clew.runtime.ports.tools import ToolContext


class ToolFailed(Exception):
    """The tool could not do it; the message is one sentence for the model and the person."""


def failed(sentence: str) -> ToolResult:
    """The result that says so."""
    return ToolResult(text=sentence, status=Status.ERROR)


class DeclaredTool(Generic[ArgumentsT]):
    """Satisfies the `Tool` port. `perform` may raise ToolFailed or OSError; both become an ERROR result."""

    def __init__(
        self,
        *,
        name: str,
        description: str,
        arguments: type[ArgumentsT],
        effect: Effect,
        safe_to_repeat: bool,
        perform: Callable[[ArgumentsT, ToolContext], Awaitable[ToolResult]],
        describe: Callable[[ArgumentsT], str],
    ) -> None:
        self._arguments = arguments
        self._perform = perform
        self._describe = describe
        self.spec = ToolSpec(
            name=name,
            description=description,
            parameters=parameters_of(arguments),
            effect=effect,
            safe_to_repeat=safe_to_repeat,
        )

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolResult:
        """Does it. Promises a result for any arguments; raises only what is a bug, and CancelledError."""
        try:
            return await self._perform(fit(self._arguments, arguments), context)
        except (Misfit, ToolFailed) as problem:
            return failed(str(problem))
        except OSError as error:
            return failed(said_by_system(error))

    def describe(self, arguments: JsonObject) -> str:
        """One short line; arguments that will be refused are described as that."""
        try:
            return one_line(self._describe(fit(self._arguments, arguments)))
        except (Misfit, ToolFailed) as problem:
            return one_line(f"{self.spec.name}: {problem}")


def said_by_system(error: OSError) -> str:
    """An operating system error as a sentence that names the file, if there is one."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}." if error.filename is not None else f"{reason}."
