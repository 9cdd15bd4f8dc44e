"""Who asks: by the key that is shown, and how often. Nobody without a key."""

from __future__ import annotations

import asyncio
import hmac
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import msgspec

from clew.domain.conversation.ids import LOCAL, PrincipalId
from clew.domain.routing.keys import PLAIN, SURFACES, WITH_TOOLS, account
from clew.runtime.ports.ledger import Ledger
from clew.surfaces.http.errors import ApiError

KEYS_COUNTED_MAX: Final = 1_000
HOW: Final = "Send `Authorization: Bearer KEY`; `clew pair key create` makes a key."


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    who: PrincipalId
    surface: str


class Access:
    """`owner_key` is the one of the settings. A key that is revoked opens nothing from the next request on."""

    def __init__(
        self, ledger: Ledger, *, owner_key: str | None, owner_tools: bool, requests_per_minute: int
    ) -> None:
        self._ledger = ledger
        self._owner = None if owner_key is None else account(owner_key, PLAIN).external_id
        self._owner_surface = WITH_TOOLS if owner_tools else PLAIN
        self._per_minute = requests_per_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        """Raises ApiError: 401 for no key, or one that is nobody's; 429 for one that asks too often."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _denied(f"There is no key. {HOW}")
        ident = account(key.strip(), PLAIN).external_id
        who, surface = await self._whose(ident)
        if who is None:
            raise _denied(f"This key is nobody's. {HOW}")
        self._count(ident)
        return Caller(who=who, surface=surface)

    async def _whose(self, ident: str) -> tuple[PrincipalId | None, str]:
        if self._owner is not None and hmac.compare_digest(self._owner, ident):
            return LOCAL, self._owner_surface
        for surface in SURFACES:
            if (who := await self._ledger.identified(surface, ident)) is not None:
                return who, surface
        return None, PLAIN

    def _count(self, ident: str) -> None:
        """A bucket of a minute's requests that fills steadily."""
        if not self._per_minute:
            return
        now = asyncio.get_running_loop().time()
        left, at = self._left.pop(ident, (float(self._per_minute), now))
        left = min(left + (now - at) * self._per_minute / 60, self._per_minute)
        self._left[ident] = max(left - 1, 0.0) if left >= 1 else left, now
        while len(self._left) > KEYS_COUNTED_MAX:
            self._left.popitem(last=False)
        if left < 1:
            seconds = math.ceil((1 - left) * 60 / self._per_minute)
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"More than {self._per_minute} requests a minute with this key; again in {seconds} s.",
                headers={"retry-after": str(seconds)},
            )


def _denied(message: str) -> ApiError:
    return ApiError(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})
