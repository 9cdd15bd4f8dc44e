"""The status line: model, tokens, share of the window, cost, session."""

from __future__ import annotations

from clew.domain.conversation.ids import SessionId
from clew.domain.ledger.errors import LedgerError
from clew.domain.models.request import ModelProfile
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.talk import Talk
from clew.surfaces.cli.chat.screen import Screen


class StatusLine:
    """Facts for the line at the bottom, read again after each turn and command."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._profile: ModelProfile | None = None
        self._session: SessionId | None = None
        self._cost: float | None = None
        self._tokens = 0
        self._mode = ""

    async def refresh(self, talk: Talk) -> None:
        """What cannot be read now is left as it was; the next turn will say why."""
        self._session = talk.session
        try:
            row = await talk.services.ledger.session(talk.principal, talk.session) if talk.session else None
            self._profile = (await talk.services.models.choose(row.model if row else None)).profile
            usage = await talk.services.ledger.usage(talk.principal, talk.session) if talk.session else None
        except (LedgerError, ModelUnavailable):
            return
        self._cost = usage.cost_usd if usage else None
        self._tokens = usage.input + usage.output if usage else 0

    def text(self) -> str:
        """One line of plain text."""
        if self._profile is None:
            return " no model configured: /quit and run `clew setup`"
        share = 100 * self._screen.input_tokens / max(self._profile.context_window, 1)
        name = self._profile.name + (
            " (tiny demo model: `clew setup` sets a better one)" if self._profile.is_demo else ""
        )
        parts = [name, f"{self._tokens} tokens", f"{share:.0f}% of window"]
        if self._cost is not None:
            parts.append(f"${self._cost:.4f}")
        parts.append(self._session or "new session")
        return " " + "  ·  ".join(parts)
