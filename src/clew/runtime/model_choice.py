"""Which client answers for a model's name: found once, then kept for the life of the process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec

from clew.config.settings import ModelSettings
from clew.domain.models.answer import Usage
from clew.runtime.detection import AGENT, Detected, Probe, detect, names_provider
from clew.runtime.ports.models import Cost, ModelChoice, ModelClient, ModelUnavailable

Price = Callable[[Usage], Cost | None]
Priced = Callable[[Detected, bool], Price]
"""Makes the price of what was detected; the flag says whether it is the model of the settings."""
NOTHING_FOUND = (
    "No model is configured: run `clew setup`, or set CLEW_BASE_URL, CLEW_MODEL and CLEW_API_KEY, "
    "or pull the tiny demo model with `clew model pull smollm2`."
)


class DetectedModels:
    """`ModelSource` by detection. `connect` makes the client for what was detected, `price` says what it charges."""

    def __init__(
        self,
        settings: ModelSettings,
        *,
        environ: Mapping[str, str],
        secret_names: Collection[str],
        probe: Probe,
        embedded: Callable[[], bool],
        connect: Callable[[Detected], ModelClient],
        price: Priced,
        agents: Callable[[str], ModelChoice],
    ) -> None:
        """`agents` makes the choice of another agent by its whole name. Raises ModelUnavailable."""
        self._settings = settings
        self._environ = environ
        self._secret_names = secret_names
        self._probe = probe
        self._embedded = embedded
        self._connect = connect
        self._price = price
        self._agents = agents
        self._chosen: dict[str, ModelChoice] = {}
        self._clients: dict[tuple[str, str, str], ModelClient] = {}

    async def detect(self, name: str | None = None) -> Detected | None:
        """What would be used, without connecting. Raises ModelUnavailable."""
        settings = self._settings if name is None else msgspec.structs.replace(self._settings, name=name)
        return await detect(
            settings,
            environ=self._environ,
            secret_names=self._secret_names,
            probe=self._probe,
            embedded=self._embedded(),
        )

    async def check(self, name: str) -> None:
        """Raises ModelUnavailable for a name that cannot be right, as far as that shows without asking a server."""
        if name.startswith(f"{AGENT}:"):
            self._agents(name)
        elif not self._settings.base_url and names_provider(name, self._environ):
            await self.detect(name)

    async def choose(self, name: str | None) -> ModelChoice:
        known = self._chosen.get(name or "")
        if known is None:
            detected = await self.detect(name or None)
            if detected is None:
                raise ModelUnavailable(NOTHING_FOUND)
            is_own = not name or name == self._settings.name
            known = self._chosen[name or ""] = await self._choice(detected, is_own)
        return known

    async def close(self) -> None:
        """Closes every client. Idempotent."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()
        self._chosen.clear()

    async def _choice(self, detected: Detected, is_own: bool) -> ModelChoice:
        """`is_own`: what the settings say of their model holds for this one."""
        if detected.provider == AGENT:
            return self._agents(detected.name)
        key = (detected.provider, detected.base_url, detected.key_name)
        if key not in self._clients:
            self._clients[key] = self._connect(detected)
        client = self._clients[key]
        profile = await client.profile(detected.name)
        if self._settings.context_window and is_own:
            window = self._settings.context_window
            profile = msgspec.structs.replace(profile, context_window=window, is_window_known=True)
        if self._settings.max_output and is_own:
            profile = msgspec.structs.replace(profile, max_output=self._settings.max_output)
        return ModelChoice(client, profile, self._price(detected, is_own))
