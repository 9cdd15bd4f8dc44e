"""What is asked of the compactor and what comes of it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from clew.domain.compaction.policy import Shares
from clew.domain.conversation.ids import PrincipalId, SessionId, SummaryId
from clew.domain.ledger.commits import Caps
from clew.domain.ledger.rows import SummaryRow
from clew.domain.models.request import ModelProfile


class CompactionSettings(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool = True
    """Without a person's asking; `/compress` always works."""
    shares: Shares = Shares()
    lease_seconds: float = 120
    cooldown_seconds: float = 60
    call_seconds: float = 300
    """Time one call of the summary model may take."""
    summary_model: str | None = None
    caps: Caps = Caps()
    remembers: bool = False
    """Whether facts are looked for in what a summary stands for."""


class Trigger(StrEnum):
    PREFLIGHT = "preflight"
    MID_TURN = "mid_turn"
    OVERFLOW = "overflow"
    IDLE = "idle"
    COMMAND = "command"


class CompactionAsk(msgspec.Struct, frozen=True, kw_only=True):
    """`model` is the session's own: its window is the one to fit into. `saw` is the summary in force where whoever asks
    found the need: if it is another one by now, that is adopted. `turn` is the turn it is for, if there is one."""

    principal: PrincipalId
    session: SessionId
    trigger: Trigger
    model: ModelProfile
    saw: SummaryId | None
    turn: int = 0
    focus: str | None = None


class Compacted(msgspec.Struct, frozen=True, kw_only=True):
    """The summary is in force. `adopted`: somebody else was quicker, and theirs is. `remark` is for the person."""

    summary: SummaryRow
    covered: int
    adopted: bool = False
    remark: str = ""

    @property
    def sentence(self) -> str:
        before, after = self.summary.tokens_before, self.summary.tokens_after
        took = f"about {before:,} → {after:,} tokens"
        if self.adopted:
            return f"A summary was made elsewhere meanwhile, and is used: {took}."
        many = "1 message" if self.covered == 1 else f"{self.covered:,} messages"
        return f"Summarised {many}: {took}. They stay in the history; /expand takes it back.{self.remark}"


class WhyNot(StrEnum):
    DISABLED = "disabled"
    NOT_NEEDED = "not_needed"
    NOTHING_TO_GAIN = "nothing_to_gain"
    FAILED = "failed"
    RESTING = "resting"
    """A failure was not long ago, or this turn has had its calls."""
    ELSEWHERE = "elsewhere"
    """Another process is at it, and this trigger does not wait."""
    CHANGED = "changed"
    """The conversation was changed meanwhile so that the summary no longer fits it."""


class NotCompacted(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing was changed. `is_news`: the person has not been told of this trouble yet."""

    why: WhyNot
    sentence: str
    is_news: bool = False


Outcome = Compacted | NotCompacted
