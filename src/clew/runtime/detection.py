"""Which model answers when nobody said so, or said only half.

The order: what is set, then a key in the environment, then a server on this machine, then the embedded model.
Rule: words go only where somebody pointed: a set address or provider is never left for another one, and nothing
but this machine is asked unbidden.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final

import msgspec

from clew.config.settings import ModelSettings
from clew.runtime.ports.models import ModelUnavailable

OPENAI_WIRE: Final = ""
"""The provider that is any server speaking the OpenAI chat-completions protocol."""
EMBEDDED: Final = "embedded"
AGENT: Final = "acp"
"""The provider that is another agent. Its models' names begin with it, and are taken before everything else that is set."""
EMBEDDED_MODEL: Final = "smollm2"
LOCAL_SECONDS_MAX: Final = 0.3
"""A server on this machine answers within milliseconds; whoever has one that does not waits this long."""
ASKED_SECONDS_MAX: Final = 5.0
"""For an address somebody set, which may be far away."""
NOT_FOR_CHAT: Final = ("embed", "rerank", "whisper")
"""Servers list these beside the models that talk."""

Probe = Callable[[str], Awaitable[tuple[str, ...] | None]]
"""Asks an address for the models it offers; None when no such server answers there. Does not raise."""


class Detected(msgspec.Struct, frozen=True, kw_only=True):
    """A model, and where it answers. An empty `base_url` is the provider's own address."""

    name: str
    provider: str = OPENAI_WIRE
    """Empty for the OpenAI wire, `embedded`, or a provider of pydantic-ai."""
    base_url: str = ""
    key_name: str = ""
    """The variable or secret that holds the key; empty for none."""
    reason: str
    """One sentence for people: why this one."""


class KnownProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A public provider. With a `base_url` it is spoken to on the OpenAI wire, otherwise through pydantic-ai."""

    name: str
    key_names: tuple[str, ...]
    base_url: str = ""
    model: str
    families: tuple[str, ...] = ()
    """How the names of its models begin."""


# Variables and addresses: `providers/*.py` of pydantic-ai-slim 2.68 (the OpenAI-compatible paths of Mistral, Groq
# and xAI as in their API references). Models: the middle of each provider's list in its `KnownModelName` and in
# genai-prices 0.2.3, so that all have a known price.
KNOWN_PROVIDERS: Final = (
    KnownProvider(
        name="anthropic", key_names=("ANTHROPIC_API_KEY",), model="claude-sonnet-5-5", families=("claude-",)
    ),
    KnownProvider(
        name="openai",
        key_names=("OPENAI_API_KEY",),
        base_url="https://api.openai.com/v1",
        model="gpt-6.1-sol",
        families=("gpt-",),
    ),
    KnownProvider(
        name="openrouter",
        key_names=("OPENROUTER_API_KEY",),
        base_url="https://openrouter.ai/api/v1",
        model="anthropic/claude-sonnet-5.5",
    ),
    KnownProvider(
        name="google",
        key_names=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        model="gemini-3.8-flash",
        families=("gemini-",),
    ),
    KnownProvider(
        name="mistral",
        key_names=("MISTRAL_API_KEY",),
        base_url="https://api.mistral.ai/v1",
        model="mistral-medium-latest",
        families=("mistral-", "magistral-", "ministral-", "codestral-"),
    ),
    KnownProvider(
        name="groq",
        key_names=("GROQ_API_KEY",),
        base_url="https://api.groq.com/openai/v1",
        model="openai/gpt-oss-120b",
    ),
    KnownProvider(
        name="deepseek",
        key_names=("DEEPSEEK_API_KEY",),
        base_url="https://api.deepseek.com",
        model="deepseek-v4-pro",
        families=("deepseek-",),
    ),
    KnownProvider(
        name="xai",
        key_names=("XAI_API_KEY",),
        base_url="https://api.x.ai/v1",
        model="grok-4.7",
        families=("grok-",),
    ),
    KnownProvider(
        name="cerebras",
        key_names=("CEREBRAS_API_KEY",),
        base_url="https://api.cerebras.ai/v1",
        model="gpt-oss-120b",
    ),
    KnownProvider(
        name="together",
        key_names=("TOGETHER_API_KEY",),
        base_url="https://api.together.xyz/v1",
        model="openai/gpt-oss-120b",
    ),
)


# What else pydantic-ai 2.68 takes as a provider for chat (`infer_provider_class`); needs a model's name.
OTHER_PROVIDERS: Final = frozenset({
    "alibaba", "azure", "azure-responses", "bedrock", "cohere", "fireworks", "github", "google-cloud", "heroku",
    "huggingface", "litellm", "moonshotai", "nebius", "openai-chat", "openai-responses", "ovhcloud", "sambanova",
    "vercel", "zai",
})  # fmt: skip


class LocalServer(msgspec.Struct, frozen=True):
    """A program that serves models on this machine, at its usual port."""

    provider: str
    name: str
    base_url: str


# The default port of each program's manual. The address is a number, because `localhost` may be two addresses.
LOCAL_SERVERS: Final = (
    LocalServer("ollama", "Ollama", "http://127.0.0.1:11434/v1"),
    LocalServer("lmstudio", "LM Studio", "http://127.0.0.1:1234/v1"),
    LocalServer("llamacpp", "llama.cpp", "http://127.0.0.1:8080/v1"),
    LocalServer("vllm", "vLLM", "http://127.0.0.1:8000/v1"),
)
_LOCAL_NAMES: Final = frozenset(server.provider for server in LOCAL_SERVERS)


async def detect(
    settings: ModelSettings,
    *,
    environ: Mapping[str, str],
    secret_names: Collection[str],
    probe: Probe,
    embedded: bool,
    local_seconds_max: float = LOCAL_SECONDS_MAX,
) -> Detected | None:
    """The model to use, or None where there is none at all.

    `secret_names` are the keys kept in secrets.toml; `embedded` says whether the weights of the embedded model
    are here. Does not promise that the model answers: no paid call is made.

    Raises ModelUnavailable where what is set cannot be completed, with a sentence that says what is missing.
    """
    keys = {name for name, text in environ.items() if text} | set(secret_names)
    search = _Search(_providers(environ), keys, probe, embedded, local_seconds_max)
    return (
        await search.as_set(settings)
        or await search.by_key()
        or await search.on_this_machine()
        or search.embedded_model()
    )


def _providers(environ: Mapping[str, str]) -> tuple[KnownProvider, ...]:
    """The known providers; OPENAI_BASE_URL puts another server in OpenAI's place, with models of its own."""
    elsewhere = environ.get("OPENAI_BASE_URL", "")
    return tuple(
        msgspec.structs.replace(known, base_url=elsewhere, model="", families=())
        if elsewhere and known.name == "openai"
        else known
        for known in KNOWN_PROVIDERS
    )


def names_provider(name: str, environ: Mapping[str, str]) -> bool:
    """Whether a model's name says where it runs, so that no server need be asked for it."""
    return bool(_provider_in(name, _providers(environ)))


def _provider_in(name: str, providers: Collection[KnownProvider]) -> str:
    provider, _, model = name.partition(":")
    named = {known.name for known in providers} | _LOCAL_NAMES | OTHER_PROVIDERS
    return provider if provider == EMBEDDED or (model and provider in named) else ""


class _Search:
    """What there is to choose from, and the ways to choose."""

    def __init__(
        self,
        providers: tuple[KnownProvider, ...],
        keys: Collection[str],
        probe: Probe,
        embedded: bool,
        local_seconds_max: float,
    ) -> None:
        self._providers = providers
        self._keys = keys
        self._probe = probe
        self._embedded = embedded
        self._local_seconds_max = local_seconds_max

    async def as_set(self, settings: ModelSettings) -> Detected | None:
        """What the settings say, completed; None where they say nothing."""
        provider, name = settings.provider, settings.name
        if name.startswith(f"{AGENT}:"):
            return Detected(name=name, provider=AGENT, reason="another agent is set as the model")
        if not provider and not settings.base_url:
            provider, name = self._split(name)
        if provider == EMBEDDED:
            return self._embedded_as_set()
        if settings.base_url:
            return await self._at_address(settings)
        if provider:
            return await self._of_provider(provider, name, settings.api_key_env)
        if name:
            return await self._of_name(name, settings.api_key_env)
        return await self._of_key(settings.api_key_env) if settings.api_key_env in self._keys else None

    async def by_key(self) -> Detected | None:
        """The default model of the first provider there is a key for."""
        for known in self._providers:
            if key := self._key_of(known):
                return await self._with_key(known, known.model, key, f"{key} is set")
        return None

    async def on_this_machine(self) -> Detected | None:
        """The first model of the first server that answers."""
        for server, models in await self._local_models():
            if models:
                return _local(server, models[0], f"{server.name} answers on this machine")
        return None

    def embedded_model(self) -> Detected | None:
        """The demo model, if its weights are here."""
        reason = (
            "no key and no local server was found, so the tiny demo model answers; `clew setup` changes that"
        )
        return _embedded(reason) if self._embedded else None

    def _split(self, name: str) -> tuple[str, str]:
        """`provider:model` in two; a colon after anything else belongs to the name, as in `llama3.2:3b`."""
        provider = _provider_in(name, self._providers)
        return (provider, name.partition(":")[2]) if provider else ("", name)

    async def _at_address(self, settings: ModelSettings) -> Detected:
        at_home = (known for known in self._providers if known.base_url == settings.base_url.rstrip("/"))
        known = self._known(settings.provider) or next(at_home, None)
        on_wire = {"", *(other.name for other in self._providers if other.base_url), *_LOCAL_NAMES}
        return Detected(
            name=settings.name or await self._only_model(settings.base_url, "model.base_url"),
            provider=OPENAI_WIRE if settings.provider in on_wire else settings.provider,
            base_url=settings.base_url,
            key_name=settings.api_key_env or (self._key_of(known) if known else ""),
            reason="model.base_url is set",
        )

    async def _of_provider(self, provider: str, name: str, key: str) -> Detected:
        for server in LOCAL_SERVERS:
            if server.provider == provider:
                model = name or await self._only_model(server.base_url, "model.provider")
                return _local(server, model, f"{server.name} is set as the provider")
        known = self._known(provider)
        if known is None:
            if not name:
                raise ModelUnavailable(f"model.name is not set, and no default is known for {provider}")
            return Detected(name=name, provider=provider, key_name=key, reason=f"{provider} is set")
        key = key or self._key_of(known)
        if not key:
            raise ModelUnavailable(f"{provider} needs a key: set {known.key_names[0]}")
        return await self._with_key(known, name or known.model, key, f"{provider} is set as the provider")

    async def _of_name(self, name: str, key: str) -> Detected:
        """Where a model runs of which only the name is set: on this machine, with its maker, or with a reseller.

        This machine comes first: makers give names of their family to models that people run at home.
        """
        for server, models in await self._local_models():
            if listed := [model for model in models if model in (name, f"{name}:latest")]:
                return _local(server, listed[0], f"{server.name} on this machine has {name}")
        for known in self._providers:
            if name.startswith(known.families) and (own := key or self._key_of(known)):
                return await self._with_key(known, name, own, f"{name} is a model of {known.name}")
        for known in self._providers:
            if not known.families and (own := self._key_of(known)):
                return await self._with_key(
                    known, name, own, f"{own} is set, and {known.name} has many models"
                )
        raise ModelUnavailable(
            f"nothing says where the model {name} runs: set model.base_url, or write its provider in front, "
            f"as in openai:{name}"
        )

    async def _of_key(self, key: str) -> Detected:
        for known in self._providers:
            if key in known.key_names:
                return await self._with_key(known, known.model, key, f"model.api_key_env names {key}")
        raise ModelUnavailable(f"nothing says whose key {key} is: set model.provider or model.base_url")

    async def _with_key(self, known: KnownProvider, name: str, key: str, reason: str) -> Detected:
        return Detected(
            name=name or await self._only_model(known.base_url, "OPENAI_BASE_URL"),
            provider=OPENAI_WIRE if known.base_url else known.name,
            base_url=known.base_url,
            key_name=key,
            reason=reason,
        )

    def _embedded_as_set(self) -> Detected:
        if not self._embedded:
            raise ModelUnavailable("the embedded model is not here: run `clew model pull smollm2`")
        return _embedded("the embedded model is set; it is a tiny demo")

    def _known(self, provider: str) -> KnownProvider | None:
        return next((known for known in self._providers if known.name == provider), None)

    def _key_of(self, known: KnownProvider) -> str:
        return next((key for key in known.key_names if key in self._keys), "")

    async def _only_model(self, base_url: str, because: str) -> str:
        models = await self._ask(base_url, ASKED_SECONDS_MAX)
        if not models:
            raise ModelUnavailable(
                f"{because} is set but model.name is not, and {base_url} did not say which models it has"
            )
        return models[0]

    async def _local_models(self) -> Iterable[tuple[LocalServer, tuple[str, ...]]]:
        """What each server on this machine offers. All are asked at once."""
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self._ask(server.base_url, self._local_seconds_max))
                for server in LOCAL_SERVERS
            ]
        return zip(LOCAL_SERVERS, (task.result() for task in asked), strict=True)

    async def _ask(self, base_url: str, seconds: float) -> tuple[str, ...]:
        """The models that can talk; none where nothing answers in time."""
        try:
            async with asyncio.timeout(seconds):
                models = await self._probe(base_url) or ()
        except TimeoutError:
            return ()
        return tuple(model for model in models if not any(word in model.lower() for word in NOT_FOR_CHAT))


def _local(server: LocalServer, model: str, reason: str) -> Detected:
    return Detected(name=model, base_url=server.base_url, reason=reason)


def _embedded(reason: str) -> Detected:
    return Detected(name=EMBEDDED_MODEL, provider=EMBEDDED, reason=reason)
