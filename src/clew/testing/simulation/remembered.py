"""What a run remembers of people: looks at every change of facts and jobs, and at every request that a fact is in.

Each fact's text holds a token, and the record knows whose it is. A token that is gone from the tables was forgotten, or
deleted with its session: from that moment on no request may hold it, and what was forgotten never comes back.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from clew.adapters.stores.memory.state import State
from clew.domain.conversation.ids import PrincipalId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.rows import JobRow, JobState, TurnState
from clew.domain.memory.facts import EXTRACT, Fact, standing
from clew.domain.models.request import ModelRequest, TextPart, UserTurn
from clew.testing.simulation.record import TOKEN, Record

OVERLAY = "<memory "
KNOWN = "<known>"


class Remembered:
    """One for all processes of a run."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._gone: dict[str, float] = {}
        """When each token left the tables."""
        self._forgotten: set[str] = set()
        self._found: dict[str, set[str]] = defaultdict(set)
        """By the job's key and attempt."""

    def found(self, attempt: str, tokens: Iterable[str]) -> None:
        """The model answered an attempt of a job with these facts, none of which takes another's place."""
        self._found[attempt].update(tokens)

    def wrote(self, before: State, after: State) -> None:
        if before.facts != after.facts:
            self._facts_changed(before, after)
        for ident, job in after.jobs.items():
            was = before.jobs.get(ident)
            if was is not None and was is not job:
                self._job_changed(was, job, before, after)

    def sent(self, owner: PrincipalId, request: ModelRequest, state: State, went_on_at: float) -> None:
        """A request leaves a process that went on at that time, if it stood still: then it could not know better."""
        now = asyncio.get_running_loop().time()
        told = {
            "in a prompt": [request.system],
            "recalled": _told(request, OVERLAY),
            "known": _told(request, KNOWN),
        }
        there = {token for fact in state.facts.values() for token in _tokens(fact)}
        for where, texts in told.items():
            tokens = {token for text in texts for token in TOKEN.findall(text) if token.startswith("fact")}
            if tokens:
                self._record.hit(f"memory: {where}")
            late = {t for t in tokens - there if self._gone.get(t, 0.0) < now and went_on_at < now}
            self._record.require(not late, f"a request of {owner} holds what was forgotten, {where}: {late}")

    def check_prompts(self, state: State, but: Collection[str] = ()) -> None:
        """No prompt that is kept holds what is not remembered any more."""
        there = {*but, *(token for fact in state.facts.values() for token in _tokens(fact))}
        for sha in {row.prefix or "" for row in state.sessions.values() if row.id not in state.purged}:
            held = set(TOKEN.findall(state.prefixes[sha].system_prompt)) if sha in state.prefixes else set()
            self._record.require(held <= there, f"a prompt is kept that holds {held - there}")

    def _facts_changed(self, before: State, after: State) -> None:
        record, now = self._record, asyncio.get_running_loop().time()
        new = [fact for ident, fact in after.facts.items() if ident not in before.facts]
        for fact in new:
            by = "a person" if fact.message is None else "a model" if fact.confidence == 0.9 else "a job"
            record.hit(f"memory: kept by {by}")
            if fact.supersedes is not None:
                record.hit("memory: superseded")
            for token in _tokens(fact):
                owner = record.owners[token]
                record.require(
                    owner == fact.owner, f"{fact.owner} is said to have {token}, which is {owner}'s"
                )
                record.require(token not in self._forgotten, f"{token} was forgotten, and is there again")
                self._gone.pop(token, None)
            too_old = fact.message is not None and fact.message <= _forgotten_upto(before, fact.owner)
            record.require(not too_old, f"{fact.text} was said before something was forgotten")
        for owner in {fact.owner for fact in new}:
            there = standing(fact for fact in after.facts.values() if fact.owner == owner)
            twice = [text for text, times in Counter(fact.text for fact in there).items() if times > 1]
            record.require(not twice, f"remembered twice: {twice}")
        forgetting = {who for ident, (who, _) in after.forgotten.items() if ident not in before.forgotten}
        for ident, fact in before.facts.items():
            if ident in after.facts:
                continue
            record.hit("memory: forgotten" if forgetting else "memory: deleted with its session")
            if forgetting:
                record.require(forgetting == {fact.owner}, f"{forgetting} forgot a fact of {fact.owner}")
                self._forgotten.update(_tokens(fact))
            self._gone.update(dict.fromkeys(_tokens(fact), now))
        if forgetting:
            self._check_moment(forgetting, before, after)

    def _check_moment(self, who: set[PrincipalId], before: State, after: State) -> None:
        """What went on as something was forgotten; the prompts that were kept until now were frozen without it."""
        runs = {t.session for t in before.turns.values() if t.state == TurnState.RUNNING}
        looks = [
            j for j in before.jobs.values() if j.state == JobState.QUEUED and j.lease_owner and j.owner in who
        ]
        if any(before.sessions[session].owner in who for session in runs):
            self._record.hit("memory: forgotten while a turn runs")
        if looks:
            self._record.hit("memory: forgotten while it is looked for")
        there = {token for fact in before.facts.values() for token in _tokens(fact)}
        self.check_prompts(
            after, self._gone.keys() - there
        )  # a turn that begins may not know yet what was forgotten before

    def _job_changed(self, was: JobRow, job: JobRow, before: State, after: State) -> None:
        record = self._record
        record.require(was.state == JobState.QUEUED, f"job {job.key} was {was.state} and is {job.state}")
        if was.lease_owner is not None and job.lease_owner not in (None, was.lease_owner):
            record.hit("job: taken over")
        elif job.state == JobState.QUEUED and job.error is not None and job.error != was.error:
            record.hit("job: put off")
        elif job.state != JobState.QUEUED:
            record.hit(f"job: {job.kind} {job.state}")
        if (job.kind, job.state) == (EXTRACT, JobState.DONE) and job.session not in after.purged:
            upto = _forgotten_upto(before, job.owner)
            old = {fact_in(m.text) for m in after.messages.values() if m.id <= upto and m.role == Role.USER}
            there = {token for fact in after.facts.values() for token in _tokens(fact)}
            found = self._found[f"{job.key}-{was.attempts}"]
            lost = found - there - old - set(self._gone)
            record.require(not lost, f"job {job.key} found facts that are lost: {lost}")
            record.hit(f"memory: a job brought {'facts' if found else 'nothing'}")


def fact_in(words: str) -> str:
    """The token of the one fact that there is in what a person said."""
    return f"fact-w{words.split('-')[1]}-end"


def _tokens(fact: Fact) -> list[str]:
    return TOKEN.findall(fact.text)


def _forgotten_upto(state: State, owner: PrincipalId) -> int:
    return max((trace.upto for who, trace in state.forgotten.values() if who == owner), default=0)


def _told(request: ModelRequest, begins: str) -> list[str]:
    """What was told by a part that begins like this, and for what is known already: to its end."""
    texts = [
        p.text
        for m in request.messages
        if isinstance(m, UserTurn)
        for p in m.parts
        if isinstance(p, TextPart)
    ]
    return [text.partition("</known>")[0] for text in texts if text.startswith(begins)]
