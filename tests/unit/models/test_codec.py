"""Requests as JSON."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.adapters.models.openai_chat.codec import encode_request, estimate_input
from clew.domain.models.request import (
    AssistantTurn,
    AudioPart,
    CallPart,
    ImagePart,
    ModelRequest,
    RequestMessage,
    TextPart,
    ThinkingPart,
    ToolDeclaration,
    ToolTurn,
    UserTurn,
)
from clew.domain.tools.session_settings import Effort


def request_of(*messages: RequestMessage, system: str = "", **fields: Any) -> ModelRequest:
    return ModelRequest(model="m", system=system, tools=fields.pop("tools", ()), messages=messages, **fields)


def body_of(request: ModelRequest, **blobs: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(encode_request(request, blobs))
    return body


def messages_of(*messages: RequestMessage, **blobs: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = body_of(request_of(*messages), **blobs)["messages"]
    return found


def user(text: str) -> UserTurn:
    return UserTurn(parts=(TextPart(text),))


def test_a_body_asks_for_a_stream_and_its_usage() -> None:
    body = body_of(request_of(user("hi"), system="Be brief."))
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_one_text_is_a_plain_string_and_several_are_a_list() -> None:
    """Some servers take only the plain form, so it is used wherever it can be."""
    assert messages_of(user("hi"))[0]["content"] == "hi"
    two = UserTurn(parts=(TextPart("hi"), TextPart("<sent/>")))
    assert messages_of(two)[0]["content"] == [
        {"type": "text", "text": "hi"},
        {"type": "text", "text": "<sent/>"},
    ]
    assert messages_of(UserTurn(parts=()))[0]["content"] == ""


def test_an_image_is_a_data_url() -> None:
    content = messages_of(UserTurn(parts=(ImagePart("abc", "image/png"),)), abc=b"\x89PNG")[0]["content"]
    head, _, data = content[0]["image_url"]["url"].partition(",")
    assert (content[0]["type"], head, b64decode(data)) == ("image_url", "data:image/png;base64", b"\x89PNG")


@pytest.mark.parametrize(
    ("kind", "ending"), [("audio/mpeg", "mp3"), ("audio/x-wav", "wav"), ("audio/ogg", "ogg")]
)
def test_sound_is_named_by_its_format(kind: str, ending: str) -> None:
    content = messages_of(UserTurn(parts=(AudioPart("abc", kind),)), abc=b"RIFF")[0]["content"]
    assert content == [{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": ending}}]


def test_how_long_to_think_is_said_only_when_chosen() -> None:
    request = request_of(user("hi"))
    assert b"reasoning_effort" not in encode_request(request, {})
    chosen = msgspec.structs.replace(request, effort=Effort.LOW)
    assert msgspec.json.decode(encode_request(chosen, {}))["reasoning_effort"] == "low"


def test_an_image_without_bytes_is_refused() -> None:
    with pytest.raises(KeyError):
        encode_request(request_of(UserTurn(parts=(ImagePart("abc", "image/png"),))), {})


def test_calls_and_results_carry_the_id_and_the_arguments_as_text() -> None:
    asked = AssistantTurn(text="", calls=(CallPart(id="c1", name="read", arguments='{"p":"ü"}'),))
    assert messages_of(asked, ToolTurn(call="c1", name="read", text="words")) == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "read", "arguments": '{"p":"ü"}'}}
            ],
        },
        {"role": "tool", "content": "words", "tool_call_id": "c1"},
    ]


def test_images_of_results_follow_the_whole_batch() -> None:
    """A message between two results would part a result from its call, which servers refuse."""
    messages = messages_of(
        ToolTurn(call="c1", name="look", text="one", images=(ImagePart("abc", "image/png"),)),
        ToolTurn(call="c2", name="look", text="two"),
        AssistantTurn(text="seen"),
        abc=b"x",
    )
    assert [m["role"] for m in messages] == ["tool", "tool", "user", "assistant"]
    assert messages[2]["content"][0] == {"type": "text", "text": "[images returned by look, call c1]"}
    assert messages[2]["content"][1]["type"] == "image_url"


def test_thinking_goes_back_where_it_came_from_and_only_beside_calls() -> None:
    thinking = (ThinkingPart(text="hm", signature="reasoning"), ThinkingPart(text="alien", signature="EqQB"))
    call = CallPart(id="c", name="n", arguments="{}")
    assert messages_of(AssistantTurn(text="x", calls=(call,), thinking=thinking))[0]["reasoning"] == "hm"
    older = ThinkingPart(text="hm", signature="reasoning_content")
    message = messages_of(AssistantTurn(text="x", calls=(call,), thinking=(older,)))[0]
    assert message["reasoning_content"] == "hm"
    assert "reasoning" not in message
    assert messages_of(AssistantTurn(text="x", thinking=thinking)) == [{"role": "assistant", "content": "x"}]


def test_tools_are_declared_with_their_keys_in_a_fixed_order() -> None:
    """The declarations are part of the cached prefix: the order in which a schema was built must not show."""
    one = ToolDeclaration(
        name="t", description="d", parameters={"type": "object", "properties": {"b": {}, "a": {}}}
    )
    other = ToolDeclaration(
        name="t", description="d", parameters={"properties": {"a": {}, "b": {}}, "type": "object"}
    )
    first = encode_request(request_of(user("x"), tools=(one,)), {})
    assert first == encode_request(request_of(user("x"), tools=(other,)), {})
    assert json.loads(first)["tools"] == [
        {"type": "function", "function": {"name": "t", "description": "d", "parameters": one.parameters}}
    ]


def test_the_output_limit_goes_under_the_name_the_server_knows() -> None:
    limited = request_of(user("x"), max_output=100)
    assert body_of(limited)["max_tokens"] == 100
    body = json.loads(encode_request(limited, {}, output_limit_field="max_completion_tokens"))
    assert body["max_completion_tokens"] == 100
    assert "max_tokens" not in body


words = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
images = st.just(ImagePart("abc", "image/png"))
turns = st.one_of(
    st.builds(
        UserTurn, parts=st.lists(st.one_of(words.map(TextPart), images), min_size=1, max_size=3).map(tuple)
    ),
    st.builds(
        AssistantTurn,
        text=words,
        calls=st.lists(st.builds(CallPart, id=words, name=words, arguments=st.just("{}")), max_size=2).map(
            tuple
        ),
        thinking=st.lists(
            st.builds(ThinkingPart, text=words, signature=st.just("reasoning")), max_size=1
        ).map(tuple),
    ),
)
results = st.lists(
    st.builds(ToolTurn, call=words, name=words, text=words, images=st.lists(images, max_size=1).map(tuple)),
    max_size=3,
)


@given(st.lists(st.tuples(turns, results), max_size=6), turns)
def test_a_request_is_a_prefix_of_the_one_after_it(
    steps: list[tuple[Any, list[ToolTurn]]], next_turn: Any
) -> None:
    """What was sent once is sent the same way ever after: byte for byte, up to the end of the last whole step."""
    path = [message for turn, batch in steps for message in (turn, *batch)]
    earlier = json.dumps(messages_of(*path, abc=b"x"))
    later = json.dumps(messages_of(*path, next_turn, abc=b"x"))
    assert later.startswith(earlier[:-1])


@given(st.lists(turns, max_size=5))
def test_equal_requests_give_equal_bytes(path: list[Any]) -> None:
    assert encode_request(request_of(*path), {"abc": b"x"}) == encode_request(
        request_of(*path), {"abc": b"x"}
    )


def test_an_estimate_counts_every_text_and_each_image() -> None:
    tool = ToolDeclaration(name="abc", description="def", parameters={})
    path = (
        UserTurn(parts=(TextPart("x" * 30), ImagePart("abc", "image/png"))),
        AssistantTurn(text="y" * 30, calls=(CallPart(id="i", name="nnn", arguments="{ }"),)),
        ToolTurn(call="i", name="nnn", text="z" * 30),
    )
    expected = (6 + 2 + 12 + 30 + 30 + 6 + 30 + 2) // 3 + 1000
    assert estimate_input(request_of(*path, system="s" * 12, tools=(tool,))) == expected
