"""Exit codes, a promise to scripts, and which error means which."""

from __future__ import annotations

from asyncio import CancelledError
from enum import IntEnum

from clew.config.errors import ConfigError
from clew.domain.ledger.errors import Busy, LedgerError, NotFound, Outdated, Refused
from clew.runtime.archive.errors import ImportFailed
from clew.runtime.commands import CommandError
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.ports.platforms import PlatformError
from clew.runtime.turns import TurnStatus
from clew.surfaces.cli.host import PullRefused


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    RESTART = 75
    INTERRUPTED = 130


class UsageError(Exception):
    """The command line itself was wrong; the text says how."""


EXPECTED = (
    LedgerError,
    ImportFailed,
    ConfigError,
    CommandError,
    ModelUnavailable,
    PullRefused,
    PlatformError,
    UsageError,
    OSError,
)
"""Errors whose text is a sentence for the person. Anything else is a bug of ours."""


def code_of(error: BaseException) -> Exit:
    """The exit code for an error."""
    match error:
        case UsageError() | NotFound() | CommandError() | ImportFailed():
            return Exit.USAGE
        case ConfigError():
            return Exit.USAGE
        case Outdated():
            return Exit.RESTART
        case Refused() | Busy():
            return Exit.REFUSED
        case KeyboardInterrupt() | CancelledError():
            return Exit.INTERRUPTED
        case _:
            return Exit.FAILED


def sentence_of(error: BaseException) -> str:
    """What to tell a person: the error's own sentence, in the words of the system for what it refused."""
    if isinstance(error, KeyboardInterrupt | CancelledError):
        return "Interrupted before it was done."
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    if isinstance(error, EXPECTED):
        return str(error)
    return f"An error inside Clew: {error!r}. Run it again as `clew --debug …` to see where."


def name_of(error: BaseException) -> str:
    """A short, stable word for `error.code` in JSON."""
    match error:
        case NotFound():
            return "not_found"
        case Busy():
            return "busy"
        case Outdated():
            return "outdated"
        case Refused():
            return "refused"
        case ModelUnavailable():
            return "no_model"
        case UsageError() | CommandError() | ConfigError():
            return "usage"
        case LedgerError():
            return "store"
        case KeyboardInterrupt() | CancelledError():
            return "interrupted"
        case error if not isinstance(error, EXPECTED):
            return "internal"
        case _:
            return "failed"


EXIT_OF_STATUS = {
    TurnStatus.DONE: Exit.DONE,
    TurnStatus.FAILED: Exit.FAILED,
    TurnStatus.REFUSED: Exit.REFUSED,
    TurnStatus.INTERRUPTED: Exit.INTERRUPTED,
}
