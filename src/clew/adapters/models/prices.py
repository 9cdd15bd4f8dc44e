"""What a call cost, from the maintained price list of the package genai-prices.

A model on this machine costs nothing that a provider charges, so it has no price. The list is 0.3 s to import: it is
loaded on a thread of its own when a paid provider is chosen, while the model is already answering.
"""

from __future__ import annotations

import threading
from importlib.metadata import version
from urllib.parse import urlsplit

from clew.domain.models.answer import Usage
from clew.runtime.ports.models import Cost

_LOCAL = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0"})


class ProviderPrices:
    """Prices of one provider's model. Unknown models have none; a figure is never guessed."""

    def __init__(self, model: str, provider: str, base_url: str) -> None:
        self._model = model
        self._provider = provider or None
        self._base_url = base_url or None
        self._is_free = provider == "embedded" or (urlsplit(base_url).hostname or "") in _LOCAL
        if not self._is_free:
            threading.Thread(target=_load, name="clew-prices", daemon=True).start()

    def __call__(self, usage: Usage) -> Cost | None:
        if self._is_free:
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
        return Cost(usd=float(price.total_price), source=f"genai-prices {version('genai-prices')}")


def _load() -> None:
    import genai_prices  # noqa: F401, PLC0415
