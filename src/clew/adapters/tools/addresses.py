"""Connections to public addresses only, decided when the connection is made.

A name is resolved once, every address it has is checked, and the connection goes to one that was: checking a name
and then letting the HTTP library resolve it again would ask a stranger's name server twice. Each hop of a
redirect is a request of its own and passes here as well.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

import httpx

Address = IPv4Address | IPv6Address

_NAT64: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE: Final = IPv6Network("::/96")


class AddressRefused(httpx.TransportError):
    """The request would have gone to an address that is not public, or to no host at all; nothing was sent."""


def is_public(address: Address) -> bool:
    """Whether an address is a stranger's on the internet: not private, local, multicast or reserved.

    IPv6 addresses that stand for an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo) are as public as that.
    """
    if isinstance(address, IPv6Address):
        if any(not is_public(inner) for inner in _inner(address)):
            return False
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _inner(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses packets to this one may end up at."""
    found = [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner is not None]
    if address.teredo is not None:
        found += address.teredo
    if any(address in network for network in (*_NAT64, _COMPATIBLE)):
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return found


async def resolve(host: str, port: int) -> list[Address]:
    """Every address of a host, in the order the system prefers. Raises OSError when it has none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(str(row[4][0]).partition("%")[0]) for row in found]


class PublicOnlyTransport(httpx.AsyncBaseTransport):
    """HTTP to public addresses. Keeps no connection: two hosts may share an address, but no connection."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._inner = httpx.AsyncHTTPTransport(verify=tls, limits=httpx.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises AddressRefused, and what httpx raises."""
        return await self._inner.handle_async_request(await self._pinned(request))

    async def _pinned(self, request: httpx.Request) -> httpx.Request:
        """The same request, to an address that was checked; TLS still asks for the name."""
        host = request.url.host
        address = await self._checked(request, host)
        return httpx.Request(
            request.method,
            request.url.copy_with(host=str(address)),
            headers=request.headers,  # `Host` among them
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )

    async def _checked(self, request: httpx.Request, host: str) -> Address:
        if not host:
            raise AddressRefused("The address names no host.", request=request)
        try:
            addresses = await resolve(host, request.url.port or 0)
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"{host} cannot be found: {error}", request=request) from error
        for address in addresses:
            if not is_public(address):
                raise AddressRefused(f"{host} is {address}, which is not a public address.", request=request)
        return addresses[0]

    async def aclose(self) -> None:
        await self._inner.aclose()
