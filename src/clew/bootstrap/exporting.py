"""Exports that a command writes into the working directory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from clew.domain.conversation.ids import SessionId
from clew.runtime.ports.ledger import Ledger


def exporter(ledger: Ledger) -> Callable[[SessionId, str], Awaitable[str]] | None:
    return None
