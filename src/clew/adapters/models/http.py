"""The one HTTP client of the process, for servers of models.

A call of aiohttp costs 0.2 ms of CPU where httpx takes 1.5, and 3.5 with many at once (docs/decisions/0018). The certificates are
read at the first request of https, in a thread: 20 to 60 ms that nobody pays whose model runs on the same machine.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from typing import Final, Self
from urllib.request import getproxies

import aiohttp
import certifi
from yarl import URL

UNDER_WAY_MAX: Final = 256
"""Requests at once; more wait for one of them to end."""
WAITING_SECONDS_MAX: Final = 60.0
"""For how long they do."""
KEPT_SECONDS: Final = 60.0
"""A kept connection saves a TLS handshake; servers close theirs after 60 s or later."""
HEADER_BYTES_MAX: Final = 64 * 1024


class HttpClient:
    """Whoever makes it closes it. Made in the event loop that uses it."""

    def __init__(
        self, *, under_way: int = UNDER_WAY_MAX, resolver: aiohttp.abc.AbstractResolver | None = None
    ) -> None:
        connector = aiohttp.TCPConnector(limit=under_way, keepalive_timeout=KEPT_SECONDS, resolver=resolver)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=bool(getproxies()),  # asked for each request, which takes a tenth of its time
            max_field_size=HEADER_BYTES_MAX,
        )
        self._certificates: ssl.SSLContext | None = None
        self._reading = asyncio.Lock()

    async def ask(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        connect_seconds: float,
        silent_seconds: float | None = None,
    ) -> aiohttp.ClientResponse:
        """The head of the answer; whoever asks closes it. Redirects are not followed: they would carry keys.

        Raises:
            aiohttp.ClientError: no answer came, or one that is none.
        """
        limits = aiohttp.ClientTimeout(
            total=None, connect=WAITING_SECONDS_MAX, sock_connect=connect_seconds, sock_read=silent_seconds
        )
        certificates = await self.certificates() if url.scheme == "https" else True
        return await self._session.request(
            method, url, headers=headers, data=body, timeout=limits, ssl=certificates, allow_redirects=False
        )

    async def certificates(self) -> ssl.SSLContext:
        """Whom to believe: those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, or certifi's."""
        async with self._reading:
            if self._certificates is None:
                self._certificates = await asyncio.to_thread(_read_certificates)
            return self._certificates

    @property
    def has_certificates(self) -> bool:
        return self._certificates is not None

    async def aclose(self) -> None:
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _read_certificates() -> ssl.SSLContext:
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    return ssl.create_default_context(cafile=file or (None if folder else certifi.where()), capath=folder)
