"""What holds for every test."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable",
    settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]),
)
settings.register_profile("random", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]))
settings.load_profile("repeatable")
"""The same examples every time, however slow the machine; `ARGS='--hypothesis-profile random'` looks for new ones."""


def pytest_configure() -> None:
    """Ctrl-C reaches the programs that tests start, also where the tests themselves run in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Where asynchronous tests run."""
    return "asyncio"
