"""Which models clients can name: the session's own as `clew`, and those that its provider offers."""

from __future__ import annotations

import asyncio
from typing import Final

from clew.runtime.ports.models import ModelSource, ModelUnavailable
from clew.surfaces.http.errors import ApiError

OWN: Final = "clew"
"""The model of the session, or the configured one."""
KEPT_SECONDS: Final = 60.0
"""For how long a provider's list is believed."""


class Offered:
    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self._names: tuple[str, ...] = ()
        self._until = 0.0

    async def names(self) -> tuple[str, ...]:
        """Raises ModelUnavailable when there is no model at all; a provider that has no list just has none."""
        now = asyncio.get_running_loop().time()
        if now >= self._until:
            choice = await self._source.choose(None)
            try:
                listed = await choice.client.models()
            except ModelUnavailable:
                listed = ()
            self._names = (OWN, *dict.fromkeys((choice.profile.name, *listed)))
            self._until = now + KEPT_SECONDS
        return self._names

    async def default(self) -> str:
        """The configured model's own name."""
        return (await self.names())[1]

    async def named(self, name: str) -> str | None:
        """The name to choose by; None for the session's own. Raises ApiError for one that is not offered."""
        if name == OWN:
            return None
        if name not in await self.names():
            why = f"There is no model {name[:100]!r}; GET /v1/models lists them."
            raise ApiError(404, "model_not_found", why, param="model")
        return name
