"""The one HTTP client of the process.

An `httpx.AsyncClient` reads the certificate store twice when it is made: 40 to 100 ms, paid by every start, also of
those who only ever talk to a model on their own machine. Ours costs 0.3 ms: the store is read on the first https
request, in a thread. Where a proxy is configured the ordinary client is made, because proxy rules are its own.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Final
from urllib.request import getproxies

import httpx

POOLS_MAX: Final = 128
CONNECTIONS_A_POOL: Final = 2
LIMITS: Final = httpx.Limits(
    max_connections=CONNECTIONS_A_POOL, max_keepalive_connections=CONNECTIONS_A_POOL, keepalive_expiry=60.0
)
"""Connections of a pool. A kept one saves a TLS handshake; servers close theirs after 60 s or later."""


class _Pool:
    """A few connections, and how many requests are under way on them."""

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self.transport = transport
        self.busy = 0


class _Pools(httpx.AsyncBaseTransport):
    """Many small pools, each filled before the next.

    httpcore looks at every connection of a pool for every request, several times over: with 64 requests at once in one
    pool a call took 12 ms of CPU and some waited for seconds; here it takes 2, as with one.
    """

    def __init__(self, verify: ssl.SSLContext | bool) -> None:
        self._verify = verify
        self._pools: list[_Pool] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        pool = self._with_room()
        pool.busy += 1
        try:
            response = await pool.transport.handle_async_request(request)
        except BaseException:
            pool.busy -= 1
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream), "the transport is asynchronous"
        response.stream = _Counted(response.stream, pool)
        return response

    def _with_room(self) -> _Pool:
        for pool in self._pools:
            if pool.busy < CONNECTIONS_A_POOL:
                return pool
        if len(self._pools) < POOLS_MAX:
            self._pools.append(_Pool(httpx.AsyncHTTPTransport(verify=self._verify, limits=LIMITS)))
            return self._pools[-1]
        return min(self._pools, key=lambda pool: pool.busy)

    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.transport.aclose()


class _Counted(httpx.AsyncByteStream):
    """A response's bytes; closing it makes room in its pool."""

    def __init__(self, stream: httpx.AsyncByteStream, pool: _Pool) -> None:
        self._stream = stream
        self._pool: _Pool | None = pool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        try:
            await self._stream.aclose()
        finally:
            if pool is not None:
                pool.busy -= 1


class _LazyTls(httpx.AsyncBaseTransport):
    def __init__(self) -> None:
        self._plain = _Pools(verify=False)
        self._secure: _Pools | None = None
        self._making = asyncio.Lock()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "http":
            return await self._plain.handle_async_request(request)
        return await (await self._secured()).handle_async_request(request)

    async def _secured(self) -> _Pools:
        async with self._making:
            if self._secure is None:
                context = await asyncio.to_thread(httpx.create_ssl_context)
                self._secure = _Pools(verify=context)
            return self._secure

    async def aclose(self) -> None:
        await self._plain.aclose()
        if self._secure is not None:
            await self._secure.aclose()


def shared_http_client() -> httpx.AsyncClient:
    """A client for the whole process; whoever makes it closes it. Redirects are not followed: they would carry keys."""
    if getproxies():
        return httpx.AsyncClient(limits=httpx.Limits(max_connections=POOLS_MAX * CONNECTIONS_A_POOL))
    return httpx.AsyncClient(transport=_LazyTls())
