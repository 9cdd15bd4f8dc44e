"""The simulation notices a ledger that breaks one promise: else its silence about the others would say nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from msgspec.structs import replace

from clew.adapters.stores.memory.commit import commit
from clew.adapters.stores.memory.state import State
from clew.domain.conversation.ids import FactId, PrincipalId, SessionId
from clew.domain.ledger.commits import Append, AsHolder, Caps, Commit, Committed
from clew.domain.ledger.rows import InboxState, OpKind, Origin
from clew.domain.memory.facts import Fact, Trace
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


class Mixing(FaultyLedger):
    """Tells everybody what is remembered of anybody."""

    async def facts(self, principal: PrincipalId, session: SessionId | None = None) -> tuple[Fact, ...]:
        return tuple((await self._now()).facts.values())


class Forgetting(FaultyLedger):
    """What the next three change when something is forgotten, or kept."""

    def change(self, shape: str, before: State, after: State) -> None:
        raise NotImplementedError

    async def _written(self, shape: str, work: Callable[[State], T], said: Commit | None = None) -> T:
        def changed(state: State) -> T:
            before = state.copy()
            result = work(state)
            self.change(shape, before, state)
            return result

        return await super()._written(shape, changed, said)


class Traceless(Forgetting):
    """Forgets what was forgotten."""

    def change(self, shape: str, before: State, after: State) -> None:
        if shape == "forget_facts":
            after.forgotten = {
                ident: (who, Trace(salt="", sha256="")) for ident, (who, _) in after.forgotten.items()
            }


class Unfrozen(Forgetting):
    """Leaves what was forgotten in the prompts that hold it."""

    def change(self, shape: str, before: State, after: State) -> None:
        if shape == "forget_facts":
            after.sessions, after.prefixes, after.ops = before.sessions, before.prefixes, before.ops


class Doubling(Forgetting):
    """Keeps what a job found once more."""

    def change(self, shape: str, before: State, after: State) -> None:
        if shape == "move_job":
            for ident in after.facts.keys() - before.facts.keys():
                again = replace(after.facts[ident], id=FactId(after.next_id()))
                after.facts[again.id] = again


class Losing(Forgetting):
    """Ends jobs without what they found."""

    def change(self, shape: str, before: State, after: State) -> None:
        if shape == "move_job":
            after.facts = before.facts


class Uncapped(FaultyLedger):
    """Lets what works beside a session spend without end."""

    async def commit(self, work: Commit) -> Committed:
        is_side = (await self._now()).sessions[work.session].origin == Origin.SIDE
        if work.reserve is not None and is_side:
            usage = replace(work.reserve.usage, cost_usd=1.0)
            work = replace(work, reserve=replace(work.reserve, usage=usage, caps=Caps()))
        return await super().commit(work)


@pytest.mark.parametrize(
    ("broken", "theme", "noticed"),
    [
        (Fenceless, "at once", "committed to session|though its turn has ended"),
        (Keyless, "crashes", "does not acknowledge it"),
        (Unacknowledging, "crashes", "does not acknowledge it"),
        (Untaking, "everything", "stored as well|stored twice"),
        (Repeating, "everything", "stored as well|stored twice|told"),
        (Mixing, "memory", "holds what is somebody else's"),
        (Traceless, "memory", "is there again|before something was forgotten"),
        (Unfrozen, "memory", "a prompt is kept that holds"),
        (Doubling, "memory", "remembered twice"),
        (Losing, "memory", "facts that are lost"),
        (Uncapped, "at once", "spent"),
    ],
)
def test_a_broken_promise_is_noticed(broken: type[FaultyLedger], theme: str, noticed: str) -> None:
    """Within a few seeds, and for the promise that is broken."""
    found = next(
        (run.broken for seed in range(SEEDS_MAX) if (run := run_seed(seed, broken, theme)).broken), None
    )
    assert found is not None
    assert any(words in found for words in noticed.split("|")), found
