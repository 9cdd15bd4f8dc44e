"""Where the time of prompts to other agents went, kept in `logs/cold-start.jsonl` for `clew stats cold-start`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from clew.adapters.agents.timing import Breakdown
from clew.runtime.metering import Meter

FILE: Final = "cold-start.jsonl"
BYTES_MAX: Final = 1_000_000
"""Of the file; it is begun anew then, and the one before kept beside it."""


class ColdStartLog:
    """Also in the log of a program that keeps one (`clew serve`); a chat's terminal is no place for it."""

    def __init__(self, directory: Path, meter: Meter) -> None:
        self._directory = directory
        self._meter = meter
        self._log = structlog.get_logger("clew.agents") if structlog.is_configured() else None

    def told(self, breakdown: Breakdown) -> None:
        if self._log is not None:
            self._log.info("cold_start_breakdown", **msgspec.to_builtins(breakdown))
        for phase, milliseconds in breakdown.times().items():
            if milliseconds is not None:
                self._meter.observe(
                    "clew_agent_seconds", milliseconds / 1000, phase=phase, transport=breakdown.transport
                )
        self._write(FILE, msgspec.json.encode(breakdown))

    def warn(self, sentence: str) -> None:
        if self._log is not None:
            self._log.error(sentence)
        self._write("agents.log", sentence.encode())

    def _write(self, name: str, line: bytes) -> None:
        """A line more. A disk that takes no log costs no turn: whatever else is written there says it."""
        path = self._directory / name
        with suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size > BYTES_MAX:
                path.replace(path.with_name(f"{name}.1"))
            with path.open("ab") as file:
                file.write(line + b"\n")
