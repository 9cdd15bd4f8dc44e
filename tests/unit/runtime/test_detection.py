"""Which model is found: in order, only where somebody pointed, and never by waiting long."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import pytest
from genai_prices.data import providers as priced_providers

from clew.config.settings import ModelSettings
from clew.domain.models.request import ModelProfile
from clew.runtime.detection import (
    EMBEDDED,
    EMBEDDED_MODEL,
    KNOWN_PROVIDERS,
    LOCAL_SERVERS,
    Detected,
    KnownProvider,
    detect,
)
from clew.runtime.model_choice import DetectedModels
from clew.runtime.ports.models import ModelUnavailable, no_price
from clew.testing.scripted_model import ScriptedModel

OLLAMA, LM_STUDIO, LLAMA_CPP, VLLM = (server.base_url for server in LOCAL_SERVERS)
FAR = "http://10.0.0.7:9000/v1"


class Servers:
    """Servers that answer at some addresses; remembers who was asked."""

    def __init__(self, models: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self._models = models or {}
        self.asked: list[str] = []

    async def probe(self, base_url: str) -> tuple[str, ...] | None:
        self.asked.append(base_url)
        return self._models.get(base_url)


def find(
    settings: ModelSettings | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    secret_names: Collection[str] = (),
    probe: Callable[[str], Awaitable[tuple[str, ...] | None]] | None = None,
    embedded: bool = False,
) -> Detected | None:
    return asyncio.run(
        detect(
            settings or ModelSettings(),
            environ=environ or {},
            secret_names=secret_names,
            probe=probe or Servers().probe,
            embedded=embedded,
        )
    )


def found(settings: ModelSettings | None = None, **how: Any) -> tuple[str, str, str, str]:
    """Name, provider, address and key of what was found."""
    detected = find(settings, **how)
    assert detected is not None
    assert detected.reason
    return detected.name, detected.provider, detected.base_url, detected.key_name


def test_the_order_is_settings_keys_local_servers_embedded_nothing() -> None:
    """Each step is taken only when the ones before it found nothing."""
    servers = Servers({OLLAMA: ("llama3.2:3b",)})
    settings = ModelSettings(name="m", base_url=FAR)
    keys = {"ANTHROPIC_API_KEY": "k"}
    assert found(settings, environ=keys, probe=servers.probe, embedded=True)[2] == FAR
    assert found(environ=keys, probe=servers.probe, embedded=True)[1] == "anthropic"
    assert servers.asked == []
    assert found(probe=servers.probe, embedded=True) == ("llama3.2:3b", "", OLLAMA, "")
    assert found(embedded=True) == (EMBEDDED_MODEL, EMBEDDED, "", "")
    assert find() is None


@pytest.mark.parametrize("known", KNOWN_PROVIDERS, ids=lambda known: known.name)
def test_every_known_key_finds_its_provider(known: KnownProvider) -> None:
    """A key in the environment or in secrets.toml is enough; an empty variable is none."""
    for key in known.key_names:
        wanted = (known.model, "" if known.base_url else known.name, known.base_url, key)
        assert found(environ={key: "k"}) == wanted
        assert found(secret_names=[key]) == wanted
        assert find(environ={key: ""}) is None


@pytest.mark.parametrize("known", KNOWN_PROVIDERS, ids=lambda known: known.name)
def test_every_default_model_exists_and_has_a_price(known: KnownProvider) -> None:
    """A default nobody sells would fail at the first message, and one without a price under every cap."""
    priced = {"xai": "x-ai"}.get(known.name, known.name)
    [provider] = [provider for provider in priced_providers if provider.id == priced]
    assert provider.find_model(known.model) is not None


def test_the_first_of_several_keys_decides() -> None:
    """The order is that of the table, not of the environment."""
    assert found(environ={"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b"})[1] == "anthropic"


def test_openais_key_goes_where_openais_address_points() -> None:
    """Who sets OPENAI_BASE_URL keeps words and key from OpenAI's own server."""
    environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": FAR}
    assert found(environ=environ, probe=Servers({FAR: ("house-model",)}).probe) == (
        "house-model", "", FAR, "OPENAI_API_KEY",
    )  # fmt: skip
    with pytest.raises(ModelUnavailable, match=r"OPENAI_BASE_URL is set but model\.name is not"):
        find(environ=environ)


def test_a_set_address_is_never_left() -> None:
    """Where an address is set but says no model, nothing else is tried, whatever keys there are."""
    settings = ModelSettings(base_url=FAR)
    servers = Servers()
    with pytest.raises(
        ModelUnavailable, match=rf"model.base_url is set but model.name is not, and {FAR} did not say"
    ):
        find(settings, environ={"OPENAI_API_KEY": "k"}, probe=servers.probe, embedded=True)
    assert servers.asked == [FAR]
    assert found(settings, probe=Servers({FAR: ("nomic-embed-text", "qwen")}).probe) == ("qwen", "", FAR, "")


def test_with_an_address_the_name_is_taken_as_it_stands() -> None:
    """Ollama has a model named mistral:7b; it must not be taken for one of Mistral's, far away."""
    settings = ModelSettings(name="mistral:7b", base_url=OLLAMA)
    assert found(settings, environ={"MISTRAL_API_KEY": "k"}) == ("mistral:7b", "", OLLAMA, "")
    assert found(ModelSettings(name="embedded", base_url=FAR)) == ("embedded", "", FAR, "")


def test_a_known_address_gets_its_providers_key_and_no_other() -> None:
    """A key goes to its own provider only."""
    keys = {"GROQ_API_KEY": "k", "OPENAI_API_KEY": "k"}
    assert (
        found(ModelSettings(name="m", base_url="https://api.groq.com/openai/v1/"), environ=keys)[3]
        == "GROQ_API_KEY"
    )
    assert found(ModelSettings(name="m", base_url=FAR), environ=keys)[3] == ""
    assert found(ModelSettings(name="m", base_url=FAR, api_key_env="MINE"), environ=keys)[3] == "MINE"


def test_a_provider_of_pydantic_ai_keeps_its_set_address() -> None:
    """Somebody's own gateway to Anthropic is spoken to as Anthropic."""
    settings = ModelSettings(name="claude-x", provider="anthropic", base_url=FAR)
    assert found(settings, environ={"ANTHROPIC_API_KEY": "k"}) == (
        "claude-x",
        "anthropic",
        FAR,
        "ANTHROPIC_API_KEY",
    )


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (ModelSettings(name="anthropic:claude-x"), ("claude-x", "anthropic", "", "ANTHROPIC_API_KEY")),
        (ModelSettings(provider="anthropic"), ("claude-sonnet-5-5", "anthropic", "", "ANTHROPIC_API_KEY")),
        (ModelSettings(name="openai:x"), ("x", "", "https://api.openai.com/v1", "OPENAI_API_KEY")),
        (ModelSettings(name="groq:a/b"), ("a/b", "", "https://api.groq.com/openai/v1", "GROQ_API_KEY")),
        (ModelSettings(name="openai:x", api_key_env="MINE"), ("x", "", "https://api.openai.com/v1", "MINE")),
        (ModelSettings(name="bedrock:m:1"), ("m:1", "bedrock", "", "")),
        (ModelSettings(name="ollama:llama3.2:3b"), ("llama3.2:3b", "", OLLAMA, "")),
        (ModelSettings(provider="lmstudio", name="q"), ("q", "", LM_STUDIO, "")),
        (ModelSettings(name="embedded"), (EMBEDDED_MODEL, EMBEDDED, "", "")),
        (ModelSettings(provider="embedded"), (EMBEDDED_MODEL, EMBEDDED, "", "")),
        (ModelSettings(provider="embedded", base_url=FAR), (EMBEDDED_MODEL, EMBEDDED, "", "")),
        (ModelSettings(provider="ollama", name="q", base_url=FAR), ("q", "", FAR, "")),
        (ModelSettings(provider="openai", name="q", base_url=FAR), ("q", "", FAR, "OPENAI_API_KEY")),
    ],
)
def test_a_provider_can_be_written_in_the_name_or_beside_it(
    settings: ModelSettings, wanted: tuple[str, str, str, str]
) -> None:
    """`provider:model` and model.provider mean the same."""
    keys = {"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k", "GROQ_API_KEY": "k"}
    assert found(settings, environ=keys, embedded=True) == wanted


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (ModelSettings(name="anthropic:claude-x"), "anthropic needs a key: set ANTHROPIC_API_KEY"),
        (ModelSettings(provider="cohere"), "model.name is not set, and no default is known for cohere"),
        (ModelSettings(provider="embedded"), "the embedded model is not here: run `clew model pull smollm2`"),
        (ModelSettings(provider="ollama"), "model.provider is set but model.name is not"),
        (ModelSettings(name="some-model"), "nothing says where the model some-model runs"),
        (
            ModelSettings(api_key_env="MINE"),
            "nothing says whose key MINE is: set model.provider or model.base_url",
        ),
    ],
)
def test_what_is_set_by_half_and_cannot_be_completed_is_said(settings: ModelSettings, sentence: str) -> None:
    """One sentence with what is missing, and no other model instead."""
    with pytest.raises(ModelUnavailable, match=sentence):
        find(settings, environ={"MINE": "k", "GEMINI_API_KEY": "k"})


def test_a_name_alone_is_found_here_then_with_its_maker_then_with_a_reseller() -> None:
    """A bare name goes to whoever has it: to this machine first, also where it sounds like a maker's."""
    keys = {"OPENAI_API_KEY": "k", "OPENROUTER_API_KEY": "k"}
    servers = Servers({VLLM: ("gpt-oss:latest", "house")})
    assert found(ModelSettings(name="house"), environ=keys, probe=servers.probe)[:3] == ("house", "", VLLM)
    assert found(ModelSettings(name="gpt-oss"), environ=keys, probe=servers.probe)[0] == "gpt-oss:latest"
    assert found(ModelSettings(name="gpt-9"), environ=keys)[2:] == (
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
    )
    assert found(ModelSettings(name="a/b"), environ=keys)[2] == "https://openrouter.ai/api/v1"
    assert found(ModelSettings(name="gpt-9", api_key_env="MINE"))[3] == "MINE"


def test_a_set_key_decides_between_several() -> None:
    """Who names a provider's key means that provider."""
    keys = {"ANTHROPIC_API_KEY": "k", "MISTRAL_API_KEY": "k"}
    assert found(ModelSettings(api_key_env="MISTRAL_API_KEY"), environ=keys)[3] == "MISTRAL_API_KEY"


def test_local_servers_are_tried_in_order_and_a_model_that_cannot_talk_is_none() -> None:
    """The first server with a model for chat wins."""
    models = {
        OLLAMA: ("nomic-embed-text",),
        LM_STUDIO: (),
        LLAMA_CPP: ("bge-Rerank", "qwen"),
        VLLM: ("other",),
    }
    assert found(probe=Servers(models).probe) == ("qwen", "", LLAMA_CPP, "")


def test_nothing_but_this_machine_is_asked_unbidden() -> None:
    """Looking around touches loopback addresses only."""
    servers = Servers()
    find(probe=servers.probe)
    assert servers.asked == [OLLAMA, LM_STUDIO, LLAMA_CPP, VLLM]
    assert all(url.startswith("http://127.0.0.1:") for url in servers.asked)


def test_a_server_that_does_not_answer_is_not_waited_for() -> None:
    """All are asked at once, and one that hangs costs the limit once and hides no other."""
    waiting = 0

    async def probe(base_url: str) -> tuple[str, ...] | None:
        nonlocal waiting
        if base_url == VLLM:
            assert waiting == 3, "the others must be asked already"
            return ("here",)
        waiting += 1
        await asyncio.Event().wait()
        return None

    looking = detect(
        ModelSettings(), environ={}, secret_names=(), probe=probe, embedded=False, local_seconds_max=0.01
    )
    detected = asyncio.run(asyncio.wait_for(looking, timeout=5))
    assert detected is not None
    assert detected.name == "here"


def test_the_reason_is_a_sentence_without_the_key() -> None:
    """People are told why, and the key itself is nowhere in what was found."""
    detected = find(environ={"OPENAI_API_KEY": "sk-planted"})
    assert detected is not None
    assert detected.reason == "OPENAI_API_KEY is set"
    assert "planted" not in repr(detected)


def test_a_window_of_the_settings_is_that_of_their_model() -> None:
    """Another one, such as the summary model, has its own: it would be sent more than it takes."""

    async def windows() -> list[int]:
        models = DetectedModels(
            ModelSettings(name="large", base_url=FAR, context_window=100_000),
            environ={},
            secret_names=(),
            probe=Servers().probe,
            embedded=lambda: False,
            connect=lambda _: ScriptedModel(profile=ModelProfile(name="any", context_window=8_000)),
            price=lambda *_: no_price,
            agents=pytest.fail,
        )
        return [(await models.choose(name)).profile.context_window for name in (None, "large", "small")]

    assert asyncio.run(windows()) == [100_000, 100_000, 8_000]


def test_another_agent_is_taken_before_everything_else() -> None:
    """A name that begins with `acp:` is an agent's, whatever address is set, and keeps its prefix."""
    detected = find(ModelSettings(name="acp:gemini/gemini-3.8-flash", base_url=FAR))
    assert detected is not None
    assert (detected.provider, detected.name) == ("acp", "acp:gemini/gemini-3.8-flash")
