"""One person on WhatsApp under several ids: one name, which never changes and is never given to another."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.domain.routing.one_person import Met, address, is_number, met, spelled


class Book:
    """What a ledger keeps."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    def known(self, ids: Sequence[str]) -> dict[str, str]:
        names = {*ids, *(self.rows[i] for i in ids if i in self.rows)}
        return {ident: name for ident, name in self.rows.items() if name in names}

    def meet(self, *ids: str, preferred: Sequence[str] = ()) -> str:
        found = met(ids, self.known([*map(spelled, ids)]), preferred)
        self.rows |= dict.fromkeys(found.also, found.name)
        return found.name

    def address(self, name: str) -> str:
        return address(name, self.known([name]))


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("4917012345678", "4917012345678"),
        ("+49 170 1234-5678", "4917012345678"),
        ("0049 (170) 12345678", "4917012345678"),
        ("4917012345678@s.whatsapp.net", "4917012345678"),
        ("4917012345678:12@s.whatsapp.net", "4917012345678"),
        ("4917012345678@c.us", "4917012345678"),
        ("123456789012345@lid", "123456789012345@lid"),
        ("123456789012345:3@LID", "123456789012345@lid"),
        (" us.13491208655302741918 ", "US.13491208655302741918"),
        ("US.ENT.11815799212886844830", "US.ENT.11815799212886844830"),
        ("somebody else", "somebody else"),
    ],
)
def test_an_id_has_one_spelling(written: str, plain: str) -> None:
    """However a number is written in an allow list, or by another program; a lid's digits are no number."""
    assert spelled(written) == plain


@given(st.text(max_size=30) | st.from_regex(r"\+?[0-9 ()-]{3,20}(@lid|@c\.us)?", fullmatch=True))
def test_the_spelling_of_a_spelling_is_itself(written: str) -> None:
    """Kept ids are found again."""
    assert spelled(spelled(written)) == spelled(written)


NUMBERS = ("4911", "4922", "4933")
OWN = ("US.1", "US.2", "US.3")
LIDS = ("71@lid", "72@lid", "73@lid")


@st.composite
def sightings(draw: st.DrawFn) -> list[tuple[int, tuple[str, ...]]]:
    """Three people, each seen first with all ids, then with some of them in any spelling."""
    seen: list[tuple[int, tuple[str, ...]]] = [
        (who, (NUMBERS[who], OWN[who], LIDS[who])) for who in draw(st.permutations(range(3)))
    ]
    for who in draw(st.lists(st.integers(0, 2), max_size=20)):
        number = draw(st.sampled_from([NUMBERS[who], f"+{NUMBERS[who]}", f"{NUMBERS[who]}:2@s.whatsapp.net"]))
        ids = draw(st.lists(st.sampled_from([number, OWN[who], LIDS[who]]), min_size=1, unique=True))
        seen.append((who, tuple(ids)))
    return seen


@given(sightings())
def test_whoever_was_seen_with_all_ids_is_known_by_each(seen: list[tuple[int, tuple[str, ...]]]) -> None:
    """Whatever a later message shows, in whatever order: one name each, and never that of another."""
    book = Book()
    names = [(who, book.meet(*ids)) for who, ids in seen]
    assert len(set(names)) == 3
    assert {name for _, name in names} == set(NUMBERS)


@given(st.lists(st.tuples(st.sampled_from(OWN), st.sampled_from([*NUMBERS, ""])), min_size=1, max_size=30))
def test_an_id_of_their_own_is_theirs_for_good(seen: list[tuple[str, str]]) -> None:
    """Numbers go from hand to hand; nobody's name changes, nobody gets another's, and a number alone is whose it was last."""
    book, named = Book(), dict[str, str]()
    for own, number in seen:
        name = book.meet(own, *filter(None, [number]))
        assert named.setdefault(own, name) == name
        assert len(set(named.values())) == len(named)
        if number:
            assert book.meet(number) == name
            assert book.address(name) in (number, own)
    for own, name in named.items():
        to = book.address(name)
        assert to == own or book.meet(to) == name


def test_a_number_first_and_an_own_id_later_is_one_person() -> None:
    """As with everybody who was known before there were such ids; and a hidden number changes nothing."""
    book = Book()
    assert book.meet("4911") == book.meet("US.1", "4911") == book.meet("US.1") == "4911"
    assert book.address("4911") == "4911"
    assert book.meet("US.9") == "US.9"
    assert book.address("US.9") == "US.9"
    assert book.meet("US.9", "4999") == "US.9"
    assert book.meet("+4999") == "US.9"
    assert book.address("US.9") == "4999"


def test_a_number_that_was_given_to_another_is_no_way_to_whoever_had_it() -> None:
    """Neither reads the other's conversation, and what is for the first does not go to the second."""
    book = Book()
    assert book.meet("4911", "US.1") == "4911"
    assert book.meet("4911", "US.2") == "US.2"
    assert book.meet("4911") == "US.2"
    assert book.meet("US.1") == "4911"
    assert (book.address("4911"), book.address("US.2")) == ("US.1", "4911")


def test_the_id_of_the_settings_is_the_name() -> None:
    """So that whoever is allowed by one id is, whatever else is shown."""
    assert met(["4911", "US.1"], {}, {"US.1"}) == Met(name="US.1", also=("4911", "US.1"))
    assert is_number(met(["US.1", "4911"], {}).name)
