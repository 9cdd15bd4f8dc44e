"""Why the ledger said no.

LedgerError
├── HeadMoved        the writer named a head or version that is no longer the session's
├── Fenced           the writer's epoch is over: somebody else owns the session now
├── Busy             another living process holds the session's turn
├── NotFound         no such thing for this principal (a foreign id is not found either)
│   └── Ambiguous    a prefix or title names several
├── Refused          the request itself can never pass
│   └── KeyReused    an idempotency key came back with another payload
└── StoreUnusable    the file cannot be used: the sentence says why and what to do
    ├── Outdated     the file is of a newer schema than this program
    └── Corrupt      what was read breaks a promise of the ledger
"""

from __future__ import annotations


class LedgerError(Exception):
    """The ledger did not do it; nothing was written."""


class HeadMoved(LedgerError):
    """The session changed meanwhile; look again and decide again."""


class Fenced(LedgerError):
    """This turn no longer owns the session."""


class Busy(LedgerError):
    """Another process is in the middle of a turn of this session."""

    def __init__(self, message: str, owner: str) -> None:
        super().__init__(message)
        self.owner = owner


class NotFound(LedgerError):
    """There is no such session."""


class Ambiguous(NotFound):
    """Several sessions match."""

    def __init__(self, message: str, candidates: tuple[str, ...]) -> None:
        super().__init__(message)
        self.candidates = candidates


class Refused(LedgerError):
    """The ledger cannot take this."""


class KeyReused(Refused):
    """This idempotency key was used for something else."""


class CapReached(Refused):
    """The call could pass a cap of spending. `cap` is the setting's name."""

    def __init__(self, message: str, cap: str) -> None:
        super().__init__(message)
        self.cap = cap


class StoreUnusable(LedgerError):
    """The ledger file cannot be used."""


class Outdated(StoreUnusable):
    """The ledger was written by a newer Clew; update this one."""


class Corrupt(StoreUnusable):
    """The ledger holds what it never should."""
