"""What the command line needs of the program around it; the composition root provides it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import msgspec

from clew.config.home import Home
from clew.config.settings import ModelSettings, Settings
from clew.domain.conversation.ids import SessionId
from clew.domain.ledger.errors import Outdated
from clew.runtime.model_choice import DetectedModels
from clew.runtime.talk import Services


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be."""

    place: str
    sentence: str


class Old(msgspec.Struct, frozen=True, kw_only=True):
    """A session that a rule of retention names, and why."""

    session: SessionId
    title: str | None
    last_active_at: int
    action: str
    reason: str


class Keeper(Protocol):
    """Administration of the ledger's files. Raises StoreUnusable in a sentence."""

    def check(self) -> Sequence[Finding]: ...

    def given_up(self) -> Sequence[Finding]:
        """Jobs that were tried as often as is allowed, and failed, in the last week."""
        ...

    def left_open(self) -> Sequence[Finding]:
        """Turns that a process which lives no more left in the middle."""
        ...

    def backup(self, target: Path) -> int:
        """Returns the bytes written; never overwrites."""
        ...

    def restore(self, source: Path) -> Path | None:
        """Returns where the replaced ledger was put aside."""
        ...

    async def rebuild_search(self) -> int:
        """Returns how many messages were indexed."""
        ...

    def stats(self) -> Mapping[str, int]: ...

    def old_sessions(self, *, archive_days: int, delete_days: int, max_mb: int) -> tuple[Old, ...]:
        """What retention would archive or delete, oldest first; 0 switches a rule off."""
        ...


class Weights(Protocol):
    """The embedded models that can be pulled. Raises PullRefused with one sentence."""

    def names(self) -> Sequence[str]: ...

    def is_pulled(self, name: str) -> bool: ...

    def pull(self, name: str, progress: Callable[[str, int, int | None], None]) -> Path:
        """Blocks. `progress` is given a phase, and how many bytes of how many (None: not known) are done."""
        ...


class PullRefused(Exception):
    """The weights are not there; the sentence says why."""


class Serving(Protocol):
    """The gateway to chat platforms."""

    async def run(self) -> None:
        """Serves until `stop` is called. Raises PlatformRefused when nobody takes us, Outdated, StoreUnusable."""
        ...

    def stop(self) -> None:
        """Takes nothing more; `run` returns when what runs has ended."""
        ...

    async def check(self) -> list[tuple[str, str | None]]:
        """Each platform, and the address that is listened on, with what is wrong with it."""
        ...


class Host(Protocol):
    """The program: its home and settings, and what it can open."""

    @property
    def home(self) -> Home: ...

    @property
    def environ(self) -> Mapping[str, str]: ...

    def settings(self) -> Settings:
        """Raises ConfigError with every problem."""
        ...

    def services(self) -> AbstractAsyncContextManager[Services]:
        """Opens the ledger and everything over it. Raises StoreUnusable, ConfigError."""
        ...

    def gateway(self) -> AbstractAsyncContextManager[Serving]:
        """Opens everything that chat platforms need. Raises what `services` raises, PlatformRefused."""
        ...

    async def import_own_modules(self) -> None:
        """For what runs long: from then on no update of the package mixes two versions in this process."""
        ...

    async def serve_editor(self) -> Outdated | None:
        """Speaks to an editor on standard input and output until it is gone; returns why to start anew, if one must."""
        ...

    async def check_editor(self, tell: Callable[[str], None]) -> bool:
        """Talks to itself as an editor would, and tells what that would see; whether a prompt was answered."""
        ...

    def keeper(self) -> Keeper: ...

    def weights(self) -> Weights: ...

    def models(
        self, settings: ModelSettings | None = None, *, keys: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[DetectedModels]:
        """Models without a ledger: as configured, or for settings and keys that are being tried out."""
        ...
