"""Keeps keys out of everything a person or a log may see.

Servers quote the key they refuse, proxies quote whole headers: whatever a provider says passes through here first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from clew.domain.conversation.keys import KEY_SHAPES

REDACTED: Final = "[redacted]"

_SECRET_LENGTH_MIN: Final = 6
"""Shorter ones ("none", "EMPTY") are placeholders, and taking them out would mangle ordinary words."""


class Redactor:
    """Replaces the known secrets, also percent-encoded, and whatever else is shaped like a key."""

    def __init__(self, secrets: Iterable[str | None]) -> None:
        known = {secret for secret in secrets if secret and len(secret) >= _SECRET_LENGTH_MIN}
        self._secrets = sorted(known | {quote(secret, safe="") for secret in known}, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._secrets)} secrets>"

    def __call__(self, text: str) -> str:
        """The text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return KEY_SHAPES.sub(REDACTED, text)
