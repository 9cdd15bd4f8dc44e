"""What runs Clew as a service agrees with Clew."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from clew.config.settings import GatewaySettings, HttpSettings
from clew.surfaces.cli.codes import Exit
from clew.surfaces.gateway.gateway import DELIVERY_SECONDS
from clew.surfaces.http.listener import CLOSING_SECONDS

PACKAGING = Path(__file__).parents[2] / "packaging"
UNIT = PACKAGING / "clew.service"


def settings_of_the_unit() -> dict[str, str]:
    lines = [
        line for line in UNIT.read_text("utf-8").splitlines() if "=" in line and not line.startswith("#")
    ]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_the_unit_waits_for_a_drain_and_knows_our_exit_codes() -> None:
    """It kills later than a drain can take; it starts us again after 75, and not where a setting is wrong."""
    unit = settings_of_the_unit()
    drain = GatewaySettings().drain_seconds + DELIVERY_SECONDS + CLOSING_SECONDS
    assert int(unit["TimeoutStopSec"]) > drain
    assert unit["RestartForceExitStatus"] == str(int(Exit.RESTART))
    assert unit["RestartPreventExitStatus"] == str(int(Exit.USAGE))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about it, once the program is one that is there."""
    installed = tmp_path / UNIT.name
    installed.write_text(UNIT.read_text("utf-8").replace("/opt/clew/.venv/bin/clew", "/bin/true"))
    found = subprocess.run(
        ["systemd-analyze", "verify", installed], capture_output=True, text=True, check=False, timeout=50
    )
    assert [line for line in (found.stdout + found.stderr).splitlines() if UNIT.name in line] == []


def test_the_container_asks_where_clew_listens() -> None:
    """Its health check knows our port; the base image is an argument; what is installed is checked by hash."""
    text = (PACKAGING / "Containerfile").read_text("utf-8")
    assert f"'127.0.0.1', {HttpSettings().port}" in text
    assert [line for line in text.splitlines() if line.startswith("FROM")] == [
        "FROM ${PYTHON_IMAGE} AS build",
        "FROM ${PYTHON_IMAGE}",
    ]
    assert "--require-hashes --requirement requirements/run.lock" in text
