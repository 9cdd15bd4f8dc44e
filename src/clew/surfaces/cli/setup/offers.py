"""Where a model can run: on this machine, with a provider, at any other address, or embedded here as a demo."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from clew.config.settings import ModelSettings
from clew.runtime.detection import (
    EMBEDDED,
    KNOWN_PROVIDERS,
    LOCAL_SERVERS,
    OTHER_PROVIDERS,
    KnownProvider,
    LocalServer,
)
from clew.runtime.ports.models import ModelUnavailable
from clew.surfaces.cli.host import Host

OWN_KEY: Final = "MODEL_API_KEY"
"""The name under which the key of an address of one's own is kept."""
WEIGHTS: Final = "smollm2"
LOCAL_SECONDS_MAX: Final = 1.0
_TITLES: Final = {
    "anthropic": "Anthropic (Claude)",
    "openai": "OpenAI (GPT)",
    "openrouter": "OpenRouter (many models, one key)",
    "google": "Google (Gemini)",
    "mistral": "Mistral",
    "groq": "Groq",
    "deepseek": "DeepSeek",
    "xai": "xAI (Grok)",
    "cerebras": "Cerebras",
    "together": "Together",
}
_ANYBODY_LISTS: Final = frozenset({"openrouter"})
"""Their list of models is public, so that it proves nothing about a key."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A place where a model can run, and what has to be known to use it."""

    key: str
    title: str
    detail: str = ""
    settings: ModelSettings = ModelSettings()
    key_names: tuple[str, ...] = ()
    """Names under which its key is looked for; none for a place that asks for no key."""
    needs_key: bool = False
    needs_address: bool = False
    list_proves: bool = True
    """Whether a list of models shows that the key and the address are right."""
    model: str = ""
    """The one to propose."""

    @property
    def is_demo(self) -> bool:
        return self.settings.provider == EMBEDDED


ADDRESS: Final = Offer(
    key="address",
    title="Another server that speaks the OpenAI protocol",
    detail="vLLM, LiteLLM, a company's own …",
    key_names=(OWN_KEY,),
    needs_address=True,
)
DEMO: Final = Offer(
    key="demo",
    title="A tiny demo model on this machine",
    detail="93 MB, no key; real, and poor: to try Clew, not to work with",
    settings=ModelSettings(provider=EMBEDDED),
)


async def offers(host: Host) -> list[Offer]:
    """Everything there is to choose from: what runs here first, the demo last."""
    found = await asyncio.gather(*(_running(host, server) for server in LOCAL_SERVERS))
    local = [offer for offer in found if offer is not None]
    return [*local, *(of_provider(known) for known in KNOWN_PROVIDERS), ADDRESS, DEMO]


def of_provider(known: KnownProvider) -> Offer:
    """A public provider."""
    return Offer(
        key=known.name,
        title=_TITLES.get(known.name, known.name),
        settings=ModelSettings(provider=known.name),
        key_names=known.key_names,
        needs_key=True,
        list_proves=bool(known.base_url) and known.name not in _ANYBODY_LISTS,
        model=known.model,
    )


def named(provider: str) -> Offer | None:
    """The offer of a provider's name; None for one nobody knows."""
    for known in KNOWN_PROVIDERS:
        if known.name == provider:
            return of_provider(known)
    for server in LOCAL_SERVERS:
        if server.provider == provider:
            return _of_server(server)
    if provider in OTHER_PROVIDERS:
        return Offer(
            key=provider,
            title=provider,
            settings=ModelSettings(provider=provider),
            key_names=(f"{provider.upper().replace('-', '_')}_API_KEY",),
            list_proves=False,
        )
    return DEMO if provider == EMBEDDED else None


def known_names() -> list[str]:
    """The names of providers that can be set up."""
    names = {known.name for known in KNOWN_PROVIDERS} | {server.provider for server in LOCAL_SERVERS}
    return sorted(names | OTHER_PROVIDERS | {EMBEDDED})


def _of_server(server: LocalServer, detail: str = "") -> Offer:
    return Offer(
        key=server.provider,
        title=f"{server.name} on this machine",
        detail=detail,
        settings=ModelSettings(provider=server.provider),
    )


async def _running(host: Host, server: LocalServer) -> Offer | None:
    """A server of this machine, if it answers."""
    asked = ModelSettings(base_url=server.base_url, name="any")
    try:
        async with asyncio.timeout(LOCAL_SECONDS_MAX), host.models(asked) as models:
            names = await (await models.choose(None)).client.models()
    except (ModelUnavailable, TimeoutError):
        return None
    count = len(names)
    return _of_server(server, f"found: {count} model{'' if count == 1 else 's'}") if names else None
