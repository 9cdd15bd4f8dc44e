"""Keeps keys out of everything a person or a log may see.

Servers quote the key they refuse, proxies quote whole headers: whatever a provider says passes through here first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

REDACTED: Final = "[redacted]"

_SECRET_LENGTH_MIN: Final = 6
"""Shorter ones ("none", "EMPTY") are placeholders, and taking them out would mangle ordinary words."""

_KEY_SHAPES: Final = re.compile(
    r"(?i:\bbearer\s+)[\w.~+/=-]{6,}"
    r"|\b(?:sk|pk|rk|gsk|xai|csk|nvapi|hf|r8)[-_][\w-]{16,}"
    r"|\bAIza[\w-]{20,}"
    r"|\bAKIA[A-Z0-9]{12,}"
)


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
        return _KEY_SHAPES.sub(REDACTED, text)
