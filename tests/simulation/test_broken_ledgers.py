"""The simulation notices a ledger that breaks one promise: else its silence about the others would say nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from msgspec.structs import replace

from clew.adapters.stores.memory.commit import commit
from clew.adapters.stores.memory.state import State
from clew.domain.ledger.commits import Append, AsHolder, Commit, Committed
from clew.domain.ledger.rows import InboxState, OpKind
from clew.testing.faulty_ledger import FaultyLedger, shape_of
from clew.testing.simulation import run_seed

T = TypeVar("T")
SEEDS_MAX = 40


class Fenceless(FaultyLedger):
    """Lets whoever once held a session write to it."""

    async def commit(self, work: Commit) -> Committed:
        def unfenced(state: State) -> Committed:
            now = state.sessions[work.session].handle
            if not isinstance(work.fence, AsHolder):
                return commit(state, work)
            return commit(state, replace(work, fence=AsHolder(epoch=now.epoch, head=now.head)))

        return await self._written(shape_of(work), unfenced, work)


class Keyless(FaultyLedger):
    """Forgets idempotency keys as soon as they are written."""

    async def _written(self, shape: str, work: Callable[[State], T], said: Commit | None = None) -> T:
        def forgetful(state: State) -> T:
            result = work(state)
            state.keys.clear()
            return result

        return await super()._written(shape, forgetful, said)


class Unacknowledging(FaultyLedger):
    """Takes the answer to a recovery without noting that it was one."""

    async def commit(self, work: Commit) -> Committed:
        if isinstance(work.op, Append) and work.op.kind == OpKind.RECOVER:
            work = replace(work, op=replace(work.op, kind=OpKind.APPEND), idempotency_key=None)
        return await super().commit(work)


class Untaking(FaultyLedger):
    """Leaves a message in the inbox that a turn has taken."""

    async def _written(self, shape: str, work: Callable[[State], T], said: Commit | None = None) -> T:
        def leaving(state: State) -> T:
            result = work(state)
            for ident in said.take if said is not None else ():
                state.inbox[ident] = replace(state.inbox[ident], state=InboxState.QUEUED, turn=None)
            return result

        return await super()._written(shape, leaving, said)


class Repeating(FaultyLedger):
    """Takes an update that comes twice for two."""

    async def _written(self, shape: str, work: Callable[[State], T], said: Commit | None = None) -> T:
        def as_new(state: State) -> T:
            known = state.inbox
            if shape == "receive":
                state.inbox = {ident: replace(row, external_key=f"{ident}") for ident, row in known.items()}
            return work(state)

        return await super()._written(shape, as_new, said)


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [
        (Fenceless, "committed to session|though its turn has ended"),
        (Keyless, "does not acknowledge it"),
        (Unacknowledging, "does not acknowledge it"),
        (Untaking, "stored as well|stored twice"),
        (Repeating, "stored as well|stored twice|told"),
    ],
)
def test_a_broken_promise_is_noticed(broken: type[FaultyLedger], noticed: str) -> None:
    """Within a few seeds, and for the promise that is broken."""
    found = next((run.broken for seed in range(SEEDS_MAX) if (run := run_seed(seed, broken)).broken), None)
    assert found is not None
    assert any(words in found for words in noticed.split("|")), found
