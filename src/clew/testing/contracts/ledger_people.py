"""What a store promises about who is who: accounts, pairing and linking codes, roles."""

from __future__ import annotations

import pytest

from clew.domain.conversation.ids import LOCAL, ApprovalId, PrincipalId
from clew.domain.ledger.errors import NotFound, Refused
from clew.domain.ledger.rows import ApprovalState, Person
from clew.domain.routing.pairing import Account, Pairing, Shown
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase
from clew.testing.contracts.ledger_isolation import anns_session, asking_session
from clew.testing.invariants import check_hidden
from clew.testing.ledgers import ANN, BOB, CLEO, EVE, START_MS, begin, found, say, texts

LATE = START_MS + 1_000_000_000
PHONE = Account("telegram", "42")
LAPTOP = Account("matrix", "@ann:example.org")
OTHER = Account("telegram", "66")


async def paired(ledger: Ledger, account: Account, who: PrincipalId) -> None:
    code = f"{account.platform} {account.external_id} {who}"
    await ledger.offer_pairing(code, who, LATE)
    await ledger.pair(code, account, START_MS)


async def linked(ledger: Ledger, first: Account, second: Account, code: str = "link") -> Pairing:
    """Both show a code, and the second one is sure."""
    code = f"{first} {second} {code}"
    await ledger.offer_link(code, None, LATE)
    assert (await ledger.pair(code, first, START_MS)).shown == Shown.NOTED
    assert (await ledger.pair(code, second, START_MS)).shown == Shown.ASKS
    return await ledger.pair(code, second, START_MS, sure=True)


async def who(ledger: Ledger, account: Account) -> PrincipalId | None:
    return await ledger.identified(account.platform, account.external_id)


class PairingContract(LedgerCase):
    """One person, several accounts."""

    async def test_a_code_is_spent_once(self, ledger: Ledger) -> None:
        """Whoever shows it first becomes an account of its person; a second time it is nothing."""
        assert not await ledger.pairing_is_open(START_MS)
        await ledger.offer_pairing("c0de", ANN, LATE)
        assert await ledger.pairing_is_open(START_MS)
        assert await who(ledger, PHONE) is None
        assert await ledger.pair("c0de", PHONE, START_MS) == Pairing(shown=Shown.PAIRED, principal=ANN)
        assert not await ledger.pairing_is_open(START_MS)
        assert await who(ledger, PHONE) == ANN
        assert await ledger.identified("matrix", "42") is None
        with pytest.raises(NotFound):
            await ledger.pair("c0de", OTHER, START_MS)
        assert await who(ledger, OTHER) is None

    async def test_a_code_expires(self, ledger: Ledger) -> None:
        """At its time it is over; one that never was is refused in the same way."""
        await ledger.offer_pairing("c0de", ANN, START_MS)
        await ledger.offer_link("link", ANN, START_MS)
        assert not await ledger.pairing_is_open(START_MS)
        for code in ("c0de", "link", "other"):
            with pytest.raises(NotFound):
                await ledger.pair(code, PHONE, START_MS)

    async def test_the_newest_pairing_counts(self, ledger: Ledger) -> None:
        """Somebody who is paired again is the new person from then on."""
        await paired(ledger, PHONE, ANN)
        await paired(ledger, PHONE, BOB)
        assert await who(ledger, PHONE) == BOB

    async def test_an_account_is_taken_back(self, ledger: Ledger) -> None:
        """From then on it is nobody's; other accounts of the person stay."""
        await paired(ledger, PHONE, ANN)
        await paired(ledger, LAPTOP, ANN)
        assert await ledger.unpair(PHONE)
        assert not await ledger.unpair(PHONE)
        assert (await who(ledger, PHONE), await who(ledger, LAPTOP)) == (None, ANN)

    async def test_somebody_with_several_ids_is_known_by_each(self, ledger: Ledger) -> None:
        """On one platform; an id that passes on is the other's from then on, and its old owner keeps name and other ids."""
        await ledger.know_as("whatsapp", "49", ("49", "US.1"))
        await ledger.know_as("whatsapp", "US.3", ("US.3",))
        first = {"49": "49", "US.1": "49"}
        for ids in (("49",), ("US.1",), ("US.1", "nobody", "49")):
            assert await ledger.known_as("whatsapp", ids) == first
        assert (
            await ledger.known_as("whatsapp", ("nobody",)) == await ledger.known_as("signal", ("49",)) == {}
        )
        for _ in range(2):
            await ledger.know_as("whatsapp", "US.2", ("49", "US.2"))
        assert await ledger.known_as("whatsapp", ("US.2",)) == {"49": "US.2", "US.2": "US.2"}
        assert await ledger.known_as("whatsapp", ("49",)) == {"49": "US.2", "US.2": "US.2", "US.1": "49"}
        assert await ledger.known_as("whatsapp", ("US.1",)) == {"US.1": "49"}

    async def test_people_are_listed_with_their_accounts_and_roles(self, ledger: Ledger) -> None:
        """Groups are none; a role is given and taken back; the owner stays what it is."""
        await ledger.add_principal(PrincipalId("group:x"), "x", "group")
        await paired(ledger, PHONE, ANN)
        await paired(ledger, LAPTOP, ANN)
        await ledger.set_role(ANN, "admin")
        ann = Person(
            id=ANN, name="Ann", role="admin",
            accounts=(("matrix", "@ann:example.org"), ("telegram", "42")),
        )  # fmt: skip
        people = await ledger.people()
        assert [person.id for person in people] == sorted([ANN, BOB, CLEO, EVE, LOCAL])
        assert await ledger.person(ANN) == ann
        assert ann in people
        await ledger.set_role(ANN, "user")
        assert [person.role for person in await ledger.people() if person.id == ANN] == ["user"]
        for wrong in (LOCAL, PrincipalId("group:x")):
            with pytest.raises(Refused):
                await ledger.set_role(wrong, "user")
        with pytest.raises(Refused):
            await ledger.set_role(ANN, "owner")
        with pytest.raises(NotFound):
            await ledger.set_role(PrincipalId("nobody"), "admin")
        assert await ledger.person(PrincipalId("nobody")) is None


class LinkingContract(LedgerCase):
    """Two people who prove that they are one."""

    async def test_both_accounts_have_to_show_the_code(self, ledger: Ledger) -> None:
        """Neither the first, nor the second before it is sure, changes anything; repeated they say the same."""
        await paired(ledger, PHONE, ANN)
        await paired(ledger, LAPTOP, BOB)
        handle = await anns_session(ledger)
        await ledger.offer_link("c0de", None, LATE)
        for _ in range(2):
            for sure in (False, True):
                noted = await ledger.pair("c0de", PHONE, START_MS, sure=sure)
                assert noted == Pairing(shown=Shown.NOTED, principal=ANN)
        for _ in range(2):
            asked = await ledger.pair("c0de", LAPTOP, START_MS)
            assert asked == Pairing(shown=Shown.ASKS, principal=ANN, joined=BOB)
        assert await who(ledger, LAPTOP) == BOB
        await check_hidden(ledger, BOB, handle.session)
        assert await ledger.pairing_is_open(START_MS)

    async def test_a_stranger_begins_no_link(self, ledger: Ledger) -> None:
        """Whoever is not known shows the code second, and is then the one who showed it first; twice the same person is refused."""
        await paired(ledger, PHONE, ANN)
        await ledger.offer_link("c0de", None, LATE)
        with pytest.raises(Refused):
            await ledger.pair("c0de", OTHER, START_MS, sure=True)
        await ledger.pair("c0de", PHONE, START_MS)
        linked = await ledger.pair("c0de", OTHER, START_MS, sure=True)
        assert linked == Pairing(shown=Shown.LINKED, principal=ANN)
        assert await who(ledger, OTHER) == ANN
        await ledger.offer_link("again", None, LATE)
        await ledger.pair("again", PHONE, START_MS)
        with pytest.raises(Refused):
            await ledger.pair("again", OTHER, START_MS, sure=True)

    async def test_whoever_joined_is_read_written_and_deleted_by_the_other(self, ledger: Ledger) -> None:
        """Sessions keep their owners; lists, search, shares, approvals and deletion obey the one who stays; nobody else sees more."""
        await paired(ledger, PHONE, BOB)
        await paired(ledger, LAPTOP, ANN)
        handle = await asking_session(ledger)
        second = await say(ledger, await begin(ledger, 2), "a word about kiwis")
        foreign = await begin(ledger, 3, owner=CLEO)
        await ledger.share(CLEO, foreign.session, ANN, "read")
        await ledger.share(ANN, second.session, BOB, "read")
        own = await begin(ledger, 4, owner=BOB)
        assert await linked(ledger, PHONE, LAPTOP) == Pairing(shown=Shown.LINKED, principal=BOB, joined=ANN)
        assert (await who(ledger, PHONE), await who(ledger, LAPTOP)) == (BOB, BOB)
        seen = {row.id for row in await ledger.sessions(BOB)}
        assert seen == {handle.session, second.session, foreign.session, own.session}
        assert (await ledger.session(BOB, second.session)).owner == ANN
        assert await found(ledger, "kiwis", who=BOB) != []
        second = await say(ledger, second, "and another", actor=BOB)
        decided = await ledger.decide(BOB, ApprovalId("apv"), ApprovalState.APPROVED, START_MS)
        assert decided.decided_by == BOB
        for nobody in (EVE, CLEO):
            await check_hidden(ledger, nobody, second.session)
            await check_hidden(ledger, nobody, own.session)
        await check_hidden(ledger, ANN, own.session)
        await ledger.forget(BOB, second.session, START_MS)
        with pytest.raises(NotFound):
            await ledger.session(ANN, second.session)
        with pytest.raises(NotFound):
            await ledger.forget(BOB, foreign.session, START_MS)  # shared, and never theirs

    async def test_an_account_that_is_unlinked_begins_anew(self, ledger: Ledger) -> None:
        """Nothing that was said before is theirs, under no name they had, and nobody sees what they say now; also once they
        were linked again; and what they proved for a link before is no proof any more."""
        await paired(ledger, PHONE, BOB)
        await paired(ledger, LAPTOP, ANN)
        hers, his = await begin(ledger, 1), await begin(ledger, 2, owner=BOB)
        await linked(ledger, PHONE, LAPTOP)
        for turn, name in enumerate(("matrix:@ann:example.org", "matrix:@ann:example.org#2")):
            await ledger.offer_link(f"stale{turn}", None, LATE)
            await ledger.pair(f"stale{turn}", LAPTOP, START_MS)
            alone = await ledger.unlink(LAPTOP)
            assert (alone, await who(ledger, LAPTOP), await who(ledger, PHONE)) == (name, name, BOB)
            with pytest.raises(NotFound):
                await ledger.pair(f"stale{turn}", OTHER, START_MS, sure=True)
            for before in (hers, his):
                await check_hidden(ledger, alone, before.session)
                assert (await ledger.session(BOB, before.session)).id == before.session
            new = await begin(ledger, 3 + turn, owner=alone)
            for other in (ANN, BOB):
                await check_hidden(ledger, other, new.session)
            assert alone in {person.id for person in await ledger.people()}
            with pytest.raises(Refused):
                await ledger.unlink(LAPTOP)  # nobody else's any more
            await linked(ledger, PHONE, LAPTOP, f"again{turn}")
        with pytest.raises(NotFound):
            await ledger.unlink(OTHER)

    async def test_joining_goes_on_to_whom_one_joined(self, ledger: Ledger) -> None:
        """Ann joins Bob, Bob joins Cleo: Cleo is all three, and codes and lists know it."""
        for account, person in ((PHONE, ANN), (LAPTOP, BOB), (OTHER, CLEO)):
            await paired(ledger, account, person)
        handle = await say(ledger, await begin(ledger, 1), "ann's")
        await linked(ledger, LAPTOP, PHONE)
        await linked(ledger, OTHER, LAPTOP)
        assert {await who(ledger, account) for account in (PHONE, LAPTOP, OTHER)} == {CLEO}
        assert await texts(ledger, handle.session, who=CLEO) == ["ann's"]
        known = await ledger.person(ANN)
        assert known is not None
        assert (known.id, len(known.accounts)) == (CLEO, 3)
        assert {one.id for one in await ledger.people()} == {CLEO, EVE, LOCAL}
        new = Account("matrix", "@new:example.org")
        await paired(ledger, new, ANN)
        assert await who(ledger, new) == CLEO
        await ledger.forget(CLEO, handle.session, START_MS)

    async def test_whoever_has_the_terminal_stays(self, ledger: Ledger) -> None:
        """Shown in the terminal or second, the code makes the other person the owner, never the owner somebody else."""
        await paired(ledger, PHONE, ANN)
        handle = await say(ledger, await begin(ledger, 1), "ann's")
        await ledger.offer_link("c0de", LOCAL, LATE)
        assert (await ledger.pair("c0de", PHONE, START_MS)).shown == Shown.ASKS
        await ledger.pair("c0de", PHONE, START_MS, sure=True)
        assert await who(ledger, PHONE) == LOCAL
        assert await texts(ledger, handle.session, who=LOCAL) == ["ann's"]
        await paired(ledger, LAPTOP, BOB)
        assert await linked(ledger, LAPTOP, PHONE) == Pairing(shown=Shown.LINKED, principal=LOCAL, joined=BOB)
        assert (await who(ledger, PHONE), await who(ledger, LAPTOP)) == (LOCAL, LOCAL)

    async def test_somebody_whom_the_settings_name_is_linked_as_such(self, ledger: Ledger) -> None:
        """Who they are is said with the code; from then on it is kept."""
        named = PrincipalId("telegram:42")
        await ledger.add_principal(named, "Ann", "user")
        handle = await say(ledger, await begin(ledger, 1, owner=named), "hers", actor=named)
        await paired(ledger, LAPTOP, ANN)
        await ledger.offer_link("c0de", None, LATE)
        await ledger.pair("c0de", LAPTOP, START_MS)
        asked = await ledger.pair("c0de", PHONE, START_MS, known=named, sure=True)
        assert asked == Pairing(shown=Shown.LINKED, principal=ANN, joined=named)
        assert await who(ledger, PHONE) == ANN
        assert await texts(ledger, handle.session, who=ANN) == ["hers"]
