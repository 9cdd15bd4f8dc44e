"""Clients for detected models: one HTTP client, one embedded engine, and the key that goes to one host only.

The HTTP client is imported and made when a server is first asked: that takes 0.1 s, and an editor's first session, or
a list of sessions, asks none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clew.adapters.models.embedded.errors import EmbeddedModelError
from clew.adapters.models.embedded.weights import catalogue, is_pulled, pull, weights_path
from clew.adapters.models.prices import ProviderPrices, no_charge, own_price
from clew.adapters.processes.groups import StartedGroups
from clew.adapters.processes.owners import OwnerLocks
from clew.adapters.system import SystemChance
from clew.bootstrap.agents import AgentsLater
from clew.config.home import Home
from clew.config.secrets import Secrets, load_secrets
from clew.config.settings import ModelSettings, Settings
from clew.runtime.detection import EMBEDDED, OPENAI_WIRE, Detected
from clew.runtime.metering import Meter
from clew.runtime.model_choice import DetectedModels, Price
from clew.runtime.ports.models import ModelClient, ModelUnavailable
from clew.surfaces.cli.host import PullRefused

if TYPE_CHECKING:
    from clew.adapters.models.http import HttpClient
    from clew.adapters.models.openai_chat.client import OpenAIChatClient

EMBEDDED_WEIGHTS = "smollm2"


class EmbeddedWeights:
    """`Weights` over the catalogue of embedded models."""

    def __init__(self, models_dir: Path) -> None:
        self._dir = models_dir

    def names(self) -> Sequence[str]:
        return [weights.name for weights in catalogue()]

    def is_pulled(self, name: str) -> bool:
        return is_pulled(self._dir, name)

    def pull(self, name: str, progress: Callable[[str, int, int | None], None]) -> Path:
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return pull(self._dir, name, progress=lambda p: progress(p.phase, p.done_bytes, p.total_bytes))
        except EmbeddedModelError as error:
            raise PullRefused(str(error)) from error


class Connections:
    """What connects to servers of the OpenAI wire, over one HTTP client for the whole process."""

    def __init__(self) -> None:
        self._http: HttpClient | None = None

    def client(self, base_url: str, api_key: str | None = None) -> OpenAIChatClient:
        """Raises ValueError for an address that is none."""
        from clew.adapters.models.http import HttpClient  # noqa: PLC0415  aiohttp: 0.1 s
        from clew.adapters.models.openai_chat.client import OpenAIChatClient  # noqa: PLC0415  the same

        if self._http is None:
            self._http = HttpClient()
        return OpenAIChatClient(self._http, base_url, api_key=api_key)

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.aclose()


@asynccontextmanager
async def opened_models(
    settings: Settings, home: Home, environ: Mapping[str, str]
) -> AsyncIterator[DetectedModels]:
    """Models without a ledger, closed at the end."""
    async with AsyncExitStack() as stack:

        def groups() -> StartedGroups:
            owners = OwnerLocks(home.run, SystemChance().token(8))
            stack.callback(owners.close)
            return owners.groups

        connections = await stack.enter_async_context(aclosing(Connections()))
        agents = AgentsLater(settings, environ, home, groups, Meter())
        models = open_models(settings.model, home, environ, connections, agents)
        try:
            yield models
        finally:
            await agents.aclose()
            await models.close()


def open_models(
    settings: ModelSettings,
    home: Home,
    environ: Mapping[str, str],
    connections: Connections,
    agents: AgentsLater,
) -> DetectedModels:
    """The source of models for these settings. Raises SecretsError when the secrets may not be read."""
    secrets = load_secrets(home, environ)

    async def probe(base_url: str) -> tuple[str, ...] | None:
        try:
            return await connections.client(base_url).models()
        except ModelUnavailable:
            return None

    return DetectedModels(
        settings,
        environ=environ,
        secret_names=secrets.names(),
        probe=probe,
        embedded=lambda: is_pulled(home.models, EMBEDDED_WEIGHTS),
        connect=lambda detected: _connect(detected, secrets, home, connections),
        price=lambda found, is_own: _price(settings, found, is_own),
        agents=agents.choice,
    )


def _price(settings: ModelSettings, found: Detected, is_own: bool) -> Price:
    of_input, of_output = settings.input_usd_per_mtok, settings.output_usd_per_mtok
    if is_own and of_input is not None and of_output is not None:
        return own_price(of_input, of_output)
    return (
        no_charge
        if found.provider == EMBEDDED
        else ProviderPrices(found.name, found.provider, found.base_url)
    )


def _connect(detected: Detected, secrets: Secrets, home: Home, connections: Connections) -> ModelClient:
    if detected.provider == EMBEDDED:
        from clew.adapters.models.embedded.client import EmbeddedClient  # noqa: PLC0415  llama.cpp
        from clew.adapters.models.embedded.engine import EmbeddedEngine  # noqa: PLC0415  llama.cpp

        return EmbeddedClient(EmbeddedEngine(weights_path(home.models, EMBEDDED_WEIGHTS)))
    secret = secrets.get(detected.key_name) if detected.key_name else None
    key = secret.reveal() if secret is not None else None
    if detected.provider == OPENAI_WIRE:
        try:
            return connections.client(detected.base_url, key)
        except ValueError as error:
            raise ModelUnavailable(str(error)) from error
    from clew.adapters.models.pydantic_ai.client import PydanticAIClient  # noqa: PLC0415  1.2 s to import

    return PydanticAIClient(detected.provider, base_url=detected.base_url, api_key=key)
