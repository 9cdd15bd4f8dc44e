"""Retention plans only what nobody is using, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from clew.adapters.stores.sqlite import open_ledger
from clew.adapters.stores.sqlite.retention import DAY_MS, Planned, plan
from clew.domain.conversation.ids import LOCAL, PrincipalId
from clew.testing.scripted_model import say
from clew.testing.world import HandClock, World, command, exchange

pytestmark = pytest.mark.anyio


def planned(home: Path, days: int = 10, **rules: int) -> tuple[Planned, ...]:
    """The plan so many days later."""
    now = HandClock().now_ms() + days * DAY_MS
    return plan(home / "clew.db", now_ms=now, **{"archive_days": 0, "delete_days": 0, "max_mb": 0, **rules})


async def test_only_free_sessions_are_planned(tmp_path: Path) -> None:
    """Not one that is shared, forked from, or waited for."""
    ledger = await open_ledger(tmp_path, HandClock())
    friend = PrincipalId("friend")
    await ledger.add_principal(friend, "friend", "user")
    world = World(ledger, lambda _: say("ok"))
    free, shared, forked, waiting = (world.talk() for _ in range(4))
    for talk in (free, shared, forked, waiting):
        await exchange(talk, "words")
    assert shared.session is not None
    await ledger.share(LOCAL, shared.session, friend, "read")
    parent = forked.session
    await command(forked, "/branch")
    await waiting.queue("later")
    await ledger.close()
    found = {old.session for old in planned(tmp_path, delete_days=5)}
    assert found == {free.session, forked.session}
    assert parent not in found
    assert planned(tmp_path, days=3, delete_days=5) == ()
    assert planned(tmp_path) == ()


async def test_archived_sessions_are_not_archived_again(tmp_path: Path) -> None:
    """Deleting comes before archiving where both apply."""
    ledger = await open_ledger(tmp_path, HandClock())
    await exchange(World(ledger, [say("ok")]).talk(), "words")
    await ledger.close()
    assert [old.action for old in planned(tmp_path, archive_days=5)] == ["archive"]
    assert [old.action for old in planned(tmp_path, archive_days=5, delete_days=7)] == ["delete"]


async def test_size_takes_the_oldest_until_it_fits(tmp_path: Path) -> None:
    """And no more."""
    ledger = await open_ledger(tmp_path, HandClock())
    world = World(ledger, lambda _: say("ok"))
    talks = [world.talk() for _ in range(4)]
    for talk in talks:
        await exchange(talk, "x" * 1_000_000)
    await ledger.close()
    found = [old.session for old in planned(tmp_path, days=0, max_mb=3)]
    assert found == [talk.session for talk in talks[: len(found)]]
    assert 1 <= len(found) <= 2
