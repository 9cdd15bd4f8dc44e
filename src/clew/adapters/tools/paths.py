"""Paths as people and models type them."""

from __future__ import annotations

import os
from pathlib import Path

from clew.adapters.tools.declared import ToolFailed


def absolute(base: Path, typed: str) -> Path:
    """The path meant: `~` expanded, relative ones under `base`, `..` folded, symbolic links left alone.

    Raises ToolFailed for what no file system takes as a name.
    """
    if "\0" in typed:
        raise ToolFailed("A path cannot hold a NUL character.")
    try:
        typed.encode("utf-8")
        expanded = Path(typed).expanduser()
    except UnicodeEncodeError as error:
        raise ToolFailed("The path is not valid Unicode.") from error
    except RuntimeError as error:
        raise ToolFailed(f"There is no home directory for {typed!r}.") from error
    return Path(os.path.normpath(base / expanded))
