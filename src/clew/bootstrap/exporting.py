"""Exports that the command `/export` writes into the working directory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from clew.domain.conversation.ids import LOCAL, SessionId
from clew.runtime.ports.ledger import Ledger


def exporter(ledger: Ledger) -> Callable[[SessionId, str], Awaitable[str]]:
    """Writes `clew-SESSION.FORMAT`, readable by its owner only; never over a file that is there."""

    async def write(session: SessionId, wanted: str) -> str:
        from clew.runtime.archive.formats import ExportFormat, export  # noqa: PLC0415  no start waits for it

        parts = [part async for part in export(ledger, LOCAL, session, ExportFormat(wanted))]
        return str(_written(Path.cwd(), f"clew-{session}", wanted, parts))

    return write


def _written(folder: Path, stem: str, suffix: str, parts: list[bytes]) -> Path:
    for number in range(1, 1000):
        path = folder / (f"{stem}.{suffix}" if number == 1 else f"{stem}-{number}.{suffix}")
        try:
            with path.open("xb") as file:
                path.chmod(0o600)
                file.writelines(parts)
        except FileExistsError:
            continue  # the next number
        return path
    raise OSError(f"{folder} already holds a thousand exports of this session.")
