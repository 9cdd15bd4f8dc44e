"""Counts which event came in which phase of which turn, by listening at the machine while a run lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from clew.domain.turn.machine import LEGAL, Effect, Event, Phase, TurnMachine
from clew.testing.simulation.record import Record


@contextmanager
def observed_machines(record: Record) -> Iterator[None]:
    """Every turn that begins meanwhile is counted in this record."""

    original = TurnMachine.receive

    def counted(machine: TurnMachine, event: Event) -> tuple[Effect, ...]:
        record.hit(pair(machine.phase, type(event)))
        return original(machine, event)

    setattr(TurnMachine, "receive", counted)  # noqa: B010 - an assignment is what a type checker forbids
    try:
        yield
    finally:
        setattr(TurnMachine, "receive", original)  # noqa: B010


def pair(phase: Phase, event: type) -> str:
    return f"machine: {phase} + {event.__name__}"


PAIRS: Final = tuple(
    pair(phase, event) for phase in Phase for event in sorted(LEGAL[phase], key=lambda event: event.__name__)
)
"""All that the table of legal moves allows."""
