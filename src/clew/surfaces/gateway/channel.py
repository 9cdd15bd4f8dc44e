"""One platform, and what it takes to talk there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from clew.config.settings import Settings
from clew.domain.ledger.rows import Undelivered
from clew.domain.routing.routes import Route, parse
from clew.runtime.delivery import Delivery, RateGate
from clew.runtime.ports.endpoints import Endpoint
from clew.runtime.ports.platforms import Platform
from clew.runtime.ports.tools import Surroundings
from clew.runtime.sessions import Place
from clew.runtime.talk import Services

LOG: Final = structlog.get_logger("clew.gateway")
"""Ids and reasons; never a word of what somebody said."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    services: Services
    settings: Settings
    platform: Platform
    gate: RateGate
    delivery: Delivery
    cwd: Path
    allow: frozenset[str]
    """Ids of the people who may talk here without being paired."""
    endpoints: Sequence[Endpoint] = ()
    """What the HTTP listener serves for the platform."""


def route_of(place: Place) -> Route:
    """The route of a place on a chat platform."""
    route = parse(place.route_key)
    assert route is not None, "a place of a gateway has a route"
    return route


def open_channel(
    services: Services,
    settings: Settings,
    platform: Platform,
    cwd: Path,
    allow: frozenset[str],
    *,
    endpoints: Sequence[Endpoint] = (),
) -> Channel:
    """Puts together what serves one platform."""
    meter = services.meter

    def said(why: str, row: Undelivered) -> None:
        meter.count("clew_deliveries_troubled_total", platform=platform.name)
        LOG.warning("not delivered", **about(row), why=why)

    def sent(row: Undelivered, shown: str | None) -> None:
        meter.count("clew_deliveries_total", platform=platform.name)
        LOG.info("delivered", **about(row), shown_as=shown)

    def about(row: Undelivered) -> dict[str, object]:
        ids = {"conversation": row.route_key, "session": row.session, "reply": row.id}
        return {"platform": platform.name, **ids, "attempt": row.attempts + 1}

    surroundings = Surroundings(sends_bytes_max=platform.traits.sends_bytes_max)
    services = msgspec.structs.replace(services, toolmaker=services.toolmaker.within(surroundings))
    gate = RateGate()
    delivery = Delivery(services.ledger, services.runner.owners, services.clock, platform, gate, said, sent)
    return Channel(
        services=services,
        settings=settings,
        platform=platform,
        gate=gate,
        delivery=delivery,
        cwd=cwd,
        allow=allow,
        endpoints=endpoints,
    )


def log_about(channel: Channel, route: Route, **ids: object) -> None:
    """From now on every line that this task logs names its platform, place and these ids."""
    clear_contextvars()
    bind_contextvars(platform=channel.platform.name, conversation=route.key, **ids)
