"""A process of its own that compacts when it is told to: `python compacting_program.py HOME CLOCK_OFFSET_SECONDS`.

Each line it reads is `session trigger`; it answers with one line, what came of it. With the trigger `pausing` its
summary model says `writing`, and goes on when the next line comes, which says by how many seconds its clock jumped.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from clew.adapters.processes.owners import OwnerLocks
from clew.adapters.stores.sqlite import open_ledger
from clew.adapters.system import SystemChance
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.models.request import ModelProfile
from clew.runtime.compaction import Compacted, CompactionAsk, CompactionSettings, Compactor, Trigger
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.owners import Owners
from clew.testing.scripted_model import Hold, ScriptedModel, say
from clew.testing.world import HandClock, OneModel

WINDOW = 4_000
PROFILE = ModelProfile(name="scripted-model", provider="scripted", context_window=WINDOW)


def maker(ledger: Ledger, owners: Owners, clock: HandClock, hold: Hold | None = None) -> Compactor:
    deltas = ("The notes.",) if hold is None else ("The notes", hold, " of the sleeper.")
    model = ScriptedModel(lambda _: say(*deltas), profile=PROFILE)
    settings = CompactionSettings(lease_seconds=1, cooldown_seconds=0)
    return Compactor(ledger=ledger, owners=owners, models=OneModel(model), clock=clock, settings=settings)


async def compacted(compactor: Compactor, session: SessionId, trigger: Trigger) -> str:
    ask = CompactionAsk(principal=LOCAL, session=session, trigger=trigger, model=PROFILE, saw=None)
    outcome = await compactor.compact(ask)
    if isinstance(outcome, Compacted):
        return "adopted" if outcome.adopted else "made"
    return outcome.why


async def main(home: Path, offset_seconds: float) -> None:
    owners = OwnerLocks(home / "run", SystemChance().token(8))
    ledger = await open_ledger(home, HandClock())
    clock = HandClock()
    clock.advance(offset_seconds)
    say_line(owners.me)
    while line := await asyncio.to_thread(sys.stdin.readline):
        session, trigger = line.split()
        if trigger == "pausing":
            hold = Hold()
            compactor = maker(ledger, owners, clock, hold)
            making = asyncio.create_task(compacted(compactor, SessionId(session), Trigger.PREFLIGHT))
            await hold.reached()
            say_line("writing")
            clock.advance(float(await asyncio.to_thread(sys.stdin.readline)))
            hold.release()
            say_line(await making)
        else:
            compactor = maker(ledger, owners, clock)
            say_line(await compacted(compactor, SessionId(session), Trigger(trigger)))
    await ledger.close()
    owners.close()


def say_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
