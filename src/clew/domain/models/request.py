"""A request to a model, in no provider's shape, and the facts about a model that shape it."""

from __future__ import annotations

from typing import Literal

import msgspec

from clew.domain.tools.session_settings import Effort
from clew.domain.tools.spec import JsonObject


class TextPart(msgspec.Struct, frozen=True, tag="text", tag_field="type"):
    text: str


class ImagePart(msgspec.Struct, frozen=True, tag="image", tag_field="type"):
    """An attachment by hash; the wire adapter is given the bytes beside the request."""

    sha256: str
    media_type: str


class AudioPart(msgspec.Struct, frozen=True, tag="audio", tag_field="type"):
    """Sound, likewise."""

    sha256: str
    media_type: str


Part = TextPart | ImagePart | AudioPart


class CallPart(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    arguments: str
    """Always a JSON object: a broken one is carried as `{"_invalid": "..."}` so that every server accepts it."""


class ThinkingPart(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    signature: str | None = None


class UserTurn(msgspec.Struct, frozen=True, kw_only=True, tag="user", tag_field="role"):
    parts: tuple[Part, ...]


class AssistantTurn(msgspec.Struct, frozen=True, kw_only=True, tag="assistant", tag_field="role"):
    text: str
    calls: tuple[CallPart, ...] = ()
    thinking: tuple[ThinkingPart, ...] = ()


class ToolTurn(msgspec.Struct, frozen=True, kw_only=True, tag="tool", tag_field="role"):
    call: str
    name: str
    text: str
    images: tuple[ImagePart, ...] = ()


RequestMessage = UserTurn | AssistantTurn | ToolTurn


class ToolDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str
    parameters: JsonObject


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a provider is sent. A pure function of stored rows and the model's profile."""

    model: str
    system: str
    tools: tuple[ToolDeclaration, ...]
    messages: tuple[RequestMessage, ...]
    effort: Effort | None = None
    """None leaves it to the provider."""
    max_output: int | None = None


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What a model can take. The defaults suit an unknown OpenAI-compatible server."""

    name: str
    provider: Literal["openai", "pydantic-ai", "embedded", "agent", "scripted"] = "openai"
    context_window: int = 32_768
    is_window_known: bool = False
    """Otherwise the window is a guess, and only the provider can say that something does not fit."""
    max_output: int | None = None
    takes_images: bool = True
    takes_audio: bool = False
    takes_effort: bool = False
    """Whether it can be told how long to think."""
    takes_tools: bool = True
    needs_alternation: bool = False
    """Refuses two messages of one role in a row."""
    shows_context: bool = True
    """Whether time and working directory are rendered beside a person's message."""
    is_demo: bool = False
    """The embedded model: real, tiny and poor; every surface says so."""
