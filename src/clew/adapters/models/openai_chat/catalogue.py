"""What `GET /models` tells, in the shapes of those who serve it.

Every server lists ids; most tell a context window too, each under its own name, and where two are told the smaller
promise is the true one: what a server has loaded counts, not what the model was trained for.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from clew.adapters.models.table import known_family
from clew.domain.models.request import ModelProfile

_WINDOWS: Final = (
    ("loaded_context_length",),  # LM Studio, /api/v0/models: of the loaded instance
    ("meta", "n_ctx"),  # llama.cpp: what one request may use
    ("top_provider", "context_length"),  # OpenRouter: of the provider it will choose
    ("context_length",),  # OpenRouter, Together, Fireworks
    ("max_model_len",),  # vLLM, SGLang
    ("context_window",),  # Groq
    ("max_context_length",),  # LM Studio, Mistral: of the model
    ("max_input_tokens",),  # litellm
    ("meta", "n_ctx_train"),  # llama.cpp before it told n_ctx
)


class CatalogueEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A model as its server lists it; None where it is silent."""

    name: str
    context_window: int | None = None
    takes_images: bool | None = None
    takes_audio: bool | None = None
    takes_effort: bool | None = None
    takes_tools: bool | None = None


class NotACatalogue(ValueError):
    """The answer to GET /models is no list of models."""


def read_catalogue(body: bytes) -> tuple[CatalogueEntry, ...]:
    """The models in the order the server gives them.

    Raises:
        NotACatalogue: it is no JSON, or has no list where lists are.
    """
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as wrong:
        raise NotACatalogue(str(wrong)) from wrong
    entries = [_entry(item) for item in _items(answer)]
    return tuple(entry for entry in entries if entry is not None)


def profile_of(name: str, entry: CatalogueEntry | None, *, loaded_window: int | None = None) -> ModelProfile:
    """Puts together what the server, the table of families and the defaults know, in this order.

    `loaded_window` is a bound from elsewhere: a server that loads models with a window of its own. No output limit
    is taken from the list: whatever is asked for is counted against the window, and by some against the credit.
    """
    default = ModelProfile(name=name)
    entry = entry or CatalogueEntry(name=name)
    family = known_family(name)
    window = loaded_window or entry.context_window or (family.context_window if family else None)
    images = _first(entry.takes_images, family.takes_images if family else None, default.takes_images)
    audio = _first(entry.takes_audio, family.takes_audio if family else None, default.takes_audio)
    effort = _first(entry.takes_effort, family.takes_effort if family else None, default.takes_effort)
    return ModelProfile(
        name=name,
        context_window=window or default.context_window,
        is_window_known=window is not None,
        takes_images=images,
        takes_audio=audio,
        takes_effort=effort,
        takes_tools=default.takes_tools if entry.takes_tools is None else entry.takes_tools,
        needs_alternation=family.needs_alternation if family else default.needs_alternation,
    )


def _first(told: bool | None, family: bool | None, default: bool) -> bool:
    known = family if told is None else told
    return default if known is None else known


def _items(answer: Any) -> list[Any]:
    """OpenAI and most: {"data": [...]}; Ollama's own and Google's: {"models": [...]}; Together: a bare list."""
    match answer:
        case {"data": list(items)} | {"models": list(items)}:
            return items
        case list(items):
            return items
        case {"data": None} | {"models": None}:  # Ollama with no model pulled
            return []
        case _:
            raise NotACatalogue("no list of models in it")


def _entry(item: Any) -> CatalogueEntry | None:
    match item:
        case {"id": str(name)} | {"name": str(name)} | {"model": str(name)} if name:
            return CatalogueEntry(
                name=name,
                context_window=_first_count(item, _WINDOWS),
                takes_images=_takes(item, "image"),
                takes_audio=_takes(item, "audio"),
                takes_effort=_supports(item, "reasoning_effort"),
                takes_tools=_supports(item, "tools"),
            )
        case _:
            return None


def _first_count(item: Any, paths: tuple[tuple[str, ...], ...]) -> int | None:
    for path in paths:
        value = item
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return int(value)
    return None


def _takes(item: Any, kind: str) -> bool | None:
    match item:
        case {"architecture": {"input_modalities": list(kinds)}}:  # OpenRouter
            return kind in kinds
        case {"capabilities": {"vision": bool(vision)}} if kind == "image":  # Mistral
            return vision
        case {"type": "llm" | "vlm" as found, "max_context_length": _} if kind == "image":  # LM Studio
            return bool(found == "vlm")
        case _:
            return None


def _supports(item: Any, parameter: str) -> bool | None:
    match item:
        case {"supported_parameters": list(names)}:  # OpenRouter
            return parameter in names
        case {"capabilities": {"function_calling": bool(calls)}} if parameter == "tools":  # Mistral
            return calls
        case _:
            return None
