"""The configuration is read at every start, so it loads nothing slow."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from clew.config.home import Home
from clew.config.load import load
from clew.config.secrets import load_secrets
load(Home(Path(sys.argv[1])), {"CLEW__TURN__BUSY": "steer"})
load_secrets(Home(Path(sys.argv[1])), {})
print(*sys.modules)
"""


def test_loading_imports_nothing_slow(tmp_path: Path) -> None:
    """Reading a valid configuration needs no writer, no suggestions, no time zones and no network."""
    (tmp_path / "config.toml").write_text("[turn]\nmax_steps = 3\n")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    imported = set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert "clew.config.load" in imported
    assert not imported & {"tomlkit", "difflib", "zoneinfo", "asyncio", "tempfile", "socket", "ssl"}
