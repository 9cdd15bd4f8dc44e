"""What a call costs: what the settings say of the model, else the maintained price list of the package genai-prices.

Only the embedded model is known to cost nothing. A server on this machine may pass on to a paid one, so it has no price
until the settings give it one. The list is 0.3 s to import: it is loaded on a thread of its own when a paid provider is
chosen, while the model is already answering.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Final
from urllib.parse import urlsplit

from clew.domain.models.answer import Usage
from clew.runtime.ports.models import Cost

MTOK: Final = 1_000_000
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0"})


def no_charge(_: Usage) -> Cost:
    """The price of the embedded model: it runs inside Clew."""
    return Cost(usd=0.0, source="embedded")


def own_price(input_usd_per_mtok: float, output_usd_per_mtok: float) -> Callable[[Usage], Cost]:
    """A price from the settings. What was read from or written to a provider's cache counts as any other input."""

    def price(usage: Usage) -> Cost:
        usd = (usage.input * input_usd_per_mtok + usage.output * output_usd_per_mtok) / MTOK
        return Cost(usd=usd, source=f"settings, {_today()}")

    return price


class ProviderPrices:
    """Prices of one provider's model. Unknown models have none; a figure is never guessed."""

    def __init__(self, model: str, provider: str, base_url: str) -> None:
        self._model = model
        self._provider = provider or None
        self._base_url = base_url or None
        self._is_listed = (urlsplit(base_url).hostname or "") not in _LOCAL
        if self._is_listed:
            threading.Thread(target=_load, name="clew-prices", daemon=True).start()

    def __call__(self, usage: Usage) -> Cost | None:
        """The source names the list, and the day whose prices these are: prices in it begin and end on days."""
        if not self._is_listed:
            return None
        from genai_prices import Usage as Priced  # noqa: PLC0415  0.3 s
        from genai_prices import calc_price  # noqa: PLC0415

        priced = Priced(
            input_tokens=usage.input,
            output_tokens=usage.output,
            cache_read_tokens=usage.cache_read or None,
            cache_write_tokens=usage.cache_write or None,
        )
        try:
            if self._base_url:
                price = calc_price(priced, self._model, provider_api_url=self._base_url)
            else:
                price = calc_price(priced, self._model, provider_id=self._provider)
        except (LookupError, ValueError):
            return None  # the list does not know it: no price is better than a wrong one
        return Cost(usd=float(price.total_price), source=f"{_list()}, {_today()}")


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


@cache
def _list() -> str:
    from importlib.metadata import version  # noqa: PLC0415  0.01 s that no start waits for

    return f"genai-prices {version('genai-prices')}"


def _load() -> None:
    import genai_prices  # noqa: F401, PLC0415
