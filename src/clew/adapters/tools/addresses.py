"""Connections to public addresses only, decided when the connection is made.

A name is resolved once, every address it has is checked, and the connection goes to one that was: checking a name
and then letting the HTTP library resolve it again would ask a stranger's name server twice. Each hop of a
redirect is a request of its own and passes here as well.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import httpx

Address = IPv4Address | IPv6Address

# Written out (IANA's special-purpose registries, RFC 6890), because what Python calls global changes by version.
_OPEN6: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_CLOSED6: Final = tuple(
    map(IPv6Network, ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"])  # Teredo and 6to4 among them
)
_CLOSED4: Final = tuple(map(IPv4Network, ["192.0.0.0/24", "192.88.99.0/24"]))


class AddressRefused(httpx.TransportError):
    """The request would have gone to an address that is not public, or to no host at all; nothing was sent."""


def is_public(address: Address) -> bool:
    """Whether an address is a stranger's on the internet: not private, local, multicast or reserved.

    An IPv6 address that stands for an IPv4 one is as public as that; tunnels (Teredo, 6to4) never are.
    """
    if isinstance(address, IPv4Address):
        special = not address.is_global or address.is_multicast or address.is_reserved
        return not special and not any(address in network for network in _CLOSED4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _OPEN6 and not any(address in network for network in _CLOSED6)


async def resolve(host: str, port: int) -> list[Address]:
    """Every address of a host, in the order the system prefers. Raises OSError when it has none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(str(row[4][0]).partition("%")[0]) for row in found]


Resolve = Callable[[str, int], Awaitable[list[Address]]]


class PublicOnlyTransport(httpx.AsyncBaseTransport):
    """HTTP to addresses that `admits` lets pass: public ones, unless a test has none.

    Keeps no connection: two hosts may share an address, but no connection.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        *,
        resolve: Resolve = resolve,
        admits: Callable[[Address], bool] = is_public,
    ) -> None:
        self._resolve = resolve
        self._admits = admits
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
            addresses = await self._resolve(host, request.url.port or 0)
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"{host} cannot be found: {error}", request=request) from error
        for address in addresses:
            if not self._admits(address):
                raise AddressRefused(f"{host} is {address}, which is not a public address.", request=request)
        return addresses[0]

    async def aclose(self) -> None:
        await self._inner.aclose()
