"""What a client asks for, in no wire's shape: what was said, in its order, and what the client brings along."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from clew.domain.conversation.ids import CallId
from clew.domain.tools.spec import JsonObject
from clew.runtime.turns import NewFile
from clew.surfaces.http.errors import ApiError, bad_request
from clew.wire.openai_chat import CalledFunction

_DATA_URL: Final = re.compile(r"data:([a-z]+/[a-zA-Z0-9.+-]{1,80});base64,", re.ASCII)
CALLS_MAX: Final = 128


class UserSaid(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    files: tuple[NewFile, ...] = ()


class AssistantSaid(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    calls: tuple[tuple[str, CalledFunction], ...] = ()
    """(id, function)"""


class ToolSaid(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a call that the client ran."""

    call: CallId
    text: str
    files: tuple[NewFile, ...] = ()


Said = UserSaid | AssistantSaid | ToolSaid


class ClientTool(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str = ""
    parameters: JsonObject


class Brought(msgspec.Struct, frozen=True, kw_only=True):
    """What a client brings along for the turn: its own tools, and what it tells the model beside what people say."""

    tools: tuple[ClientTool, ...] = ()
    instructions: str = ""
    max_output: int | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    said: tuple[Said, ...]
    brought: Brought


def check_order(said: Sequence[Said]) -> None:
    """Raises ApiError for an order that no talk can have: a result without its call, a call without its result, an end
    that asks nothing."""
    if not said:
        raise bad_request("There is no message to answer.", "messages")
    open_calls: set[str] = set()
    for number, one in enumerate(said):
        if isinstance(one, ToolSaid):
            if one.call not in open_calls:
                raise _disordered(number, f"is the result of {one.call!r}, and no call before it has this id")
            open_calls.discard(one.call)
        elif open_calls:
            raise _disordered(number, f"comes before the result of call {min(open_calls)!r}")
        elif isinstance(one, AssistantSaid):
            open_calls = {ident for ident, _ in one.calls}
            if len(open_calls) < len(one.calls):
                raise _disordered(number, "has two calls with one id")
    if open_calls:
        raise _disordered(len(said) - 1, f"is the last, and call {min(open_calls)!r} has no result")
    if isinstance(said[-1], AssistantSaid):
        raise _disordered(len(said) - 1, "is the last, and nothing is asked after it")


def newest(said: Sequence[Said]) -> tuple[tuple[ToolSaid, ...], tuple[UserSaid, ...]]:
    """What carries a session on: the results and the messages after the assistant's last. Raises ApiError for none."""
    after = len(said)
    while after and not isinstance(said[after - 1], AssistantSaid):
        after -= 1
    tail = said[after:]
    results = tuple(one for one in tail if isinstance(one, ToolSaid))
    users = tuple(one for one in tail if isinstance(one, UserSaid))
    if not tail:
        raise bad_request("There is no message after the assistant's last one.", "messages")
    if tail != (*results, *users):
        raise bad_request("Results of calls come before what the user says after them.", "messages")
    return results, users


def file_of(url: str, name: str, param: str) -> NewFile:
    """The bytes of a `data:` address. Raises ApiError: nothing is fetched on a client's behalf."""
    match = _DATA_URL.match(url[:200])
    if match is None:
        raise bad_request("An image is sent as data:image/...;base64,...: nothing is fetched.", param)
    return decoded(match[1], url[match.end() :], name, param)


def decoded(media_type: str, data: str, name: str, param: str) -> NewFile:
    try:
        return NewFile(media_type=media_type, bytes=base64.b64decode(data, validate=True), name=name)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"This is no base64: {error}.", param) from error


def _disordered(number: int, why: str) -> ApiError:
    return bad_request(f"Message {number} {why}.", f"messages[{number}]", "invalid_message_order")
