"""The one HTTP client of the process.

An `httpx.AsyncClient` reads the certificate store twice when it is made: 40 to 100 ms, paid by every start, also of
those who only ever talk to a model on their own machine. Ours costs 0.3 ms: the store is read on the first https
request, in a thread. Where a proxy is configured the ordinary client is made, because proxy rules are its own.
"""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.request import getproxies

import httpx

LIMITS: Final = httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=60.0)
"""Connections of the process. A kept one saves a TLS handshake; servers close theirs after 60 s or later."""


class _LazyTls(httpx.AsyncBaseTransport):
    def __init__(self) -> None:
        self._plain = httpx.AsyncHTTPTransport(verify=False, limits=LIMITS)
        self._secure: httpx.AsyncHTTPTransport | None = None
        self._making = asyncio.Lock()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "http":
            return await self._plain.handle_async_request(request)
        return await (await self._secured()).handle_async_request(request)

    async def _secured(self) -> httpx.AsyncHTTPTransport:
        async with self._making:
            if self._secure is None:
                context = await asyncio.to_thread(httpx.create_ssl_context)
                self._secure = httpx.AsyncHTTPTransport(verify=context, limits=LIMITS)
            return self._secure

    async def aclose(self) -> None:
        await self._plain.aclose()
        if self._secure is not None:
            await self._secure.aclose()


def shared_http_client() -> httpx.AsyncClient:
    """A client for the whole process; whoever makes it closes it. Redirects are not followed: they would carry keys."""
    if getproxies():
        return httpx.AsyncClient(limits=LIMITS)
    return httpx.AsyncClient(transport=_LazyTls())
