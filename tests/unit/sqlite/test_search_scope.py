"""Ranking looks at the newest hits only; what it looks among must be what was asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from clew.adapters.stores.sqlite.search_query import RANKED_MAX
from clew.domain.conversation.ids import LOCAL, SessionId
from clew.domain.conversation.messages import NewMessage, Role
from clew.domain.ledger.commits import Append, AsHolder, Commit, NewSession
from clew.domain.ledger.rows import Handle, Origin
from clew.runtime.ports.ledger import Ledger
from tests.unit.sqlite.homes import opened

pytestmark = pytest.mark.anyio


async def begin(ledger: Ledger, ident: str) -> Handle:
    new = NewSession(id=SessionId(ident), owner=LOCAL, surface="test", origin=Origin.NEW)
    return await ledger.open(new, actor=LOCAL, at=1)


async def say(ledger: Ledger, handle: Handle, text: str, times: int) -> None:
    message = NewMessage(role=Role.USER, text=text, step=0, actor=LOCAL)
    fence = AsHolder(epoch=handle.epoch, head=handle.head)
    op = Append(turn=1, messages=(message,) * times)
    await ledger.commit(Commit(session=handle.session, actor=LOCAL, at=2, fence=fence, op=op))


async def test_one_session_is_searched_however_much_others_say(tmp_path: Path) -> None:
    """More hits than ranking looks at, all newer and elsewhere, do not hide the one that was asked about."""
    async with opened(tmp_path) as ledger:
        quiet, loud = await begin(ledger, "quiet0000000"), await begin(ledger, "loud00000000")
        await say(ledger, quiet, "one kiwi", 1)
        await say(ledger, loud, "kiwi kiwi", RANKED_MAX + 1)
        found = await ledger.search(LOCAL, "kiwi", session=quiet.session)
    assert [(hit.session, hit.position) for hit in found.hits] == [(quiet.session, 1)]
    assert found.ranked_newest is None
