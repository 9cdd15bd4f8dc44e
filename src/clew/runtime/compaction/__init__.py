"""Makes summaries, whoever asks for one: before a turn, in it, after an overflow, in idle time, by `/compress`."""

from clew.runtime.compaction.compactor import Compactor
from clew.runtime.compaction.values import (
    Compacted,
    CompactionAsk,
    CompactionSettings,
    NotCompacted,
    Outcome,
    Trigger,
    WhyNot,
)

__all__ = [
    "Compacted",
    "CompactionAsk",
    "CompactionSettings",
    "Compactor",
    "NotCompacted",
    "Outcome",
    "Trigger",
    "WhyNot",
]
