"""Search finds what stands on a living path, as soon as it is committed, whatever is typed."""

from __future__ import annotations

import pytest

from clew.domain.conversation.messages import Head, Role
from clew.domain.conversation.words import words
from clew.domain.ledger.commits import Append
from clew.domain.ledger.rows import OpKind, Order
from clew.domain.ledger.search import matches, parse
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase, Reopen
from clew.testing.ledgers import (
    ANN,
    add,
    assistant,
    begin,
    do,
    event,
    exchange,
    fork,
    found,
    move,
    redo,
    run_turn,
    say,
    tool_call,
    undo,
    user,
)

CORPUS = (
    "I don't know what you mean",
    "open src/app.py and src/main.py",
    "it is 50% done, 50 of 100",
    "this is a phrase that matters",
    "a phrase, but not this one: phrase a",
    "prefix preface prelude pretty pre",
    "nothing but not that",
    "我们在东京见面",
    "東京タワー is high",
    "안녕하세요 세계",
    "emoji 😀 rocket 🚀 here",
    "Café naïve ÜBER Straße",
    "AND OR NOT NEAR logic words",
    "a:b c^2 f(x) *star* \"quoted\" 'single'",
    "snake_case and camelCase __dunder__",
    "before\0after the NUL",
    "x" * 300,
    "e-mail ann@example.org or http://example.org/a?b=c",
    "",
)

TYPED = (
    "don't", "src/app.py", "50%", '"a phrase"', "-not", "phrase -not", "pre*", "pr*", "prefi*", "*", "**", "東京", "东京", "我们",
    "见面", "京", "세계", "😀", "rocket 🚀", "cafe", "CAFÉ", "naive", "uber", "strasse", "straße", '"unbalanced', 'a "b', '"', '""',
    "AND", "OR", "NOT", "AND OR", "NEAR(a b)", "NEAR", "a:b", "text:know", "scope : x", "c^2", "^prefix", "f(x)", "((", ")", "{text}",
    "snake_case", "snake", "case", "dunder", "before", "after", "be\0fore", "before\0after", "\0", "", " ", "-", "--", "-a -b", "+know",
    "know what", "what know", '"know what"', '"what know"', "phrase a", "ann@example.org", "example.org/a?b=c", "100 50", "'single'",
    "quoted\"", "\\", "'; DROP TABLE fts; --", "%", "_", "x" * 300, "x" * 299, "\u200d", "a\u0301", "1", "50 -100", "-50", 'not -"but not"',
    "word " * 200,
)  # fmt: skip


class SearchContract(LedgerCase):
    """Every string is a valid query, and every store gives it the same meaning."""

    @pytest.mark.parametrize("order", list(Order))
    async def test_any_typed_text_means_what_the_domain_says(self, ledger: Ledger, order: Order) -> None:
        """Quotes, operators, stars, minus, any script: never an error, and just the texts that match."""
        sent = tuple(user(text) for text in CORPUS)
        await do(ledger, await begin(ledger, 1), op=Append(messages=sent, turn=1))
        for typed in TYPED:
            query = parse(typed)
            meant = {n for n, text in enumerate(CORPUS, 1) if matches(query, words(text))}
            hits = await found(ledger, typed, order=order, limit=100)
            assert ({position for _, position in hits}, typed) == (meant, typed)
            assert len(hits) == len(meant)

    @pytest.mark.parametrize(
        ("typed", "position"),
        [
            ("don't", 1),
            ("src/app.py", 2),
            ("50%", 3),
            ('"a phrase"', 4),
            ("pre*", 6),
            ("我们", 8),
            ("东京", 8),
            ("東京", 9),
            ("cafe", 12),
            ("NEAR logic", 13),
            ("dunder", 15),
        ],
    )
    async def test_what_people_type_finds_what_they_mean(
        self, ledger: Ledger, typed: str, position: int
    ) -> None:
        """Apostrophes, paths, percent signs, phrases, prefixes, two-character words, accents."""
        await do(ledger, await begin(ledger, 1), op=Append(messages=tuple(map(user, CORPUS)), turn=1))
        positions = {each for _, each in await found(ledger, typed, limit=100)}
        assert position in positions
        assert len(positions) <= 3

    async def test_a_message_is_found_at_once(self, ledger: Ledger, reopen: Reopen) -> None:
        """As soon as its commit returned, from every open ledger, and after reopening."""
        other = await reopen()
        handle = await begin(ledger, 1)
        for number in range(1, 30):
            handle = await say(ledger, handle, f"word{number}")
            own = ledger if number % 2 else other
            assert await found(own, f"word{number}") == [(handle.session, number)]
        await ledger.close()
        assert await found(await reopen(), "word7") == [(handle.session, 7)]

    async def test_newest_first_is_the_order_of_arrival(self, ledger: Ledger) -> None:
        """Across sessions; a limit keeps the newest."""
        one, two = await begin(ledger, 1), await begin(ledger, 2)
        one = await say(ledger, one, "kiwi first")
        two = await say(ledger, two, "kiwi second")
        await say(ledger, one, "kiwi third")
        newest = await found(ledger, "kiwi", order=Order.NEWEST)
        assert newest == [(one.session, 2), (two.session, 1), (one.session, 1)]
        assert await found(ledger, "kiwi", order=Order.NEWEST, limit=2) == newest[:2]
        assert await found(ledger, "kiwi", order=Order.NEWEST, limit=0) == []

    async def test_ranked_puts_the_fitting_first(self, ledger: Ledger) -> None:
        """A short text full of the word comes before a long one that mentions it."""
        handle = await begin(ledger, 1)
        await say(ledger, handle, "kiwi kiwi kiwi", f"kiwi and {'other words ' * 100}")
        assert [position for _, position in await found(ledger, "kiwi")] == [1, 2]

    async def test_a_hit_says_where_and_what(self, ledger: Ledger) -> None:
        """Session, its title, position, role, time, and the words around the hit."""
        handle = await say(
            ledger, await begin(ledger, 1, title="Fruit"), "nothing", f"{'x ' * 300}a kiwi {'y ' * 300}"
        )
        message = (await ledger.path(ANN, handle.session))[1]
        (hit,) = (await ledger.search(ANN, "KIWI")).hits
        assert (hit.session, hit.title, hit.position) == (handle.session, "Fruit", 2)
        assert (hit.message, hit.role, hit.created_at) == (message.id, Role.USER, message.created_at)
        assert "kiwi" in hit.snippet
        assert len(hit.snippet) < 200

    async def test_tool_names_arguments_and_results_are_found(self, ledger: Ledger) -> None:
        """Also events; a word in the arguments leads to the assistant's message."""
        handle = await begin(ledger, 1)
        call = tool_call(handle, name="fetch_page")
        handle = await run_turn(ledger, handle, "go", tool_text="the page said pineapple")
        position = handle.head.seq + 1
        await add(ledger, handle, assistant("", call), event("process 77 ended with mango"))
        assert (handle.session, 3) in await found(ledger, "pineapple")
        assert await found(ledger, "fetch") == [(handle.session, position)]
        assert await found(ledger, "fetch_page") == [(handle.session, position)]
        assert (handle.session, position) in await found(ledger, '"n"')
        assert await found(ledger, "mango") == [(handle.session, position + 1)]

    async def test_what_was_undone_is_not_found(self, ledger: Ledger) -> None:
        """Redone, it is; of two branches only the one the head stands on; resumed, the other."""
        old = await exchange(ledger, await begin(ledger, 1), "apple", "kiwi")
        back = await undo(ledger, old)
        assert await found(ledger, "kiwi") == []
        assert len(await found(ledger, "apple")) == 2
        again = await redo(ledger, back)
        assert len(await found(ledger, "kiwi")) == 2
        handle = await exchange(ledger, await undo(ledger, again), "mango")
        assert (await found(ledger, "kiwi"), len(await found(ledger, "mango"))) == ([], 2)
        handle = await move(ledger, handle, OpKind.RESUME, old.head)
        assert (await found(ledger, "mango"), len(await found(ledger, "kiwi"))) == ([], 2)
        await move(ledger, handle, OpKind.RESUME, Head(old.head.branch, 1))
        assert await found(ledger, "apple") == [(old.session, 1)]

    async def test_what_is_shared_by_forks_is_found_once(self, ledger: Ledger) -> None:
        """In the session it was said in; undone there, in the fork that still holds it; undone in both, nowhere."""
        parent = await exchange(ledger, await begin(ledger, 1, title="parent"), "apple", "kiwi")
        child = await fork(ledger, parent, 2, title="child")
        assert {session for session, _ in await found(ledger, "kiwi")} == {parent.session}
        assert len(await found(ledger, "kiwi")) == 2
        await undo(ledger, parent)
        (hit, _) = (await ledger.search(ANN, "kiwi")).hits
        assert (hit.session, hit.title) == (child.session, "child")
        await undo(ledger, child)
        assert await found(ledger, "kiwi") == []
        assert {session for session, _ in await found(ledger, "apple")} == {parent.session}

    async def test_one_session_can_be_searched(self, ledger: Ledger) -> None:
        """Its own words and those it shares with what it was forked from; no other's."""
        parent = await say(ledger, await begin(ledger, 1), "early kiwi")
        child = await say(ledger, await fork(ledger, parent, 2), "child's kiwi")
        await say(ledger, parent, "parent's kiwi")
        assert sorted(await found(ledger, "kiwi", session=child.session)) == [
            (child.session, 1),
            (child.session, 2),
        ]
        assert sorted(await found(ledger, "kiwi", session=parent.session)) == [
            (parent.session, 1),
            (parent.session, 2),
        ]

    async def test_a_megabyte_is_searched_to_its_end(self, ledger: Ledger) -> None:
        """The last word of a long message is found."""
        handle = await say(ledger, await begin(ledger, 1), f"{'filler ' * 150_000}kiwi")
        assert await found(ledger, "kiwi") == [(handle.session, 1)]
