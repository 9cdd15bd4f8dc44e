"""What is remembered: kept once, never older over newer, nobody else's, and forgotten with all that held its words."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.ledger.commits import MoveJob, NewJob, Note, SessionPatch
from clew.domain.ledger.errors import HeadMoved
from clew.domain.ledger.rows import JobState, OpKind, Prefix
from clew.domain.memory.facts import EXTRACT, FACTS_MAX, Fact, Kind, NewFact, Trace, chain, standing, trace_of
from clew.domain.memory.recall import core_text
from clew.domain.turn.prefix import digested
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, Reopen
from clew.testing.contracts.ledger_people import LAPTOP, PHONE, linked, paired
from clew.testing.ledgers import ANN, BOB, START_MS, begin, do, say, session_id

LATE = START_MS + 5000


def a_fact(text: str, **rest: Any) -> NewFact:
    return replace(NewFact(kind=Kind.USER, text=text, said_at=START_MS), **rest)


async def forget(ledger: Ledger, fact: Fact) -> None:
    """The whole chain, as somebody who was shown its newest."""
    doomed = chain(await ledger.facts(fact.owner), fact.id)
    traces = tuple(Trace(salt="s", sha256=trace_of(each.text, "s")) for each in doomed)
    await ledger.forget_facts(fact.owner, tuple(each.id for each in doomed), traces, LATE)


async def said(ledger: Ledger, who: PrincipalId = ANN) -> list[str]:
    return [fact.text for fact in standing(await ledger.facts(who))]


def extracting(session: SessionId, upto: str = "1.1", **rest: Any) -> NewJob:
    new = NewJob(kind=EXTRACT, key=f"{session}:{upto}", owner=ANN, session=session, next_at=START_MS)
    return replace(new, **rest)


def frozen(*facts: Fact) -> Prefix:
    return digested("\n".join(["You help.\n", *([core_text(facts)] if facts else [])]), "[]")


class FactContract(LedgerCase):
    """Facts of people and their work."""

    async def test_a_fact_is_kept_once(self, ledger: Ledger, reopen: Reopen) -> None:
        """With its source; the same words again are the same fact, whoever says them."""
        handle = await say(ledger, await begin(ledger), "I drink tea")
        (message,) = await ledger.path(ANN, handle.session)
        new = a_fact("Drinks tea", session=handle.session, message=message.id, confidence=0.8)
        (fact,) = await ledger.keep_facts(ANN, (new,), LATE)
        assert (fact.owner, fact.session, fact.message, fact.said_at, fact.created_at) == (
            ANN, handle.session, message.id, START_MS, LATE,
        )  # fmt: skip
        assert await ledger.keep_facts(ANN, (a_fact("drinks TEA!", said_at=LATE),), LATE) == (fact,)
        assert await (await reopen()).facts(ANN) == (fact,)

    async def test_a_fact_is_its_owners(self, ledger: Ledger) -> None:
        """In no list of another's and in no session of theirs, also where they may write; nobody else forgets it."""
        handle, other = await begin(ledger), await begin(ledger, 2, owner=BOB)
        (fact,) = await ledger.keep_facts(ANN, (a_fact("Lives in Rome"),), LATE)
        await ledger.keep_facts(BOB, (a_fact("Lives in Oslo"),), LATE)
        assert [f.text for f in await ledger.facts(ANN, handle.session)] == ["Lives in Rome"]
        assert [f.text for f in await ledger.facts(BOB, other.session)] == ["Lives in Oslo"]
        await ledger.share(ANN, handle.session, BOB, "write")
        assert await ledger.facts(BOB, handle.session) == ()
        with pytest.raises(HeadMoved):
            await ledger.forget_facts(BOB, (fact.id,), (), LATE)

    async def test_who_joins_somebody_brings_their_facts(self, ledger: Ledger) -> None:
        """What either said is the same person's; what is said later is kept as theirs."""
        handle = await begin(ledger)
        await begin(ledger, 2, owner=BOB)
        await paired(ledger, PHONE, ANN)
        await paired(ledger, LAPTOP, BOB)
        await ledger.keep_facts(BOB, (a_fact("Lives in Oslo"),), LATE)
        await linked(ledger, PHONE, LAPTOP)
        (fact,) = await ledger.keep_facts(BOB, (a_fact("Has a cat"),), LATE)
        assert fact.owner == ANN
        assert await said(ledger) == ["Lives in Oslo", "Has a cat"]
        assert (
            len(await ledger.facts(ANN, handle.session)) == len(await ledger.facts(ANN, session_id(2))) == 2
        )
        await forget(ledger, replace((await ledger.facts(ANN))[0], owner=ANN))
        assert await said(ledger) == ["Has a cat"]

    async def test_older_never_takes_the_place_of_newer(self, ledger: Ledger) -> None:
        """A fact supersedes what was said before it, through however many; what was said earlier is not kept any more."""
        await begin(ledger)
        (rome,) = await ledger.keep_facts(ANN, (a_fact("Lives in Rome"),), LATE)
        oslo = a_fact("Lives in Oslo", supersedes=rome.id, said_at=START_MS + 10)
        (oslo_now,) = await ledger.keep_facts(ANN, (oslo,), LATE)
        late = a_fact("Lives in Paris", supersedes=rome.id, said_at=START_MS + 5)
        assert await ledger.keep_facts(ANN, (late, a_fact("Lives in Rome")), LATE) == ()
        (kyiv,) = await ledger.keep_facts(
            ANN, (replace(late, text="Lives in Kyiv", said_at=START_MS + 20),), LATE
        )
        assert kyiv.supersedes == oslo_now.id
        assert await said(ledger) == ["Lives in Kyiv"]
        unknown = replace(late, supersedes=replace(kyiv, id=kyiv.id + 99).id)
        assert await ledger.keep_facts(ANN, (unknown,), LATE) == ()

    async def test_there_is_room_for_so_many(self, ledger: Ledger) -> None:
        """What is over the limit is not kept; those that are known still stand."""
        await begin(ledger)
        many = tuple(a_fact(f"Fact {n}") for n in range(FACTS_MAX + 1))
        assert len(await ledger.keep_facts(ANN, many, LATE)) == FACTS_MAX
        assert len(await ledger.keep_facts(ANN, many[:2], LATE)) == 2

    async def test_a_job_brings_facts(self, ledger: Ledger) -> None:
        """In the transaction that ends it: whoever lost the job keeps nothing."""
        handle = await begin(ledger)
        row = await ledger.add_job(extracting(handle.session), most=9)
        move = MoveJob(
            job=row,
            state=JobState.DONE,
            at=LATE,
            payload="",
            next_at=row.next_at,
            facts=(a_fact("Drinks tea"),),
        )
        assert await ledger.move_job(move)
        assert not await ledger.move_job(replace(move, facts=(a_fact("Drinks beer"),)))
        assert await said(ledger) == ["Drinks tea"]
        assert [job.key for job in await ledger.done_jobs(EXTRACT, handle.session)] == [row.key]

    async def test_what_is_forgotten_is_gone(self, ledger: Ledger, reopen: Reopen) -> None:
        """With what it had superseded; neither its words come back, nor anything that was said until then, but by the person."""
        handle = await say(ledger, await begin(ledger), "I like rum")
        (message,) = await ledger.path(ANN, handle.session)
        (rum,) = await ledger.keep_facts(ANN, (a_fact("Likes rum"),), LATE)
        (gin,) = await ledger.keep_facts(ANN, (a_fact("Likes gin", supersedes=rum.id),), LATE)
        waiting = await ledger.add_job(extracting(handle.session), most=9)
        with pytest.raises(HeadMoved):
            await ledger.forget_facts(ANN, (rum.id,), (), LATE)
        assert await ledger.forgotten_upto(ANN) == 0
        await forget(ledger, gin)
        for each in (ledger, await reopen()):
            assert (await each.forgotten_upto(ANN), await each.forgotten_upto(BOB)) == (message.id, 0)
            assert await each.facts(ANN) == ()
            assert await each.due_jobs(EXTRACT, None, LATE) == ()
            assert not await each.move_job(
                MoveJob(job=waiting, state=JobState.DONE, at=LATE, payload="", next_at=waiting.next_at)
            )
            again = (
                a_fact("The user likes GIN"),
                a_fact("Likes a rum."),
                a_fact("Whatever", message=message.id),
            )
            assert await each.keep_facts(ANN, again, LATE) == ()
        assert len(await ledger.keep_facts(ANN, (a_fact("Likes gin", by_person=True),), LATE)) == 1
        assert len(await ledger.keep_facts(BOB, (a_fact("Likes rum"),), LATE)) == 1

    async def test_forgetting_refreezes_the_prompts_that_held_it(self, ledger: Ledger) -> None:
        """As an audited op that moves no head; prompts of others that say the same stay, and its own are gone."""
        handle, other = await begin(ledger), await begin(ledger, 2, owner=BOB)
        (rum, tea) = await ledger.keep_facts(ANN, (a_fact("Likes rum"), a_fact("Likes tea")), LATE)
        handle = await do(
            ledger, handle, op=Note(kind=OpKind.REFREEZE), patch=SessionPatch(prefix=frozen(rum, tea))
        )
        bobs = frozen(rum)
        await do(ledger, other, actor=BOB, op=Note(kind=OpKind.REFREEZE), patch=SessionPatch(prefix=bobs))
        await forget(ledger, rum)
        row = await ledger.session(ANN, handle.session)
        assert (row.prefix, row.handle.head) == (frozen(tea).sha256, handle.head)
        (op,) = await ledger.ops(ANN, handle.session, limit=1)
        assert (op.kind, op.version) == (OpKind.REFREEZE, handle.version + 1)
        assert (await ledger.session(BOB, other.session)).prefix == bobs.sha256
        await forget(ledger, tea)
        assert (await ledger.session(ANN, handle.session)).prefix == frozen().sha256
        prefix = await ledger.prefix(ANN, handle.session)
        assert prefix == frozen()

    async def test_facts_go_with_the_session_they_were_said_in(self, ledger: Ledger) -> None:
        """From prompts of other sessions too; what a person had kept by a command, and what stands in its place, stays."""
        handle, other = await begin(ledger), await begin(ledger, 2)
        (tea, rome) = await ledger.keep_facts(
            ANN, (a_fact("Drinks tea"), a_fact("Lives in Rome", session=handle.session)), LATE
        )
        oslo = a_fact("Lives in Oslo", session=other.session, supersedes=rome.id, said_at=LATE)
        await ledger.keep_facts(ANN, (oslo,), LATE)
        await do(ledger, other, op=Note(kind=OpKind.REFREEZE), patch=SessionPatch(prefix=frozen(tea, rome)))
        await ledger.forget(ANN, handle.session, LATE)
        assert await said(ledger) == ["Drinks tea", "Lives in Oslo"]
        assert [fact.supersedes for fact in await ledger.facts(ANN)] == [None, None]
        assert (await ledger.session(ANN, other.session)).prefix == frozen(tea).sha256

    async def test_quiet_sessions_are_found_once(self, ledger: Ledger) -> None:
        """Those in which something was said then, and for whose head no job is kept."""
        await begin(ledger)
        handle = await say(ledger, await begin(ledger, 2), "hello")
        row = await ledger.session(ANN, handle.session)
        at = row.last_active_at
        assert await ledger.quiet_sessions(EXTRACT, at, at) == (row,)
        assert await ledger.quiet_sessions(EXTRACT, at + 1, at + 2) == ()
        head = f"{handle.head.branch}.{handle.head.seq}"
        await ledger.add_job(extracting(handle.session, head), most=9)
        assert await ledger.quiet_sessions(EXTRACT, at, at) == ()
