"""Commands of the `shell` tool in terminals of an editor: it runs and shows them, and everything else stays as it is.

They carry our marks in their environment. So what they started is ended with them, and found again after a crash, where
the editor runs on this machine.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from clew.adapters.processes.tree import end_tree
from clew.adapters.processes.uninterrupted import to_the_end
from clew.adapters.tools.commands import QUIET, Origin, how_it_ended
from clew.domain.conversation.messages import Status
from clew.domain.tools.spec import ToolResult
from clew.runtime.ports.tools import TerminalEnd, Terminals, ToolContext

_PAGERS = {name: value for name, value in QUIET.items() if name != "TERM"}


async def run_in_terminal(
    terminals: Terminals,
    script: str,
    directory: Path,
    origin: Origin,
    context: ToolContext,
    *,
    seconds_max: float,
    output_bytes: int,
) -> TerminalEnd:
    """Runs a script with bash, or sh where there is none. When it is cancelled or runs out of time, all it started is
    ended; what a command leaves behind that ended by itself is the editor's.

    Raises OSError when the editor does not do it.
    """
    mark = secrets.token_hex(8)
    environ = {**_PAGERS, **origin.groups.variables(origin.mark, mark)}
    command = ("/bin/sh", "-c", 'exec "$(command -v bash || echo sh)" -c "$0"', script)
    ended = False
    try:
        end = await terminals.run(
            context.call, command, directory, environ, seconds_max=seconds_max, output_bytes=output_bytes
        )
        ended = not end.timed_out
        return end
    finally:
        if not ended:
            await to_the_end(end_tree(None, mark))


def result_of(end: TerminalEnd, seconds_max: float, moved: Path | None) -> ToolResult:
    """What the model is told."""
    notes = []
    if end.timed_out:
        notes.append(f"ended after {seconds_max:g} s: the time limit")
    elif end.signal is not None:
        notes.append(f"ended by signal {end.signal}")
    elif how := how_it_ended(end.exit_code or 0):
        notes.append(how)
    failed = bool(notes)
    if end.truncated:
        notes.append("the beginning of the output was left out")
    if moved is not None:
        notes.append(f"now in {moved}")
    text = end.output.replace("\r\n", "\n").rstrip("\n")
    said = [text] if text else [] if notes else ["[no output]"]
    return ToolResult(
        text="\n".join([*said, *(f"[{note}]" for note in notes)]),
        status=Status.ERROR if failed else Status.OK,
    )
