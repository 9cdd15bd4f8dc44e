"""What a store promises to whoever delivers replies, receives messages and knows people by their accounts."""

from __future__ import annotations

import pytest

from clew.domain.conversation.ids import ConversationId
from clew.domain.ledger.commits import AddReply, Append, OpenTurn
from clew.domain.ledger.errors import NotFound
from clew.domain.ledger.rows import Backlog, Handle, LastReceived, Undelivered
from clew.domain.routing.routes import group_principal
from clew.runtime.ports.ledger import Ledger
from clew.testing.contracts.ledger_case import LedgerCase
from clew.testing.ledgers import (
    ANN,
    OTHER_PROCESS,
    START_MS,
    THIS_PROCESS,
    assistant,
    begin,
    do,
    place,
    receive,
    session_id,
)

LATE = START_MS + 1_000_000_000


def reply(
    chat: ConversationId, key: str, *, part: int = 0, kind: str = "reply", body: str | None = None
) -> AddReply:
    return AddReply(conversation=chat, turn=1, part=part, kind=kind, key=key, body=body)


async def answered(ledger: Ledger, number: int = 1) -> tuple[Handle, ConversationId]:
    """A session whose place is to be told one reply."""
    handle = await begin(ledger, number)
    chat = await place(ledger, handle, f"telegram:{number}")
    return await told(ledger, handle, chat, f"r{number}", "hello"), chat


async def told(ledger: Ledger, handle: Handle, chat: ConversationId, key: str, text: str) -> Handle:
    op = Append(messages=(assistant(text),), turn=1)
    return await do(ledger, handle, op=op, replies=(reply(chat, key),))


async def due(ledger: Ledger, at: int = LATE) -> list[Undelivered]:
    return list(await ledger.undelivered("telegram", at))


class DeliveryContract(LedgerCase):
    """The outbox, from the side of whoever sends what is in it."""

    async def test_a_chat_with_another_id_keeps_its_places(self, ledger: Ledger) -> None:
        """Session, what waits and who owns it move with it, once; other chats stay, whatever their ids look like."""
        group = group_principal("telegram/1/c:-7")
        await ledger.add_principal(group, "the group", "group")
        keys = ("telegram/1/c:-7", "telegram/1/c:-7/t:3", "telegram/1/c:-70", "telegram/1/c:-7%2F/t:3")
        handles = [await begin(ledger, number) for number in range(1, 5)]
        chats = [await place(ledger, handle, key) for handle, key in zip(handles, keys, strict=True)]
        for handle, chat in zip(handles, chats, strict=True):
            await told(ledger, handle, chat, f"r{chat}", "hello")
        for _ in range(2):
            await ledger.move_chat("telegram", "telegram/1/c:-7", "telegram/1/c:-1007")
        moved = ("telegram/1/c:-1007", "telegram/1/c:-1007/t:3", *keys[2:])
        for key, chat, handle in zip(moved, chats, handles, strict=True):
            row = await ledger.conversation(key)
            assert row is not None
            assert (row.id, row.session, row.version) == (chat, handle.session, 2 if "-1007" in key else 1)
        assert [row.route_key for row in await due(ledger)] == list(moved)
        assert await ledger.conversation(keys[0]) is None
        assert await ledger.group_of("telegram", moved[0]) == group
        await ledger.move_chat("telegram", "telegram/1/c:-1007", "telegram/1/c:-8")
        assert await ledger.group_of("telegram", "telegram/1/c:-8") == group
        assert await ledger.group_of("telegram", keys[2]) is None

    async def test_a_chat_that_moves_to_where_one_is_goes_on_there(self, ledger: Ledger) -> None:
        """Somebody wrote to the new id first: the place that is there has the old one's session from then on."""
        old, new = await begin(ledger, 1), await begin(ledger, 2)
        await place(ledger, old, "telegram/1/c:-7")
        there = await place(ledger, new, "telegram/1/c:-8")
        for _ in range(2):
            await ledger.move_chat("telegram", "telegram/1/c:-7", "telegram/1/c:-8")
        row = await ledger.conversation("telegram/1/c:-8")
        assert row is not None
        assert (row.id, row.session, row.version) == (there, old.session, 2)
        left = await ledger.conversation("telegram/1/c:-7")
        assert left is not None
        assert left.session is None

    async def test_a_reply_waits_with_its_text_and_place(self, ledger: Ledger) -> None:
        """A reply carries the words of its message, a notice its own; other surfaces do not see either."""
        handle, chat = await answered(ledger)
        (row,) = await due(ledger)
        assert (row.text, row.route_key, row.state, row.attempts) == ("hello", "telegram:1", "pending", 0)
        assert (row.session, row.conversation, row.shown_as) == (handle.session, chat, None)
        assert await ledger.undelivered("matrix", LATE) == ()

    async def test_each_place_is_told_in_order(self, ledger: Ledger) -> None:
        """Only the oldest unsettled row of a place is due; the next one once it is settled; other places do not wait."""
        handle, chat = await answered(ledger)
        handle = await told(ledger, handle, chat, "second", "and more")
        await answered(ledger, 2)
        first, other = await due(ledger)
        assert (first.text, other.route_key) == ("hello", "telegram:2")
        assert await ledger.undelivered("telegram", LATE, conversation=other.conversation) == (other,)
        await ledger.settle_reply(first.id, "sent", "77")
        assert [row.text for row in await due(ledger)] == ["and more", "hello"]

    async def test_one_that_has_to_wait_holds_up_its_place(self, ledger: Ledger) -> None:
        """A reply that was put off is due at its time, and nothing of its place is before."""
        handle, chat = await answered(ledger)
        await told(ledger, handle, chat, "second", "and more")
        (row,) = await due(ledger)
        assert await ledger.take_reply(row, THIS_PROCESS)
        await ledger.settle_reply(row.id, "pending", None, next_at=LATE)
        assert await due(ledger, LATE - 1) == []
        (again,) = await due(ledger, LATE)
        assert (again.text, again.attempts, again.state) == ("hello", 0, "pending")

    async def test_a_reply_that_never_went_out_says_why(self, ledger: Ledger) -> None:
        """The reason stays with it, and what comes behind it is due."""
        handle, chat = await answered(ledger)
        await told(ledger, handle, chat, "second", "and more")
        (row,) = await due(ledger)
        await ledger.settle_reply(row.id, "failed", None, "the chat is gone")
        replies = await ledger.replies(ANN, handle.session)
        found = [(one.state, one.reason) for one in replies]
        assert found == [("failed", "the chat is gone"), ("pending", None)]
        assert [one.text for one in await due(ledger)] == ["and more"]

    async def test_a_reply_is_taken_by_one(self, ledger: Ledger) -> None:
        """Two processes that read the same row do not both send it, not even when its owner is to be replaced."""
        await answered(ledger)
        (row,) = await due(ledger)
        assert await ledger.take_reply(row, THIS_PROCESS)
        assert not await ledger.take_reply(row, OTHER_PROCESS)
        (taken,) = await due(ledger)
        assert (taken.state, taken.owner, taken.attempts) == ("sending", THIS_PROCESS, 1)
        assert await ledger.take_reply(taken, OTHER_PROCESS)
        assert not await ledger.take_reply(taken, THIS_PROCESS)
        await ledger.settle_reply(row.id, "unknown", None)
        (doubtful,) = await due(ledger)
        assert (doubtful.state, doubtful.attempts) == ("unknown", 2)

    async def test_what_was_sent_stays_sent(self, ledger: Ledger) -> None:
        """A settled reply is not due any more, and cannot be put back."""
        await answered(ledger)
        (row,) = await due(ledger)
        await ledger.settle_reply(row.id, "sent", "77")
        with pytest.raises(Exception):  # noqa: B017 - each store refuses in its own type
            await ledger.settle_reply(row.id, "pending", None)
        assert await due(ledger) == []

    async def test_a_preview_is_named_by_the_reply_that_follows_it(self, ledger: Ledger) -> None:
        """A preview is not due by itself; the reply of the same turn and part knows what it was shown as."""
        handle = await begin(ledger)
        chat = await place(ledger, handle)
        preview = reply(chat, "preview", kind="preview", body="hel")
        shown = await ledger.add_reply(handle.session, preview, START_MS)
        assert await ledger.add_reply(handle.session, preview, START_MS) == shown
        assert await due(ledger) == []
        handle = await told(ledger, handle, chat, "r0", "hello")
        assert [(row.shown_as, row.may_be_shown) for row in await due(ledger)] == [(None, True)]
        await ledger.settle_reply(shown, "failed", None)
        assert [row.may_be_shown for row in await due(ledger)] == [False]
        await ledger.settle_reply(shown, "sent", "77")
        assert [(row.shown_as, row.may_be_shown) for row in await due(ledger)] == [("77", False)]
        await ledger.settle_reply((await due(ledger))[0].id, "sent", "77")
        await ledger.settle_reply(shown, "sent", None)
        assert [row.platform_id for row in await ledger.replies(ANN, handle.session)] == ["77", "77"]
        handle = await told(ledger, handle, chat, "r", "hello")
        (row,) = await due(ledger)
        assert row.shown_as == "77"
        await do(ledger, handle, replies=(reply(chat, "n", kind="notice", body="by the way"),))
        await ledger.settle_reply(row.id, "sent", "77")
        assert [(row.text, row.shown_as) for row in await due(ledger)] == [("by the way", None)]

    async def test_a_reply_by_itself_needs_its_session(self, ledger: Ledger) -> None:
        """One for a session that was deleted is refused, and what waited for it is not sent."""
        handle, chat = await answered(ledger)
        await ledger.forget(ANN, handle.session, START_MS)
        assert await due(ledger) == []
        for gone in (handle.session, session_id(9)):
            with pytest.raises(NotFound):
                await ledger.add_reply(gone, reply(chat, "new", kind="notice", body="x"), START_MS)

    async def test_what_waits_in_the_inbox_is_found_by_place(self, ledger: Ledger) -> None:
        """Messages and commands that nobody has taken; not events, and not what was taken."""
        handle = await begin(ledger)
        chat = await place(ledger, handle)
        assert await ledger.waiting("telegram") == ()
        await receive(ledger, handle, chat, "e", kind="event")
        assert await ledger.waiting("telegram") == ()
        received = await receive(ledger, handle, chat, "m")
        (row,) = await ledger.waiting("telegram")
        assert (row.route_key, row.session, row.principal) == ("telegram:1", handle.session, ANN)
        assert await ledger.waiting("matrix") == ()
        await do(ledger, handle, take=(received.id,))
        assert await ledger.waiting("telegram") == ()

    async def test_a_backlog_counts_what_waits(self, ledger: Ledger) -> None:
        """Messages that nobody has taken and replies that are not settled, by surface, with the time of the oldest."""
        handle, chat = await answered(ledger)
        handle = await told(ledger, handle, chat, "second", "and more")
        await receive(ledger, handle, chat, "e", kind="event")
        received = await receive(ledger, handle, chat, "m")
        found = await ledger.backlog("telegram")
        assert (found.inbox, found.inbox_since, found.outbox) == (1, START_MS, 2)
        assert found.outbox_since is not None
        assert (await ledger.backlog("matrix")) == Backlog()
        (row,) = await due(ledger)
        await ledger.settle_reply(row.id, "sent", "77")
        handle = await do(ledger, handle, take=(received.id,))
        found = await ledger.backlog("telegram")
        assert (found.inbox, found.inbox_since, found.outbox) == (0, None, 1)
        await ledger.forget(ANN, handle.session, START_MS)
        assert (await ledger.backlog("telegram")) == Backlog()

    async def test_a_place_knows_who_used_it_last_and_when(self, ledger: Ledger) -> None:
        """By what people said there, in whatever session and from whatever account; not by events."""
        handle = await begin(ledger)
        chat = await place(ledger, handle)
        assert await ledger.last_received("telegram:1") is None
        await receive(ledger, handle, chat, "a", at=START_MS + 5)
        last = LastReceived(principal=ANN, sent_by=None, at=START_MS + 5)
        assert await ledger.last_received("telegram:1") == last
        await receive(ledger, await begin(ledger, 2), chat, "b", at=START_MS + 7, sent_by="42")
        await receive(ledger, handle, chat, "c", at=START_MS + 9, kind="event")
        last = LastReceived(principal=ANN, sent_by="42", at=START_MS + 7)
        assert await ledger.last_received("telegram:1") == last
        assert await ledger.last_received("telegram:2") is None

    async def test_a_message_is_known_for_ever(self, ledger: Ledger) -> None:
        """Whether it waits, was taken, or its session is gone."""
        handle = await begin(ledger)
        chat = await place(ledger, handle)
        assert not await ledger.is_received("telegram", "m")
        await receive(ledger, handle, chat, "m")
        await ledger.forget(ANN, handle.session, START_MS)
        assert await ledger.is_received("telegram", "m")
        assert not await ledger.is_received("matrix", "m")

    async def test_an_open_turn_knows_its_place(self, ledger: Ledger) -> None:
        """Whoever goes on with it knows where it has to be told."""
        handle = await begin(ledger)
        chat = await place(ledger, handle)
        opened = OpenTurn(turn=1, principal=ANN, model=None, conversation=chat)
        await do(ledger, handle, claim=OTHER_PROCESS, open_turn=opened)
        assert [row.route_key for row in await ledger.unfinished()] == ["telegram:1"]
