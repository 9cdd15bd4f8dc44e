"""What a call costs, and where that stands."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version

from clew.adapters.models.prices import ProviderPrices, no_charge, own_price
from clew.domain.models.answer import Usage

MTOK = 1_000_000


def test_a_price_of_the_list_says_which_list_and_of_which_day() -> None:
    """Lists are corrected, and prices change: a figure without both could not be checked later."""
    cost = ProviderPrices("gpt-4o", "openai", "https://api.openai.com/v1")(Usage(input=MTOK, output=0))
    assert cost is not None
    assert cost.usd == 2.5
    today = datetime.now(UTC).date()
    assert cost.source == f"genai-prices {version('genai-prices')}, {today.isoformat()}"


def test_what_was_read_from_the_cache_costs_what_the_list_says() -> None:
    """A part of the input, at its own price."""
    price = ProviderPrices("gpt-4o", "openai", "https://api.openai.com/v1")
    cached = price(Usage(input=MTOK, cache_read=MTOK))
    assert cached is not None
    assert cached.usd == 1.25


def test_a_model_in_no_list_has_no_price() -> None:
    """A figure is never guessed, also for a server on this machine, which may pass on to a paid one."""
    assert ProviderPrices("nobody-knows-it", "openai", "https://api.openai.com/v1")(Usage(input=1)) is None
    assert ProviderPrices("gpt-4o", "", "http://127.0.0.1:8000/v1")(Usage(input=1)) is None


def test_the_price_of_the_settings_holds_for_all_input() -> None:
    """Whatever the provider's cache did with it."""
    cost = own_price(2.0, 10.0)(Usage(input=MTOK, output=MTOK, cache_read=MTOK))
    assert cost.usd == 12.0
    assert cost.source.startswith("settings, 20")


def test_the_embedded_model_costs_nothing() -> None:
    """So it may be used under any cap."""
    assert no_charge(Usage(input=MTOK)).usd == 0.0
