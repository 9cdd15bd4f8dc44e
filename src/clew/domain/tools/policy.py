"""Who may do what without being asked."""

from __future__ import annotations

from enum import StrEnum

from clew.domain.tools.spec import Effect


class ApprovalMode(StrEnum):
    """`ask` before anything but reading, `accept-edits` to files without asking, `all` without asking at all."""

    ASK = "ask"
    ACCEPT_EDITS = "accept-edits"
    ALL = "all"


_ALLOWED = {
    ApprovalMode.ASK: frozenset({Effect.READ}),
    ApprovalMode.ACCEPT_EDITS: frozenset({Effect.READ, Effect.EDIT}),
    ApprovalMode.ALL: frozenset(Effect),
}


def needs_approval(mode: ApprovalMode, effect: Effect) -> bool:
    """Whether a person is asked first. Deny by default: what is not allowed here is asked about."""
    return effect not in _ALLOWED[mode]
