"""Keys of the HTTP API: an account of a person on the platform `http`, known by the key's hash alone.

Rule: whoever shows a key is its person, and no more. What else a key may is its platform, which is also the surface of the
places it talks in: so a turn that was left in the middle goes on with what its key allowed, and no other.
"""

from __future__ import annotations

import hashlib
from typing import Final

from clew.domain.routing.pairing import Account

SECRET_LENGTH: Final = 32
"""Characters of the id alphabet: 160 bits."""
SHOWN_LENGTH: Final = 12
"""As much of the hash as names a key in a list."""
PLAIN: Final = "http"
WITH_TOOLS: Final = "http+tools"
"""The agent's own tools work for whoever shows the key, under the approval mode of the session."""
SURFACES: Final = (PLAIN, WITH_TOOLS)
_PREFIX: Final = "clew-"


def written(secret: str) -> str:
    """The key as it is shown, once."""
    return f"{_PREFIX}{secret}"


def account(key: str, surface: str) -> Account:
    """What a key is kept as."""
    return Account(surface, hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest())
