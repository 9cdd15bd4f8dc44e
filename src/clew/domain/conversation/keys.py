"""What keys and tokens look like: for whoever must not show one, or keep one where every request would hold it."""

from __future__ import annotations

import re
from typing import Final

KEY_SHAPES: Final = re.compile(
    r"(?i:\bbearer\s+)[\w.~+/=-]{6,}"
    r"|\b(?:sk|pk|rk|gsk|xai|csk|nvapi|hf|r8|gh[oprsu]|xox[abeprs])[-_][\w-]{16,}"
    r"|\bAIza[\w-]{20,}"
    r"|\bAKIA[A-Z0-9]{12,}"
)
