"""When to compact, and what: shares of the context window, and a plan that promises to shrink or says why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from clew.domain.compaction.cut import find_cut_point, standing
from clew.domain.compaction.estimate import message_tokens, text_tokens, total_tokens
from clew.domain.conversation.messages import Head, Message
from clew.domain.ledger.rows import SummaryRow
from clew.domain.models.request import ModelProfile

SUMMARY_TOKENS_MAX: Final = 4_096
SUMMARY_TOKENS_MIN: Final = 64
GAIN_SHARE_MIN: Final = 0.05
"""A pass that would free less of the window is not made: two ineffective passes cannot follow each other."""
CERTAIN_EXCESS: Final = 3
"""The estimate errs high, but not by this factor: what is beyond it does not fit, and no provider need be asked."""


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the context window: above `trigger` a summary is made, down to `target`."""

    trigger: float = 0.75
    target: float = 0.25


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """The shares as tokens of one model's window."""

    window: int
    trigger: int
    target: int

    @classmethod
    def of(cls, profile: ModelProfile, shares: Shares) -> Budget:
        """Room for the reply is left where the model's longest one is known."""
        window = profile.context_window
        target = int(window * shares.target)
        room = window - min(profile.max_output or 0, window // 2)
        return cls(window=window, trigger=max(target, min(int(window * shares.trigger), room)), target=target)

    @property
    def summary(self) -> int:
        """Tokens the longest summary may take."""
        return min(SUMMARY_TOKENS_MAX, max(self.target // 2, 1))


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that a summary should stand for, after those of the summary before it."""

    covered: tuple[Message, ...]
    previous: SummaryRow | None
    summary_tokens: int
    """What the summary may take: a third of what it replaces at most."""
    tokens_before: int
    tokens_kept: int
    """Of the request without any summary."""

    @property
    def upto(self) -> Head:
        return self.covered[-1].head

    def tokens_after(self, summary: str) -> int:
        return self.tokens_kept + summary_tokens(summary)


class NothingToGain(msgspec.Struct, frozen=True, kw_only=True):
    """No summary would make the request shorter by enough; `tokens` is what it takes as it is."""

    tokens: int
    sentence: str


def summary_tokens(text: str) -> int:
    return 16 + text_tokens(text)


def request_tokens(path: Sequence[Message], summary: SummaryRow | None, fixed: int) -> int:
    """Of the request for a path; `fixed` are those of the prefix."""
    return (
        fixed
        + (0 if summary is None else summary_tokens(summary.text))
        + total_tokens(standing(path, summary))
    )


class Load:
    """The tokens of a request, kept up while its path grows: what was estimated once is not looked at again."""

    def __init__(self, fixed: int) -> None:
        self._fixed = fixed
        self._summary: SummaryRow | None = None
        self._seen = 0
        self._tokens = fixed

    def of(self, path: Sequence[Message], summary: SummaryRow | None) -> int:
        """`path` begins with the one before it."""
        if summary == self._summary and self._seen and self._seen <= len(path):
            self._tokens += total_tokens(path[self._seen :])
        else:
            self._tokens = request_tokens(path, summary, self._fixed)
        self._summary, self._seen = summary, len(path)
        return self._tokens


def plan(
    path: Sequence[Message],
    summary: SummaryRow | None,
    *,
    fixed: int,
    budget: Budget,
    deep: bool = False,
) -> Plan | NothingToGain:
    """What to cover so that the request comes down to the target. `deep` is for a person who asks for it, and for a
    provider whose window turned out smaller than is known: a quarter of what stands is left, and any gain is enough."""
    shown = standing(path, summary)
    sizes = [message_tokens(message) for message in shown]
    before = sum(sizes) + fixed + (0 if summary is None else summary_tokens(summary.text))
    keep = max(budget.target - fixed - budget.summary, 0)
    cut = find_cut_point(shown, sizes, min(keep, sum(sizes) // 4) if deep else keep)
    if cut is None:
        return NothingToGain(tokens=before, sentence="There is nothing yet that a summary could stand for.")
    after = fixed + cut.kept_tokens
    length = min(budget.summary, max((before - after) // 3, SUMMARY_TOKENS_MIN))
    gain = before - after - summary_tokens("") - length
    if gain < (1 if deep else int(budget.window * GAIN_SHARE_MIN)):
        return NothingToGain(tokens=before, sentence="A summary would not make this conversation shorter.")
    reached = 0 if summary is None else summary.upto.seq
    covered = tuple(m for m in path if reached < m.seq <= shown[cut.covered - 1].seq)
    if not covered:
        return NothingToGain(tokens=before, sentence="What is left cannot be summarised any further.")
    return Plan(
        covered=covered,
        previous=summary,
        summary_tokens=length,
        tokens_before=before,
        tokens_kept=after,
    )
