"""What a simulation has to have met before it says anything: each kind of fault, action and legal transition, as data.

`EXPECTED` can happen, and is to happen a hundred times in two thousand seeds; `IMPOSSIBLE` cannot, and says why: the table of
legal moves allows it all the same, because a machine without IO does not know who drives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final, NamedTuple

from clew.domain.ledger.jobs import REVIEW, TITLE
from clew.domain.memory.facts import EXTRACT
from clew.domain.turn.machine import LEGAL, Phase
from clew.testing.faulty_ledger import Fault
from clew.testing.simulation.actions import ACTIONS
from clew.testing.simulation.faults import WRITES
from clew.testing.simulation.machines import PAIRS, pair

SEEDS: Final = 2000
HITS_MIN: Final = 100
"""In that many seeds."""

_OVER: Final = "The runtime asks the machine for nothing more once the turn is over or parked."
IMPOSSIBLE: Final[Mapping[str, str]] = {
    **{pair(phase, event): _OVER for phase in (Phase.OVER, Phase.PARKED) for event in LEGAL[phase]},
    "call: planned → finished": "What was not started ends as not run.",
    "call: unknown → finished": "What is unknown starts again before it returns.",
    "inbox: queued → superseded": "No surface edits messages that wait.",
    "inbox: queued → refused": "What is refused is not taken into the inbox.",
}

_FAULTS: Final = (
    "refused, busy",
    "refused, disk full",
    *(f"{fault}: {write}" for fault, write in product((Fault.KILLED_BEFORE, Fault.KILLED_AFTER), WRITES)),
    "a read fails",
    "killed at a random instant",
    "killed while the model streams",
    "killed while a tool runs",
    "killed after a tool took effect",
    "a tool kills its process",
    "a death that nothing proves",
    "a holder is paused past its lease",
    "a request of a process that was cut off",
    "a stop in the last instant",
    "somebody else comes in between",
    "what waits for a turn is cancelled",
    "the wall clock jumps by +3600 s",
    "the wall clock jumps by -3600 s",
    "an update comes more than once",
    "an update comes late, after others",
    "a purge in mid-turn",
    "the model fails",
    "the model's stream is cut",
    "the model never answers",
    "the model tries again",
    "the model asks for a tool that is not there",
    "the model writes arguments that are no JSON",
    "the model says one call id twice",
    "a tool raises",
    *(f"a question is answered {how}" for how in ("at once", "late", "never", "nobody")),
)
SIDES: Final = ("background", "delegate", "review")
_STATES: Final = (
    "turn: none → running",
    "turn: running → waiting",
    "turn: running → done",
    "turn: running → failed",
    "turn: running → interrupted",
    "turn: running → abandoned",
    "turn: running → running, after a crash",
    "turn: waiting → running",
    "turn: waiting → interrupted",
    "turn: waiting → abandoned",
    *(f"turn: ended, {why}" for why in ("stale", "set_aside", "step_limit", "time_limit", "repeat_limit")),
    "call: none → planned",
    "call: planned → started",
    "call: planned → not_run",
    "call: started → finished",
    "call: started → unknown",
    "call: unknown → started",
    "inbox: none → queued",
    "inbox: queued → consumed",
    "inbox: queued → cancelled",
    "approval: none → pending",
    "approval: pending → approved",
    "approval: pending → denied",
    "approval: pending → expired",
    "approval: approved → consumed",
    "approval: approved → expired",
    "reply: none → pending",
    "reply: pending → sent",
    "recovery: the model was told",
    "recovery: the person was told",
    "tool: run again, which is safe",
    "tool: not safe to repeat, ran",
    "tool: safe to repeat, ran",
    "update: a repetition",
    "request: goes on",
    "request: begins anew",
    "request: for a summary",
    *(f"request: {what}" for what in ("for facts", "for a title", "set aside under a cap")),
    "job: none → queued",
    *(f"job: queued → {state}" for state in ("done", "failed", "cancelled")),
    *(f"job: {kind} done" for kind in (EXTRACT, REVIEW, TITLE)),
    "job: put off",
    "job: taken over",
    *(f"memory: kept by a {who}" for who in ("person", "model", "job")),
    *(f"memory: {where}" for where in ("in a prompt", "recalled", "known")),
    *(f"memory: a job brought {what}" for what in ("facts", "nothing")),
    "memory: superseded",
    "memory: forgotten",
    *(f"memory: forgotten while {what}" for what in ("a turn runs", "it is looked for")),
    "memory: deleted with its session",
    *(f"beside: {side} begun" for side in SIDES),
    *(f"beside: {side} {state}" for side in SIDES for state in ("done", "failed", "interrupted")),
    *(f"beside: {side} gone on with after a crash" for side in SIDES),
    "beside: delegate begun, by a subagent",
    *(f"beside: delegate asked again, {done} done" for done in ("some were", "none was")),
)
EXPECTED: Final = tuple(
    name
    for name in (
        *PAIRS,
        *_STATES,
        *(f"fault: {fault}" for fault in _FAULTS),
        *(f"action: {action}: ok" for action in ACTIONS),
    )
    if name not in IMPOSSIBLE
)


class Shortfall(NamedTuple):
    """Something that a run of so many seeds met too seldom, or met though it cannot be."""

    name: str
    hits: int
    needed: int


def shortfalls(hits: Mapping[str, int], seeds: int) -> Iterator[Shortfall]:
    """What was met too seldom for what the run says to count. Nothing may be met never."""
    needed = max(1, HITS_MIN * seeds // SEEDS)
    for name in EXPECTED:
        if hits.get(name, 0) < needed:
            yield Shortfall(name, hits.get(name, 0), needed)
    for name in IMPOSSIBLE:
        if hits.get(name, 0):
            yield Shortfall(f"{name} (cannot be: {IMPOSSIBLE[name]})", hits[name], 0)


def table(hits: Mapping[str, int]) -> str:
    """Every count, for people; and what cannot be, with the reason."""
    lines = [f"{hits.get(name, 0):9,} {name}" for name in sorted({*hits, *EXPECTED} - set(IMPOSSIBLE))]
    lines += [f"        - {name}: {why}" for name, why in IMPOSSIBLE.items()]
    return "\n".join(lines)
