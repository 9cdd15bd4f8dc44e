"""Pairing codes: short enough to be typed, kept as a hash only, spent once."""

from __future__ import annotations

import hashlib
import re
from typing import Final

CODE_LENGTH: Final = 10
"""Characters of the id alphabet: 50 bits, and five tries an hour."""
CODE_SECONDS: Final = 900
"""For how long a pairing code can be used."""
_PAIR: Final = re.compile(r"/(?:pair|start)\s+(\S{4,40})\s*\Z")


def code_sha256(code: str) -> str:
    """What is kept of a code. Case and dashes do not matter."""
    return hashlib.sha256(code.replace("-", "").casefold().encode("utf-8", "replace")).hexdigest()


def pairing_code(text: str) -> str | None:
    """The code in `/pair CODE`, or None."""
    found = _PAIR.match(text.strip())
    return None if found is None else found[1]
