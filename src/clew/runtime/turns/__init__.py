"""Runs turns: performs what the machine decides, one commit a step."""

from clew.runtime.turns.openings import Again, GoOn, Recover, Say
from clew.runtime.turns.outcome import TurnOutcome, TurnStatus
from clew.runtime.turns.runner import TurnRunner, TurnSettings
from clew.runtime.turns.waiting import NewFile

__all__ = [
    "Again",
    "GoOn",
    "NewFile",
    "Recover",
    "Say",
    "TurnOutcome",
    "TurnRunner",
    "TurnSettings",
    "TurnStatus",
]
