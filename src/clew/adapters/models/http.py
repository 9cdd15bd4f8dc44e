"""The one HTTP client of the process.

Where a proxy is configured the ordinary client of httpx is made, because proxy rules are its own.
"""

from __future__ import annotations

from urllib.request import getproxies

import httpx

from clew.adapters.models.connections import UNDER_WAY_MAX, Connections


def shared_http_client() -> httpx.AsyncClient:
    """A client for the whole process; whoever makes it closes it. Redirects are not followed: they would carry keys."""
    if getproxies():
        return httpx.AsyncClient(limits=httpx.Limits(max_connections=UNDER_WAY_MAX))
    return httpx.AsyncClient(transport=Connections())
