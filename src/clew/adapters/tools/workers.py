"""Programs of ours that run in a process of their own, because what they are given may make them run for ever.

A regular expression or a hostile page can occupy Python's interpreter for hours; a process can be ended. A worker
is a module with a main: it reads one request from standard input and writes its answer to standard output.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from contextlib import suppress
from typing import Final

import msgspec

import clew
from clew.adapters.processes.uninterrupted import to_the_end
from clew.adapters.tools.declared import ToolFailed

ANSWER_BYTES_MAX: Final = 16_000_000
ALARM_SECONDS: Final = 5
_READ_BYTES: Final = 1 << 16
# The alarm ends a worker whose Clew was killed: no exception handler runs then, and an expression that is being
# matched listens to nothing but a signal's default action.
_PROGRAM: Final = (
    "import clew, runpy, signal, sys; signal.alarm({seconds});"
    " clew.__version__ == {version!r} or sys.exit('Clew was updated while this ran: start it again.');"
    " runpy.run_module({module!r}, run_name='__main__')"
)


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker wrote. Not `complete`: it was ended at its time limit, or said too much."""

    output: bytes
    complete: bool


async def ask_worker(module: str, request: bytes, *, seconds: float) -> Answered:
    """Runs a worker for at most that long; it is gone when this returns or is cancelled.

    Raises ToolFailed with the worker's own last words when it breaks down, or would be of another version than this.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # the directory Clew was started in is somebody's project, not a place to import from
        "-c",
        _PROGRAM.format(module=module, version=clew.__version__, seconds=math.ceil(seconds) + ALARM_SECONDS),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    output, errors = bytearray(), bytearray()
    try:
        complete = await _exchange(process, request, output, errors, seconds)
    finally:
        await to_the_end(_reap(process))
    if complete and process.returncode:
        raise ToolFailed(f"This broke down: {_last_line(errors)}")
    return Answered(output=bytes(output), complete=complete)


async def _exchange(
    process: asyncio.subprocess.Process, request: bytes, output: bytearray, errors: bytearray, seconds: float
) -> bool:
    """Whether the worker came to its end within the limits."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(seconds):
            _, within, _ = await asyncio.gather(
                _feed(process.stdin, request),
                _collect(process.stdout, output),
                _collect(process.stderr, errors),
            )
            if within:
                await process.wait()
            return within
    except TimeoutError:
        return False


async def _feed(sink: asyncio.StreamWriter, request: bytes) -> None:
    try:
        sink.write(request)
        await sink.drain()
        sink.close()  # not waited for: asyncio of 3.11 breaks where that is cancelled just as the pipe closes
    except ConnectionError:
        pass  # it ended before it had read everything: its exit code and last words say why


async def _collect(source: asyncio.StreamReader, into: bytearray) -> bool:
    while chunk := await source.read(_READ_BYTES):
        into += chunk
        if len(into) > ANSWER_BYTES_MAX:
            return False
    return True


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Ends it and reads its pipes empty: asyncio waits for their end, which a full buffer would hide."""
    if process.returncode is None:
        # Not `process.kill`: that looks whether the process has ended, and so takes its exit code from asyncio.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for source in (process.stdout, process.stderr):
        while source is not None and await source.read(_READ_BYTES):
            pass
    await process.wait()


def _last_line(errors: bytearray) -> str:
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing."
