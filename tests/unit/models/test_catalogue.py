"""What a server tells of its models, and what is believed without it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.adapters.models.openai_chat.address import parse_base_url
from clew.adapters.models.openai_chat.catalogue import (
    CatalogueEntry,
    NotACatalogue,
    profile_of,
    read_catalogue,
)
from clew.adapters.models.redaction import Redactor
from clew.adapters.models.table import known_family


def entry_of(item: dict[str, Any]) -> CatalogueEntry:
    (entry,) = read_catalogue(msgspec.json.encode({"object": "list", "data": [item]}))
    return entry


# One entry of each server's list, cut to what matters.
OPENROUTER = {
    "id": "z-ai/glm-4.5",
    "context_length": 131072,
    "architecture": {"modality": "text->text", "input_modalities": ["text"], "output_modalities": ["text"]},
    "top_provider": {"context_length": 98304, "max_completion_tokens": 96000, "is_moderated": False},
    "supported_parameters": ["max_tokens", "temperature", "tool_choice", "tools"],
}
LLAMA_CPP = {
    "id": "qwen",
    "owned_by": "llamacpp",
    "meta": {"n_vocab": 248320, "n_ctx": 32768, "n_ctx_train": 262144},
}
OLDER_LLAMA_CPP = {"id": "gemma", "owned_by": "llamacpp", "meta": {"n_vocab": 262144, "n_ctx_train": 131072}}
VLLM = {
    "id": "Qwen/Qwen3-14B",
    "object": "model",
    "owned_by": "vllm",
    "root": "Qwen/Qwen3-14B",
    "max_model_len": 16384,
}
LM_STUDIO = {
    "id": "qwen2-vl-7b-instruct",
    "type": "vlm",
    "state": "loaded",
    "max_context_length": 32768,
    "loaded_context_length": 4096,
}
LM_STUDIO_TEXT = {
    "id": "meta-llama-3.1-8b",
    "type": "llm",
    "state": "not-loaded",
    "max_context_length": 131072,
}
GROQ = {
    "id": "llama-3.3-70b-versatile",
    "active": True,
    "context_window": 131072,
    "max_completion_tokens": 32768,
}
MISTRAL = {
    "id": "mistral-large-latest",
    "max_context_length": 131072,
    "capabilities": {"completion_chat": True, "function_calling": True, "vision": False},
}


@pytest.mark.parametrize(
    ("item", "window", "images", "tools"),
    [
        (OPENROUTER, 98304, False, True),
        (LLAMA_CPP, 32768, None, None),
        (OLDER_LLAMA_CPP, 131072, None, None),
        (VLLM, 16384, None, None),
        (LM_STUDIO, 4096, True, None),
        (LM_STUDIO_TEXT, 131072, False, None),
        (GROQ, 131072, None, None),
        (MISTRAL, 131072, False, True),
        ({"id": "llama3.1:8b", "object": "model", "owned_by": "library"}, None, None, None),
    ],
)
def test_each_servers_own_words_are_understood(
    item: dict[str, Any], window: int | None, images: bool | None, tools: bool | None
) -> None:
    """The window is the one a request may fill, where a server tells more than one."""
    entry = entry_of(item)
    assert (entry.name, entry.context_window, entry.takes_images, entry.takes_tools) == (
        item["id"],
        window,
        images,
        tools,
    )


def test_a_limit_of_the_output_is_not_asked_for() -> None:
    """A server counts what is asked for against the window, as if it were used."""
    assert profile_of("z-ai/glm-4.5", entry_of(OPENROUTER)).max_output is None


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"data":[{"id":"a"},{"id":"b"}]}', ("a", "b")),
        (b'[{"id":"together/x"}]', ("together/x",)),
        (b'{"models":[{"name":"llama3.2:1b","model":"llama3.2:1b"}]}', ("llama3.2:1b",)),
        (b'{"object":"list","data":null}', ()),
        (b'{"data":[{"id":""},{},7,null,{"id":"x"}]}', ("x",)),
    ],
)
def test_lists_come_in_several_shapes(body: bytes, names: tuple[str, ...]) -> None:
    assert tuple(entry.name for entry in read_catalogue(body)) == names


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error":"Unexpected endpoint"}', b"7", b'"x"'])
def test_what_is_no_list_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(NotACatalogue):
        read_catalogue(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
)
names_in_use = st.sampled_from(
    ["context_length", "meta", "top_provider", "architecture", "capabilities", "type"]
)


@given(st.dictionaries(names_in_use, json_values))
def test_no_entry_is_too_strange(fields: dict[str, Any]) -> None:
    entry = entry_of({"id": "x", **fields})
    assert entry.context_window is None or entry.context_window > 0


def test_the_server_is_believed_before_the_table_and_the_table_before_the_default() -> None:
    assert profile_of("gpt-4o", CatalogueEntry(name="gpt-4o", context_window=9000)).context_window == 9000
    assert profile_of("gpt-4o", None).context_window == 128_000
    assert profile_of("nobodys-model", None).context_window == 32_768
    assert (
        profile_of(
            "gpt-4o", CatalogueEntry(name="gpt-4o", context_window=9000), loaded_window=4096
        ).context_window
        == 4096
    )


def test_a_profile_keeps_the_name_it_was_asked_for() -> None:
    assert profile_of("llama3.1:8b", entry_of({"id": "llama3.1:8b"})).name == "llama3.1:8b"


@pytest.mark.parametrize(
    ("name", "window"),
    [
        ("gpt-4o-mini-2024-07-18", 128_000),
        ("openai/gpt-4o", 128_000),
        ("gpt-4", 8_192),
        ("o3", 200_000),
        ("claude-sonnet-4-5-20250929", 200_000),
        ("anthropic/claude-sonnet-5.5", 1_000_000),
        ("models/gemini-2.5-flash", 1_000_000),
        ("llama3.1:8b", 131_072),
        ("hf.co/bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M", 131_072),
        ("llama3:8b", 8_192),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", 32_768),
        ("mistral:7b", 32_000),
        ("gpt-oss:20b", 131_072),
    ],
)
def test_families_are_known_by_their_names(name: str, window: int) -> None:
    family = known_family(name)
    assert family is not None
    assert family.context_window == window


@pytest.mark.parametrize(
    ("item", "effort", "audio"),
    [
        ({"id": "gpt-oss:20b"}, True, False),
        ({"id": "gpt-4o-audio-preview"}, False, True),
        ({"id": "gpt-5.5", "supported_parameters": ["tools"]}, False, False),
        (
            {
                "id": "x",
                "supported_parameters": ["reasoning_effort"],
                "architecture": {"input_modalities": ["audio"]},
            },
            True,
            True,
        ),
        ({"id": "local"}, False, False),
    ],
)
def test_thinking_and_hearing_are_believed_where_somebody_says_so(
    item: dict[str, Any], effort: bool, audio: bool
) -> None:
    """The server first, then the family; a model that nobody knows is offered neither."""
    profile = profile_of(item["id"], entry_of(item))
    assert (profile.takes_effort, profile.takes_audio) == (effort, audio)


@pytest.mark.parametrize("name", ["fake-model", "proto1-x", "foo3-x", "local", "my-opt-4x"])
def test_a_name_that_only_looks_alike_is_not_known(name: str) -> None:
    assert known_family(name) is None


@pytest.mark.parametrize(
    ("typed", "api", "host"),
    [
        ("http://localhost:11434", "http://localhost:11434/v1", "localhost:11434"),
        ("http://localhost:11434/", "http://localhost:11434/v1", "localhost:11434"),
        ("http://localhost:11434/v1", "http://localhost:11434/v1", "localhost:11434"),
        ("http://localhost:1234/v1/chat/completions", "http://localhost:1234/v1", "localhost:1234"),
        ("localhost:8080", "http://localhost:8080/v1", "localhost:8080"),
        ("192.168.1.7:8000", "http://192.168.1.7:8000/v1", "192.168.1.7:8000"),
        ("api.example.org", "https://api.example.org/v1", "api.example.org"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1", "openrouter.ai"),
        ("https://openrouter.ai/api", "https://openrouter.ai/api/v1", "openrouter.ai"),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai/",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "generativelanguage.googleapis.com",
        ),
        ("https://api.z.ai/api/paas/v4", "https://api.z.ai/api/paas/v4", "api.z.ai"),
        ("http://[::1]:8080", "http://[::1]:8080/v1", "[::1]:8080"),
    ],
)
def test_a_base_url_is_taken_as_people_write_it(typed: str, api: str, host: str) -> None:
    address = parse_base_url(typed)
    assert (address.api, address.host) == (api, host)


def test_a_password_in_a_base_url_is_kept_out_of_what_is_shown() -> None:
    address = parse_base_url("https://ann:s3cret-word@models.example.org/v1")
    assert address.api == "https://models.example.org/v1"
    assert address.host == "models.example.org"
    assert address.password == "ann:s3cret-word"


@pytest.mark.parametrize(
    "typed", ["", "ftp://x/v1", "http://", "file:///etc/passwd", "http://ann:s3cret-word@"]
)
def test_what_is_no_address_is_refused_without_showing_a_password(typed: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_base_url(typed)
    assert "s3cret" not in str(caught.value)


def test_placeholders_are_no_secrets() -> None:
    """Taking the word "none" out of every sentence would mangle it and protect nobody."""
    assert Redactor(["none", "", None])("none of it") == "none of it"


def test_a_secret_is_found_percent_encoded_too() -> None:
    assert "s3cret" not in Redactor(["s3cret/word+"])("https://x/?key=s3cret%2Fword%2B&also=s3cret/word+")
