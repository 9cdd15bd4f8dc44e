"""Starts turns: at most one in a session, whoever asks for it, and the prefix it is frozen with."""

from __future__ import annotations

import weakref

import msgspec

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.errors import Busy
from clew.domain.ledger.rows import TurnState
from clew.runtime.compaction import Compactor
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.owners import Owners
from clew.runtime.ports.people import Approver, Watch
from clew.runtime.ports.world import Chance, Clock
from clew.runtime.turns.job import Means, TurnJob, TurnSettings
from clew.runtime.turns.leases import Holder, LeaseWatch
from clew.runtime.turns.opening import OpenedTurn, open_turn
from clew.runtime.turns.openings import Recover
from clew.runtime.turns.outcome import STOPPED, TurnOutcome
from clew.runtime.turns.recalling import TurnMemory, facts_for
from clew.runtime.turns.recovering import open_recovery
from clew.runtime.turns.running import RunningTurn

__all__ = ["RunningTurn", "TurnJob", "TurnRunner", "TurnSettings"]


class TurnRunner:
    """Starts turns. One runner serves a whole process."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        owners: Owners,
        clock: Clock,
        chance: Chance,
        settings: TurnSettings,
        compactor: Compactor,
        remembers: bool = False,
    ) -> None:
        self.settings = settings
        self.compactor = compactor
        self._means = Means(
            ledger=ledger,
            owners=owners,
            leases=LeaseWatch(owners, clock, settings.lease_seconds),
            clock=clock,
            chance=chance,
            settings=settings,
            compactor=compactor,
            remembers=remembers,
        )
        self._opening: set[SessionId] = set()
        # A turn that nobody holds any more cannot be running: the lease that it left is claimed like a dead owner's.
        self._running: weakref.WeakValueDictionary[SessionId, RunningTurn] = weakref.WeakValueDictionary()

    @property
    def owners(self) -> Owners:
        return self._means.owners

    async def begin(self, job: TurnJob, watch: Watch, approver: Approver) -> RunningTurn:
        """Commits the opening; the returned turn is then run with `finish`.

        Raises Busy, LeftOpen, Refused, NotFound, StoreUnusable; then nothing was changed. To `Recover` it raises
        GivenUp instead, when the turn is not gone on with.
        """
        if job.session in self._opening:
            raise Busy(f"A turn of session {job.session} is just beginning.", self._means.owners.me)
        means = self._means
        if job.settings is not None:
            means = msgspec.structs.replace(means, settings=job.settings)
        self._opening.add(job.session)
        self.compactor.turn_begins(job.session)
        try:
            await self._let_end(job)
            facts, said = await facts_for(self._means, job)
            opened = await self._opened(job)
            memory = TurnMemory(job, facts, opened.row, said)
            turn = self._running[job.session] = RunningTurn(means, job, opened, memory, watch, approver)
            return turn
        finally:
            self._opening.discard(job.session)

    async def _opened(self, job: TurnJob) -> OpenedTurn:
        if isinstance(job.opening, Recover):
            return await open_recovery(self._means, job)
        return await open_turn(self._means, job)

    async def run(self, job: TurnJob, watch: Watch, approver: Approver) -> TurnOutcome:
        """Begins and finishes a turn."""
        return await (await self.begin(job, watch, approver)).finish()

    async def under_way(self, principal: PrincipalId, session: SessionId) -> int | None:
        """The number of the turn that a living process is in the middle of; None when there is none."""
        turn = await self._means.ledger.turn(principal, session)
        if turn is None or turn.state != TurnState.RUNNING:
            return None
        row = await self._means.ledger.session(principal, session)
        holder = self._means.leases.look(session, row.lease_owner, row.handle.epoch, row.lease_beat)
        if holder == Holder.ME:
            running = self._running.get(session)
            return turn.turn if running is not None and not running.has_ended else None
        return turn.turn if holder == Holder.LIVING else None

    async def stop_here(self, principal: PrincipalId, session: SessionId, turn: int) -> bool:
        """Asks a turn of this process to end; False when it is not run here, or not any more."""
        running = self._running.get(session)
        if running is None or running.turn != turn or running.has_ended:
            return False
        if (await self._means.ledger.session(principal, session)).handle.epoch != running.epoch:
            return False
        running.stop(STOPPED)
        return True

    async def _let_end(self, job: TurnJob) -> None:
        """Waits for a turn of this process that was cut off and has not noticed; one that still owns the session is Busy."""
        running = self._running.get(job.session)
        if running is None or running.has_ended:
            return
        row = await self._means.ledger.session(job.principal, job.session)
        if row.handle.epoch == running.epoch:
            raise Busy(f"A turn of session {job.session} is under way.", self._means.owners.me)
        running.look()
        await running.ended()
