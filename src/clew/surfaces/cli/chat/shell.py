"""`!command`: a command of the person's own, beside the conversation. Neither it nor its output is stored."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from clew.surfaces.cli.chat.screen import Screen

OUTPUT_BYTES_MAX = 200_000


async def run_shell(command: str, cwd: Path, screen: Screen) -> None:
    """Runs it in the working directory and shows what it prints. Ctrl-C ends its whole group."""
    if not command.strip():
        screen.notice("!command runs a command in your shell.")
        return
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    screen.reply(output[:OUTPUT_BYTES_MAX].decode("utf-8", errors="replace").rstrip("\n"))
    if process.returncode:
        screen.notice(f"exit code {process.returncode}")
