"""The log of a process that serves: one line an event on standard error, with ids and reasons, and no word of anybody.

What libraries log is other people's text: of theirs a line names the logger and the place alone.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

import structlog

LOG: Final = structlog.get_logger("clew.library")


def log_to_stderr(style: str) -> None:
    """From now on everything logged goes to standard error, as `text` (logfmt) or `json`."""
    renderer = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(handlers=[_Libraries(logging.WARNING)], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


class _Libraries(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        LOG.log(
            record.levelno, "library", logger=record.name, at=f"{record.module}:{record.lineno}", error=kind
        )
