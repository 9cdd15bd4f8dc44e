"""The status line: model, tokens, share of the window, cost, session, approval mode."""

from __future__ import annotations

import msgspec

from clew.domain.conversation.ids import SessionId
from clew.domain.models.answer import Usage
from clew.domain.models.request import ModelProfile
from clew.domain.tools.session_settings import read_settings
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.talk import Talk
from clew.surfaces.cli.chat.printable import one_line

SEPARATOR = " · "
NO_MODEL = "no model: /setup chooses one"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the line is made of."""

    is_known: bool = False
    """Whether the model was looked for."""
    model: ModelProfile | None = None
    session: SessionId | None = None
    title: str = ""
    tokens: int = 0
    cost_usd: float | None = None
    mode: str = ""
    filled: int | None = None
    """Tokens of the last request; None when that says nothing about the next one."""


class StatusLine:
    """Facts for the line at the bottom, read again after each turn and command."""

    def __init__(self) -> None:
        self.facts = Facts()

    def took(self, usage: Usage) -> None:
        """A step was recorded; its request and answer are what the next one begins with."""
        self._set(filled=usage.input + usage.output)

    def moved(self) -> None:
        """The head is somewhere else: how full the window is will be known after the next step."""
        self._set(filled=None)

    async def refresh(self, talk: Talk) -> None:
        """Raises LedgerError. Without a model it says so: why, the next turn will tell."""
        services = talk.services
        row = await services.ledger.session(talk.principal, talk.session) if talk.session else None
        mode = read_settings(row.settings).approval if row else None
        usage = await services.ledger.usage(talk.principal, talk.session) if talk.session else None
        self._set(
            session=talk.session,
            title=(row.title or "") if row else "",
            mode=str(mode or services.runner.settings.approval_mode),
            tokens=usage.input + usage.output if usage else 0,
            cost_usd=usage.cost_usd if usage else None,
        )
        try:
            self._set(model=(await services.models.choose(row.model if row else None)).profile, is_known=True)
        except ModelUnavailable:
            self._set(model=None, is_known=True)

    def text(self, columns: int) -> str:
        """One line of at most so many columns: the least important goes first."""
        parts = self._parts()
        while len(parts) > 1 and len(SEPARATOR.join(text for _, text in parts)) > columns:
            parts.remove(max(parts))
        return one_line(SEPARATOR.join(text for _, text in parts), columns)

    def _parts(self) -> list[tuple[int, str]]:
        """(how soon it may be left out, text), as they stand in the line."""
        facts = self.facts
        parts = [(0, _named(facts.model) if facts.is_known else "…")]
        if facts.tokens:
            parts.append((4, f"{_rounded(facts.tokens)} tokens"))
        if facts.filled is not None and facts.model is not None:
            parts.append((1, f"{100 * facts.filled / max(facts.model.context_window, 1):.0f}% of window"))
        if facts.cost_usd is not None:
            parts.append((3, f"${facts.cost_usd:.4f}"))
        if facts.mode:
            parts.append((2, facts.mode if facts.mode != "ask" else "asks first"))
        parts.append((5, facts.session or "new session"))
        return parts

    def _set(self, **changed: object) -> None:
        self.facts = msgspec.structs.replace(self.facts, **changed)


def _named(model: ModelProfile | None) -> str:
    if model is None:
        return NO_MODEL
    return f"{model.name} (demo)" if model.is_demo else model.name


def _rounded(tokens: int) -> str:
    return str(tokens) if tokens < 10_000 else f"{tokens / 1000:.0f}k"
