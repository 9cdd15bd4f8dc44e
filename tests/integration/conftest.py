"""What several of the integration tests talk to, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.homeserver import INSTALLED, Homeserver, running_homeserver


@pytest.fixture(scope="session")
def homeserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homeserver]:
    """A Matrix homeserver, for all tests that want one."""
    if not (INSTALLED / ".ready").exists():
        pytest.skip(f"Synapse (a Matrix homeserver) is not installed: {INSTALLED}.log says why")
    with running_homeserver(tmp_path_factory.mktemp("synapse")) as server:
        yield server
