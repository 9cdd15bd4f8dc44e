"""Facts: kept once, superseded, and forgotten with all that held their words."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import asdict, replace

from clew.adapters.stores.memory.opening import write_op
from clew.adapters.stores.memory.state import State
from clew.domain.conversation.ids import FactId, MessageId, PrincipalId, SessionId
from clew.domain.ledger.errors import HeadMoved
from clew.domain.ledger.rows import JobState, OpKind, Origin, SessionRow
from clew.domain.memory.facts import EXTRACT, FACTS_MAX, Fact, NewFact, Trace, admitted
from clew.domain.memory.recall import line, without
from clew.domain.turn.prefix import digested


def facts(state: State, principal: PrincipalId, session: SessionId | None = None) -> tuple[Fact, ...]:
    row = None if session is None else state.sessions.get(session)
    if session is not None and (row is None or not _is_theirs(state, principal, row.owner)):
        return ()
    return tuple(fact for fact in state.facts.values() if _is_theirs(state, principal, fact.owner))


def keep_facts(state: State, principal: PrincipalId, new: tuple[NewFact, ...], at: int) -> tuple[Fact, ...]:
    who = state.joined.get(principal, principal)
    traces = [trace for owner, trace in state.forgotten.values() if _is_theirs(state, who, owner)]
    kept: list[Fact] = []
    for each in new:
        known = facts(state, who)
        fact = admitted(known, traces, each)
        if isinstance(fact, NewFact) and len(known) < FACTS_MAX:
            row = asdict(fact)
            del row["by_person"]
            fact = Fact(**row, id=FactId(state.next_id()), owner=who, created_at=at)
            state.facts[fact.id] = fact
        if isinstance(fact, Fact):
            kept.append(fact)
    return tuple(kept)


def forget_facts(
    state: State,
    principal: PrincipalId,
    ids: tuple[FactId, ...],
    traces: tuple[Trace, ...],
    at: int,
) -> None:
    known = {fact.id: fact for fact in facts(state, principal)}
    followed = any(fact.supersedes in ids and fact.id not in ids for fact in known.values())
    if followed or not set(ids) <= set(known):
        raise HeadMoved("This was changed meanwhile.")
    upto = max((message.id for message in state.messages.values()), default=MessageId(0))
    for trace in traces:
        state.forgotten[state.next_id()] = (principal, replace(trace, upto=upto))
    drop(state, [known[ident] for ident in ids], principal, at)
    for job in list(state.jobs.values()):
        if job.kind == EXTRACT and job.state == JobState.QUEUED and _is_theirs(state, principal, job.owner):
            state.jobs[job.id] = replace(job, state=JobState.CANCELLED, lease_owner=None)


def forgotten_upto(state: State, principal: PrincipalId) -> MessageId:
    who = state.joined.get(principal, principal)
    there = (trace.upto for owner, trace in state.forgotten.values() if _is_theirs(state, who, owner))
    return max(there, default=MessageId(0))


def drop(state: State, doomed: Iterable[Fact], actor: PrincipalId, at: int) -> None:
    """Others may stand in their place in their chain."""
    for fact in sorted(doomed, key=lambda fact: -fact.id):
        gone = state.facts.pop(fact.id)
        for after in list(state.facts.values()):
            if after.supersedes == fact.id:
                state.facts[after.id] = replace(after, supersedes=gone.supersedes)
        _refreeze(state, fact, actor, at)


def quiet_sessions(state: State, kind: str, since: int, until: int) -> tuple[SessionRow, ...]:
    named = {job.key for job in state.jobs.values() if job.kind == kind}
    return tuple(
        row for row in state.sessions.values()
        if since <= row.last_active_at <= until and row.handle.head.seq and row.id not in state.purged and not row.temporary
        and row.origin not in (Origin.SIDE, Origin.IMPORT)
        and f"{row.id}:{row.handle.head.branch}.{row.handle.head.seq}" not in named
    )[:20]  # fmt: skip


def _is_theirs(state: State, principal: PrincipalId, owner: PrincipalId) -> bool:
    return principal in (owner, state.joined.get(owner))


def _refreeze(state: State, fact: Fact, actor: PrincipalId, at: int) -> None:
    who = state.joined.get(fact.owner, fact.owner)
    said = f"\n{line(fact)}\n"
    held = {sha: prefix for sha, prefix in state.prefixes.items() if said in prefix.system_prompt}
    for row in list(state.sessions.values()):
        prefix = held.get(row.prefix or "")
        if prefix is not None and row.id not in state.purged and _is_theirs(state, who, row.owner):
            other = digested(without(prefix.system_prompt, fact), prefix.tools)
            if other == prefix:
                continue  # it stands elsewhere in it: in a project's instructions
            state.prefixes.setdefault(other.sha256, other)
            after = replace(row.handle, version=row.handle.version + 1)
            write_op(state, row.handle, after, OpKind.REFREEZE, actor=actor, at=at, key=None)
            state.sessions[row.id] = replace(state.sessions[row.id], prefix=other.sha256)
    used = {row.prefix for row in state.sessions.values()}
    for sha in held.keys() - used:
        del state.prefixes[sha]
