"""Terminals that an agent asks its client for: each is a call of our `shell`, with all that belongs to one.

The call has ended before the agent hears of its terminal. So it was asked about, recorded, bounded and run at most once like
any other, and there is never anything left to kill.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from clew.adapters.agents.files import inside
from clew.wire.acp_types import (
    CreateTerminalRequest,
    CreateTerminalResponse,
    TerminalExitStatus,
    TerminalOutputResponse,
)
from clew.wire.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError, decoded

TERMINALS_MAX: Final = 64
"""That one session may hold without releasing them."""
SECONDS_MAX: Final = 600
FAILED: Final = "[failed]"
_NOT_RUN: Final = ("[refused]", "[not run]", "[outcome unknown]", "[interrupted")
_CODE: Final = re.compile(r"^\[exit code (\d+)\]$", re.MULTILINE)
_SIGNAL: Final = re.compile(r"^\[ended by signal (?:\d+ \()?(\w+)\)?\]$", re.MULTILINE)


class _Named(msgspec.Struct):
    terminal_id: str = msgspec.field(name="terminalId")


class Terminals:
    """Those of one session. `shell` calls our tool with its arguments and returns what the turn made of it."""

    def __init__(self, cwd: Path, shell: Callable[[dict[str, object]], Awaitable[str]]) -> None:
        self._cwd = cwd
        self._shell = shell
        self._ended: dict[str, TerminalOutputResponse] = {}

    async def serve(self, method: str, params: msgspec.Raw) -> object:
        """Raises RpcError."""
        if method == "terminal/create":
            return await self._create(decoded(params, CreateTerminalRequest))
        name = decoded(params, _Named).terminal_id
        if name not in self._ended:
            raise RpcError(INVALID_PARAMS, f"There is no terminal {name}.")
        match method:
            case "terminal/output":
                return self._ended[name]
            case "terminal/wait_for_exit":
                return self._ended[name].exit_status
            case "terminal/kill":
                return {}
            case "terminal/release":
                del self._ended[name]
                return {}
            case _:
                raise RpcError(METHOD_NOT_FOUND, f"Clew does not serve {method}.")

    async def _create(self, asked: CreateTerminalRequest) -> CreateTerminalResponse:
        if len(self._ended) >= TERMINALS_MAX:
            raise RpcError(INVALID_PARAMS, f"{TERMINALS_MAX} terminals are held: release one first.")
        said = await self._shell({"command": self._script(asked), "timeout_seconds": SECONDS_MAX})
        if said.startswith(_NOT_RUN):
            raise RpcError(INTERNAL_ERROR, said)
        name = secrets.token_hex(8)
        self._ended[name] = _output(said, asked.output_byte_limit)
        return CreateTerminalResponse(terminal_id=name)

    def _script(self, asked: CreateTerminalRequest) -> str:
        """In a shell of its own, so that ours stays where it is. A command without arguments may be a whole line."""
        variables = [(variable.name, variable.value) for variable in asked.env or ()]
        if not all(name.isidentifier() for name, _ in variables):
            raise RpcError(INVALID_PARAMS, "A variable's name holds letters, digits and _ only.")
        directory = shlex.quote(str(inside(self._cwd, asked.cwd or ".")))
        exports = "".join(f" export {name}={shlex.quote(value)};" for name, value in variables)
        words = shlex.join([asked.command, *asked.args]) if asked.args else asked.command
        return f"(cd {directory} || exit;{exports}\n{words}\n)"


def _output(said: str, limit: int | None) -> TerminalOutputResponse:
    """What our shell's result says of a command, as a terminal would."""
    text = said.removeprefix(FAILED).removeprefix(" ")
    data = b"" if text == "[no output]" else text.encode()
    kept = data if limit is None else data[max(len(data) - limit, 0) :]
    return TerminalOutputResponse(
        output=kept.decode("utf-8", "ignore"),
        truncated=len(kept) < len(data),
        exit_status=_status(text) if said.startswith(FAILED) else TerminalExitStatus(exit_code=0),
    )


def _status(text: str) -> TerminalExitStatus:
    """Of a command that failed; 1 where no more is said of how."""
    if signals := _SIGNAL.findall(text):
        return TerminalExitStatus(signal=signals[-1])
    codes = _CODE.findall(text)
    return TerminalExitStatus(exit_code=int(codes[-1]) if codes else 1)
