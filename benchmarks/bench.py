"""What every benchmark is given: a folder, the workload, how much to do, and a peer to measure against."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.corpus import Corpus, write_corpus
from benchmarks.measure import Disk
from benchmarks.peer import Peer
from benchmarks.workload import PER_SESSION, Workload
from clew.adapters.stores.sqlite.ledger import SqliteLedger, open_ledger
from clew.adapters.system import SystemClock


@dataclass(kw_only=True)
class Bench:
    """One run."""

    scratch: Path
    disk: Disk
    peer: Peer
    quick: bool
    messages: int
    """How many the big ledger holds."""
    workload: Workload = field(default_factory=Workload)
    _corpus: Corpus | None = None

    def rounds(self, full: int) -> int:
        """How often to measure."""
        return max(10, full // 4) if self.quick else full

    def folder(self, name: str) -> Path:
        """An empty folder on the measured disk."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.scratch))

    @asynccontextmanager
    async def ledger(self, name: str) -> AsyncIterator[SqliteLedger]:
        """A new ledger, removed afterwards."""
        home = self.folder(name)
        ledger = await open_ledger(home, SystemClock())
        try:
            yield ledger
        finally:
            await ledger.close()
            shutil.rmtree(home)

    async def corpus(self) -> Corpus:
        """The big ledger, written once a run, one message to a commit."""
        if self._corpus is None:
            home = self.folder("corpus")
            self._corpus = await write_corpus(home, self.workload, self.messages // PER_SESSION, self.disk)
        return self._corpus

    async def close(self) -> None:
        if self._corpus is not None:
            await self._corpus.close()
        self.disk.close()
        shutil.rmtree(self.scratch)


def settle() -> None:
    """Takes what was set up out of the collector's sight, so that no measurement pays for walking through it.

    The runtime holds no such heap: hundreds of thousands of waiting messages are the benchmark's own.
    """
    gc.collect()
    gc.freeze()
