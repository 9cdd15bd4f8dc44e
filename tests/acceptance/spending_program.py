"""Thirty-two sessions at once over one ledger, each asking once for a call of a dollar: `python FILE HOME CAP`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from clew.adapters.stores.sqlite import open_ledger
from clew.adapters.system import SystemClock
from clew.domain.ledger.commits import Caps
from clew.domain.models.answer import Usage
from clew.domain.models.request import ModelProfile
from clew.runtime.ports.models import Cost
from clew.runtime.turns import TurnSettings
from clew.testing.scripted_model import Step
from clew.testing.world import World, exchange

SESSIONS = 32
DOLLAR = 1_000
"""Tokens of an answer, and so of the dearest one."""


async def main(home: Path, cap: float) -> None:
    ledger = await open_ledger(home, SystemClock())
    world = World(
        ledger,
        lambda _: Step(text="yes", usage=Usage(input=0, output=DOLLAR)),
        settings=TurnSettings(caps=Caps(usd_per_day=cap)),
        profile=ModelProfile(name="m", max_output=DOLLAR),
        price=lambda usage: Cost(usd=usage.output / DOLLAR, source="test"),
        seed=os.getpid(),  # the other process has other sessions
        owner=f"process-{os.getpid()}",
    )
    try:
        outcomes = await asyncio.gather(*(exchange(world.talk(), f"{n}") for n in range(SESSIONS)))
        print(*(outcome.status for outcome in outcomes))
    finally:
        await ledger.close()


asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
