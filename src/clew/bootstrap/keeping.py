"""`Keeper` over the SQLite ledger of a home."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clew.adapters.processes.owners import has_ended
from clew.adapters.stores.sqlite import keeper, open_ledger
from clew.adapters.stores.sqlite.retention import plan
from clew.adapters.system import SystemClock
from clew.config.home import Home
from clew.domain.conversation.ids import OwnerId
from clew.surfaces.cli.host import Finding, Old


class LedgerKeeper:
    """Administration by the owner of the home."""

    def __init__(self, home: Home) -> None:
        self._home = home.root
        self._run = home.run

    def check(self) -> Sequence[Finding]:
        return [Finding(place=wrong.place, sentence=wrong.sentence) for wrong in keeper.check(self._home)]

    def given_up(self) -> Sequence[Finding]:
        found = keeper.given_up(self._home, SystemClock().now_ms())
        return [Finding(place=wrong.place, sentence=wrong.sentence) for wrong in found]

    def left_open(self) -> Sequence[Finding]:
        return [
            Finding(place=wrong.place, sentence=wrong.sentence)
            for wrong, owner in keeper.unfinished(self._home)
            if owner is None or has_ended(self._run, OwnerId(owner))
        ]

    def backup(self, target: Path) -> int:
        return keeper.backup(self._home, target)

    def restore(self, source: Path) -> Path | None:
        return keeper.restore(self._home, source)

    def stats(self) -> Mapping[str, int]:
        return keeper.stats(self._home)

    def old_sessions(self, *, archive_days: int, delete_days: int, max_mb: int) -> tuple[Old, ...]:
        path = self._home / keeper.LEDGER
        if not path.exists():
            return ()
        found = plan(
            path,
            now_ms=SystemClock().now_ms(),
            archive_days=archive_days,
            delete_days=delete_days,
            max_mb=max_mb,
        )
        return tuple(
            Old(
                session=p.session,
                title=p.title,
                last_active_at=p.last_active_at,
                action=p.action,
                reason=p.reason,
            )
            for p in found
        )

    async def rebuild_search(self) -> int:
        """Drops the index and builds it anew, whole."""
        ledger = await open_ledger(self._home, SystemClock())
        try:
            await ledger.rebuild_search()
        finally:
            await ledger.close()
        return keeper.stats(self._home)["message rows"]
