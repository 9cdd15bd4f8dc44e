"""Why an import did not happen.

ImportFailed    the stream cannot become sessions; the sentence says at which line and why
"""

from __future__ import annotations


class ImportFailed(Exception):
    """Nothing of the stream was imported."""
