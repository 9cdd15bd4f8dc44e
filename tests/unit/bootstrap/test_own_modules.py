"""What a process has to have imported before its package may be replaced, and how it notices that it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import clew
from clew.bootstrap.own_modules import LATER
from clew.installed import Installed

_PROGRAM = """
import asyncio, sys
from clew.bootstrap.own_modules import import_own_modules
asyncio.run(import_own_modules())
print(*sys.modules)
"""


def test_all_of_our_own_are_imported_and_nothing_slow() -> None:
    """Every module of the package but the tests' own and those over slow libraries, and none of these libraries."""
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    imported = set(ran.stdout.split())
    root = Path(clew.__file__).parent
    left = {
        ".".join(("clew", *file.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for file in root.rglob("*.py")
    } - imported
    assert {name for name in left if not name.startswith(("clew.testing", "clew.__main__", *LATER))} == set()
    assert imported.isdisjoint({"mcp", "pydantic_ai", "xllamacpp", "genai_prices", "clew.testing"})


def test_a_replaced_package_is_noticed(tmp_path: Path) -> None:
    """Another file in the same place is another package, whatever is in it; one that is gone as well."""
    file = tmp_path / "__init__.py"
    file.write_text("same")
    os.utime(file, ns=(1, 1))
    installed = Installed(str(file))
    assert not installed.is_replaced()
    new = tmp_path / "new"
    new.write_text("same")
    os.utime(new, ns=(1, 1))
    new.replace(file)
    assert installed.is_replaced()
    file.unlink()
    assert installed.is_replaced()


def test_a_package_without_files_is_never_replaced(tmp_path: Path) -> None:
    """One that runs from an archive cannot be looked at, and is believed."""
    installed = Installed(str(tmp_path / "archive" / "__init__.py"))
    assert not installed.is_replaced()
