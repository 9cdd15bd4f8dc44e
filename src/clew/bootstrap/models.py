"""Clients for detected models: one HTTP client, one embedded engine, and the key that goes to one host only."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

EmbeddedClient = None
from clew.adapters.models.embedded.engine import EmbeddedEngine
from clew.adapters.models.embedded.weights import is_pulled, weights_path
from clew.adapters.models.openai_chat.client import OpenAIChatClient
from clew.config.home import Home
from clew.config.secrets import Secrets, load_secrets
from clew.config.settings import Settings
from clew.runtime.detection import EMBEDDED, OPENAI_WIRE, Detected
from clew.runtime.model_choice import DetectedModels
from clew.runtime.ports.models import ModelClient, ModelUnavailable

EMBEDDED_WEIGHTS = "smollm2"


def open_models(
    settings: Settings, home: Home, environ: Mapping[str, str], http: httpx.AsyncClient
) -> DetectedModels:
    """The source of models for these settings. Raises SecretsError when the secrets may not be read."""
    secrets = load_secrets(home, environ)

    async def probe(base_url: str) -> tuple[str, ...] | None:
        try:
            return await OpenAIChatClient(http, base_url).models()
        except ModelUnavailable:
            return None

    return DetectedModels(
        settings.model,
        environ=environ,
        secret_names=secrets.names(),
        probe=probe,
        embedded=lambda: is_pulled(home.models, EMBEDDED_WEIGHTS),
        connect=lambda detected: _connect(detected, secrets, home, http),
    )


def _connect(detected: Detected, secrets: Secrets, home: Home, http: httpx.AsyncClient) -> ModelClient:
    if detected.provider == EMBEDDED:
        return EmbeddedClient(EmbeddedEngine(weights_path(home.models, EMBEDDED_WEIGHTS)))
    secret = secrets.get(detected.key_name) if detected.key_name else None
    key = secret.reveal() if secret is not None else None
    if detected.provider == OPENAI_WIRE:
        try:
            return OpenAIChatClient(http, detected.base_url, api_key=key)
        except ValueError as error:
            raise ModelUnavailable(str(error)) from error
    from clew.adapters.models.pydantic_ai.client import PydanticAIClient  # noqa: PLC0415  1.2 s to import

    return PydanticAIClient(detected.provider, base_url=detected.base_url, api_key=key)
