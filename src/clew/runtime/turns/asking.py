"""May this call run? By the session's mode, by what was decided before, or by asking the person, one question at a time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from clew.domain.conversation.ids import ApprovalId
from clew.domain.conversation.messages import ToolCall
from clew.domain.ledger.commits import SessionPatch
from clew.domain.ledger.errors import LedgerError, Refused
from clew.domain.ledger.rows import ApprovalState
from clew.domain.tools.session_settings import read_settings, write_settings
from clew.domain.turn.machine import Allowed, Deferred, Denied
from clew.runtime.ports.people import Approver, Consent, Question
from clew.runtime.turns.calls import CallDesk
from clew.runtime.turns.job import Means, TurnJob
from clew.runtime.turns.keeping import TimeLimit
from clew.runtime.turns.recording import Recorder

LOOK_SECONDS = 2.0
"""How often the ledger is asked whether a question was answered in another process."""
REFUSED = "The person refused this call."
TOO_LATE = "The approval of this call expired before it was given."
Verdict = Allowed | Denied | Deferred


class Asking:
    """Finds a verdict for each call of a turn. `waiting` names the approvals that nobody was there to give."""

    def __init__(  # noqa: PLR0917
        self,
        means: Means,
        job: TurnJob,
        desk: CallDesk,
        recorder: Recorder,
        approver: Approver,
        limit: TimeLimit,
    ) -> None:
        self.waiting: list[ApprovalId] = []
        self._means = means
        self._job = job
        self._desk = desk
        self._recorder = recorder
        self._approver = approver
        self._limit = limit
        self._one_at_a_time = asyncio.Lock()

    async def verdict(self, call: ToolCall) -> Verdict:
        if not self._desk.needs_approval(call):
            return Allowed(call.id)
        async with self._one_at_a_time:
            if not self._desk.needs_approval(call):
                return Allowed(call.id)  # the answer to the question before was for the whole session
            pending: ApprovalId | None = None
            for row in await self._means.ledger.approvals(self._job.principal, self._job.session, call.id):
                if row.state == ApprovalState.DENIED:
                    return Denied(call.id, REFUSED)
                if row.expires_at <= self._means.clock.now_ms():
                    continue  # what was allowed too long ago is asked again
                if row.state == ApprovalState.APPROVED:
                    return Allowed(call.id, row.id)
                if row.state == ApprovalState.PENDING:
                    pending = row.id
            return await self._ask(call, pending or await self._recorded(call))

    async def ask(self, question: Question) -> Consent | None:
        """A question of somebody who works for this turn; its answer is theirs to record."""
        async with self._one_at_a_time:
            with self._limit.standing_still():
                return await self._approver.ask(question)

    async def _recorded(self, call: ToolCall) -> ApprovalId:
        """The question as a row, before anybody is asked."""
        approval = ApprovalId(self._means.chance.token(8))
        expires = self._means.clock.now_ms() + int(self._means.settings.approval_expires_seconds * 1000)
        await self._recorder.ask(call, approval, expires)
        return approval

    async def _ask(self, call: ToolCall, approval: ApprovalId) -> Verdict:
        line = self._desk.line(call)
        question = Question(
            session=self._job.session,
            approval=approval,
            call=call.id,
            name=call.name,
            line=line,
            arguments=call.arguments,
        )
        with self._limit.standing_still():
            consent = await self._consent(question)
        if consent is None:
            self.waiting.append(approval)
            return Deferred(call.id)
        now = self._means.clock.now_ms()
        state = ApprovalState.DENIED if consent == Consent.NO else ApprovalState.APPROVED
        try:
            await self._means.ledger.decide(self._job.principal, approval, state, now)
        except Refused:
            return await self._settled_meanwhile(call, approval)
        if consent == Consent.NO:
            return Denied(call.id, REFUSED)
        if consent == Consent.SESSION:
            await self._allow_for_session(call.name)
        return Allowed(call.id, approval)

    async def _consent(self, question: Question) -> Consent | None:
        """The answer of whoever is asked here, who is not asked any longer once somebody answered elsewhere, or too late."""
        asking = asyncio.timeout(None)
        looking = asyncio.create_task(self._look(question, asking))
        try:
            async with asking:
                return await self._approver.ask(question)
        except TimeoutError:
            if not asking.expired():
                raise
            return Consent.NO  # refused by the ledger: what it has counts
        finally:
            looking.cancel()

    async def _look(self, question: Question, asking: asyncio.Timeout) -> None:
        """Ends the asking once the approval is settled, or too old."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with suppress(LedgerError):  # it cannot be read just now: looked at again
                rows = await self._means.ledger.approvals(
                    self._job.principal, self._job.session, question.call
                )
                row = next(row for row in rows if row.id == question.approval)
                if row.state != ApprovalState.PENDING or row.expires_at <= self._means.clock.now_ms():
                    asking.reschedule(asyncio.get_running_loop().time())
                    return

    async def _settled_meanwhile(self, call: ToolCall, approval: ApprovalId) -> Verdict:
        """The first decision counts, wherever it was made; one that comes too late is none."""
        for row in await self._means.ledger.approvals(self._job.principal, self._job.session, call.id):
            if row.id == approval and row.state == ApprovalState.APPROVED:
                return Allowed(call.id, approval)
            if row.id == approval and row.state == ApprovalState.DENIED:
                return Denied(call.id, REFUSED)
        return Denied(call.id, TOO_LATE)

    async def _allow_for_session(self, name: str) -> None:
        """Changes what the settings are now: they may have been changed since the turn began."""
        self._desk.allow_for_session(name)
        row = await self._means.ledger.session(self._job.principal, self._job.session)
        settings = read_settings(row.settings)
        allow = tuple(sorted({*settings.allow, name}))
        changed = msgspec.structs.replace(settings, allow=allow)
        await self._recorder.patch(SessionPatch(settings=write_settings(changed)))
