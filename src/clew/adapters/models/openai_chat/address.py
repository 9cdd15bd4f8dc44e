"""Base URLs as people write them."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from yarl import URL

_VERSION: Final = re.compile(r"v\d+\w*")
_PASTED: Final = re.compile(r"/(chat/completions|completions|models)/?$")
_LOCAL: Final = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|0\.0\.0\.0|\[::1\]|10\.|192\.168\.)")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where an API is. `host` is how sentences name it; `password` is the `user:password` the URL held, if any."""

    api: str
    host: str
    password: str | None = None

    @property
    def root(self) -> str:
        """Of the server, for what lies beside the API; without a slash at the end."""
        return f"{'http' if self.is_plain_http else 'https'}://{self.host}"

    @property
    def is_plain_http(self) -> bool:
        """As only servers on the own machine or network are reached."""
        return self.api.startswith("http:")


def parse_base_url(text: str) -> Address:
    """Takes a base URL with or without scheme, `/v1`, trailing slash or pasted endpoint.

    `/v1` is added unless a version stands in the path already (`/v1`, `/api/v1`, `/v1beta/openai`, `/paas/v4`).

    Raises:
        ValueError: it names no host, or a scheme other than http and https. Its text shows no password.
    """
    typed = text.strip()
    if "://" not in typed:
        typed = f"{'http' if _LOCAL.match(typed) else 'https'}://{typed}"
    try:
        url = URL(typed)
    except ValueError as wrong:
        raise ValueError("the base URL is not a URL") from wrong
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"the base URL needs http:// or https:// and a host, not {url.scheme}://{url.host}")
    password = None if url.user is None else f"{url.user}:{url.password or ''}"
    path = _PASTED.sub("", url.raw_path.rstrip("/"))
    if not any(_VERSION.fullmatch(part) for part in path.split("/")):
        path += "/v1"
    api = url.with_user(None).with_path(path, encoded=True)
    return Address(api=str(api), host=api.host_port_subcomponent or "", password=password)
