"""When an attempt is repeated, and after how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.adapters.models.retries import RETRIED, RetryPolicy, asked_seconds
from clew.domain.models.answer import FailureKind

POLICY = RetryPolicy()
NOW = 1_784_030_400.0  # 2026-07-14 12:00:00 UTC


@pytest.mark.parametrize("kind", [k for k in FailureKind if k not in RETRIED])
def test_what_will_be_refused_again_is_not_repeated(kind: FailureKind) -> None:
    assert POLICY.wait(kind, attempt=1, asked=None, elapsed=0, chance=0.5) is None


def test_the_wait_doubles_and_is_spread_over_its_upper_half() -> None:
    waits = [POLICY.wait(FailureKind.SERVER, attempt=n, asked=None, elapsed=0, chance=0.0) for n in (1, 2, 3)]
    assert waits == [0.5, 1.0, 2.0]
    later = [
        POLICY.wait(FailureKind.SERVER, attempt=n, asked=None, elapsed=0, chance=0.999) for n in (1, 2, 3)
    ]
    assert later == pytest.approx([1.0, 2.0, 4.0], rel=0.01)


def test_no_more_than_four_attempts_are_made() -> None:
    assert POLICY.wait(FailureKind.CUT, attempt=3, asked=None, elapsed=0, chance=0) is not None
    assert POLICY.wait(FailureKind.CUT, attempt=4, asked=None, elapsed=0, chance=0) is None


def test_a_server_is_waited_for_as_long_as_it_asks() -> None:
    assert POLICY.wait(FailureKind.RATE_LIMITED, attempt=1, asked=7.5, elapsed=0, chance=0) == 7.5
    assert POLICY.wait(FailureKind.RATE_LIMITED, attempt=1, asked=0.0, elapsed=0, chance=0) == 0.5


def test_a_server_that_asks_for_too_long_is_not_waited_for() -> None:
    """Coming back earlier than asked is of no use, and nobody sits through a minute of silence."""
    assert POLICY.wait(FailureKind.RATE_LIMITED, attempt=1, asked=31, elapsed=0, chance=0) is None


@given(
    st.sampled_from(sorted(RETRIED)),
    st.integers(1, 50),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.floats(0, 1, exclude_max=True),
)
def test_everything_is_bounded(
    kind: FailureKind, attempt: int, asked: float | None, elapsed: float, chance: float
) -> None:
    wait = POLICY.wait(kind, attempt=attempt, asked=asked, elapsed=elapsed, chance=chance)
    if wait is not None:
        assert attempt < 4
        assert (asked or 0) <= wait <= 30
        assert wait > 0
        assert elapsed + wait <= 600


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Tue, 14 Jul 2026 12:00:20 GMT"}, 20.0),
        ({"retry-after": "Tue, 14 Jul 2026 14:00:20 +0200"}, 20.0),
        ({"retry-after": "Tue, 14 Jul 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
    ],
)
def test_what_the_server_asks_for_is_understood(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_seconds(headers, now=NOW) == seconds


@given(st.text(max_size=40))
def test_no_header_is_too_strange(value: str) -> None:
    asked = asked_seconds({"retry-after": value}, now=NOW)
    assert asked is None or asked >= 0
