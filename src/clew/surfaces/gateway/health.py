"""Whether the gateway does what it is for, proven by what it did last: `/healthz`. How much of it: `/metrics`.

Neither holds a word of anybody, an id of a person, or a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from clew.domain.ledger.errors import LedgerError
from clew.runtime.metering import MEDIA_TYPE, Meter, Number
from clew.runtime.ports.endpoints import Answered, Asked, Endpoint
from clew.runtime.ports.ledger import Ledger
from clew.surfaces.gateway.channel import Channel

CONTACT_SECONDS_MAX: Final = 120.0
DELIVERY_SECONDS_MAX: Final = 60.0
LEDGER_SECONDS_MAX: Final = 5.0
FEEL_SECONDS: Final = 1.0
PAGE_BYTES: Final = 4096
MEMORY: Final = Path("/proc/self/statm")


class Part(Protocol):
    """What is looked at of each platform."""

    @property
    def channel(self) -> Channel: ...
    @property
    def is_refused(self) -> bool: ...
    @property
    def looked_at(self) -> float: ...
    @property
    def lease_seconds(self) -> float: ...
    @property
    def silent_seconds(self) -> float: ...


class Health:
    """Of every platform of one process."""

    def __init__(self, parts: Sequence[Part], ended: asyncio.Event, ledger: Ledger, meter: Meter) -> None:
        self._parts = parts
        self._ledger = ledger
        self._meter = meter
        self._ended = ended
        self._lag = 0.0
        self.endpoints = (
            Endpoint(method="GET", path="/healthz", answer=self._healthz),
            Endpoint(method="GET", path="/metrics", answer=self._metrics),
        )

    async def feel(self) -> None:
        """Until it is cancelled: how long whoever wants to run has to wait."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + FEEL_SECONDS
            await asyncio.sleep(FEEL_SECONDS)
            self._lag = max(loop.time() - due, 0.0)

    async def _healthz(self, _: Asked) -> Answered:
        reasons = [reason for part in self._parts for reason in _wrong(part)]
        if self._ended.is_set():
            reasons.append("the gateway is ending")
        try:
            async with asyncio.timeout(LEDGER_SECONDS_MAX):
                await self._ledger.unfinished()
        except (LedgerError, TimeoutError):
            reasons.append("the ledger does not answer")
        body = {
            "status": "failing" if reasons else "ok",
            "reasons": reasons,
            "channels": {
                part.channel.platform.name: {"contact_seconds": _age(part.silent_seconds)}
                for part in self._parts
            },
        }
        return Answered(
            status=503 if reasons else 200, media_type="application/json", body=msgspec.json.encode(body)
        )

    async def _metrics(self, _: Asked) -> Answered:
        numbers = list(self._now())
        for part in self._parts:
            channel, services = part.channel, part.channel.services
            try:
                backlog = await services.ledger.backlog(channel.platform.name)
            except LedgerError:
                continue  # /healthz says so; the rest is as true as ever
            labels, now = (("platform", channel.platform.name),), services.clock.now_ms()
            for queue, depth, since in (
                ("inbox", backlog.inbox, backlog.inbox_since),
                ("outbox", backlog.outbox, backlog.outbox_since),
            ):
                age = 0.0 if since is None else max(now - since, 0) / 1000
                numbers += [
                    Number(f"clew_{queue}_depth", depth, labels),
                    Number(f"clew_{queue}_oldest_seconds", age, labels),
                ]
        text = self._meter.text(numbers)
        return Answered(media_type=MEDIA_TYPE, body=text.encode())

    def _now(self) -> Iterator[Number]:
        yield Number("clew_loop_lag_seconds", self._lag)
        if MEMORY.exists():
            yield Number("clew_memory_bytes", int(MEMORY.read_text().split()[1]) * PAGE_BYTES)
        for part in self._parts:
            labels = (("platform", part.channel.platform.name),)
            up = not any(_wrong(part))
            yield Number("clew_channel_up", up, labels)
            yield Number("clew_rate_limit_pauses_total", part.channel.gate.pauses, labels, "counter")


def _wrong(part: Part) -> Iterator[str]:
    """What keeps a platform from being served, a sentence each."""
    name, now = part.channel.platform.name, asyncio.get_running_loop().time()
    if part.is_refused:
        yield f"{name} refused us"
    elif part.silent_seconds > CONTACT_SECONDS_MAX:
        age = _age(part.silent_seconds)
        yield f"{name} was not reached yet" if age is None else f"{name} was not heard of for {age:.0f} s"
    if now - part.channel.delivery.looked_at > DELIVERY_SECONDS_MAX:
        yield f"{name}: nothing is delivered"
    if now - part.looked_at > 2 * part.lease_seconds + LEDGER_SECONDS_MAX:
        yield f"{name}: nobody looks for what was left"


def _age(seconds: float) -> float | None:
    """None for what never was."""
    return None if seconds == float("inf") else round(seconds, 1)
