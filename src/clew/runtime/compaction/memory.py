"""What this process remembers of compactions: how far estimates are off, when to try again, what a turn has spent.

None of it is needed for safety. Forgetting it, as every restart does, costs an early compaction or another call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from clew.domain.compaction.policy import CERTAIN_EXCESS
from clew.domain.conversation.ids import SessionId

CALLS_PER_TURN_MAX: Final = 4
COOLDOWN_SECONDS_MAX: Final = 3600.0
SESSIONS_MAX: Final = 1_000
"""The session remembered longest is forgotten first."""


class _Known(msgspec.Struct):
    ratio: float = 1.0
    """Tokens as the provider counted them to tokens as estimated, in the last request."""
    failures: int = 0
    untold: str = ""
    """Why they failed, where nobody has heard of it yet."""
    rests_until: float = 0.0
    turn: int = 0
    calls: int = 0
    """Of the summary model, for that turn."""


class Memory:
    """`now` is a clock that never goes back, in seconds."""

    def __init__(self, cooldown_seconds: float, now: Callable[[], float]) -> None:
        self._cooldown_seconds = cooldown_seconds
        self._now = now
        self._sessions: dict[SessionId, _Known] = {}

    def counted(self, session: SessionId, estimated: int, counted: int) -> None:
        """The provider's figure for a request of this session: what is estimated later is corrected by it."""
        if estimated > 0 and counted > 0:
            self._of(session).ratio = min(max(counted / estimated, 1 / CERTAIN_EXCESS), CERTAIN_EXCESS)

    def ratio(self, session: SessionId) -> float:
        return self._of(session).ratio

    def calls_left(self, session: SessionId, turn: int) -> int:
        """How often the summary model may still be asked for this turn; 0 is no turn, and has no past."""
        known = self._of(session)
        return CALLS_PER_TURN_MAX - (known.calls if turn and known.turn == turn else 0)

    def called(self, session: SessionId, turn: int, calls: int) -> None:
        known = self._of(session)
        known.calls = calls + (known.calls if known.turn == turn else 0)
        known.turn = turn

    def rests(self, session: SessionId) -> bool:
        """Whether the last failure was too short a while ago."""
        return self._now() < self._of(session).rests_until

    def failed(self, session: SessionId, *, unheard: str = "") -> bool:
        """Each failure in a row doubles the pause. Returns whether it is the first that anybody hears of; `unheard` is
        kept for `untold` where nobody does."""
        known = self._of(session)
        pause = self._cooldown_seconds * 2.0 ** min(known.failures, 20)
        known.rests_until = self._now() + min(pause, COOLDOWN_SECONDS_MAX)
        is_news = known.failures == 0 or bool(known.untold)
        known.failures, known.untold = known.failures + 1, unheard if is_news else ""
        return is_news

    def untold(self, session: SessionId) -> str:
        """Why summaries fail, to be said now; empty where that was said."""
        known = self._of(session)
        said, known.untold = known.untold, ""
        return said

    def succeeded(self, session: SessionId) -> None:
        known = self._of(session)
        known.failures, known.rests_until, known.untold = 0, 0.0, ""

    def _of(self, session: SessionId) -> _Known:
        known = self._sessions.setdefault(session, _Known())
        if len(self._sessions) > SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        return known
