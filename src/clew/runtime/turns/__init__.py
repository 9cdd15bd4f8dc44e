"""Runs turns: performs what the machine decides, one commit a step."""

from clew.runtime.turns.opening import Again, GoOn, NewFile, Say
from clew.runtime.turns.outcome import TurnOutcome, TurnStatus
from clew.runtime.turns.runner import TurnRunner, TurnSettings

__all__ = ["Again", "GoOn", "NewFile", "Say", "TurnOutcome", "TurnRunner", "TurnSettings", "TurnStatus"]
