"""JSON-RPC over lines: whatever a line holds, it gets the right answer, and the next line is read as if nothing had been."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.wire import jsonrpc
from clew.wire.jsonrpc import (
    CANCELLED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    Lines,
    Misframed,
    Notification,
    Request,
    Response,
    RpcError,
)
from clew.wire.peer import Disconnected, Peer, Then


@pytest.mark.parametrize(
    ("line", "code", "number"),
    [
        (b"not json", PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"met', PARSE_ERROR, None),
        (b"[" * 100_000, PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":"\xff"}}', PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"a"}{}', PARSE_ERROR, None),
        (b"[]", INVALID_REQUEST, None),
        (b"42", INVALID_REQUEST, None),
        (b"null", INVALID_REQUEST, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"a"}]', INVALID_REQUEST, None),
        (b"{}", INVALID_REQUEST, None),
        (b'{"jsonrpc":"1.0","id":1,"method":"a"}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"a"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":{},"method":"a"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":"x","method":7}', INVALID_REQUEST, "x"),
        (b'{"jsonrpc":"2.0","id":"x"}', INVALID_REQUEST, "x"),
        (b'{"jsonrpc":"2.0","id":3,"method":"a","params":[1]}', INVALID_PARAMS, 3),
        (b'{"jsonrpc":"2.0","id":3,"method":"a","params":"b"}', INVALID_PARAMS, 3),
    ],
)
def test_what_is_wrong_is_said_under_the_id_it_came_with(
    line: bytes, code: int, number: int | str | None
) -> None:
    """The codes are those of the specification."""
    frame = jsonrpc.read(line)
    assert isinstance(frame, Misframed)
    assert (frame.error.code, frame.id, frame.answer) == (code, number, True)


def test_what_wants_no_answer_gets_none() -> None:
    """A notification has nowhere to get it; with an answer to an answer two ends could talk about an error for ever."""
    notification = b'{"jsonrpc":"2.0","method":"m","params":[]}'
    for line in (
        b'{"jsonrpc":"2.0","id":{},"result":1}',
        b'{"jsonrpc":"2.0","id":1,"error":"x"}',
        notification,
    ):
        frame = jsonrpc.read(line)
        assert isinstance(frame, Misframed)
        assert not frame.answer


def test_meta_stays_where_it_is() -> None:
    """What `_meta` holds overrides no parameter, whatever its members are called."""

    class Params(msgspec.Struct):
        session_id: str = msgspec.field(name="sessionId")

    line = {"jsonrpc": "2.0", "id": 1, "method": "m", "odd": 1,
            "params": {"sessionId": "mine", "unknown": {}, "_meta": {"sessionId": "other", "session_id": "other"}}}  # fmt: skip
    frame = jsonrpc.read(json.dumps(line).encode())
    assert isinstance(frame, Request)
    assert jsonrpc.decoded(frame.params, Params).session_id == "mine"


def test_no_text_breaks_a_line() -> None:
    """Line ends inside of text, NUL, and a lone surrogate out of a file's name."""
    line = jsonrpc.result(1, {"text": "a\nb\r\u2028\0\udc80"})
    assert line.count(b"\n") == 1
    assert json.loads(line)["result"]["text"] == "a\nb\r\u2028\0?"


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 7)))
def test_lines_do_not_depend_on_how_they_came(lines: list[bytes], sizes: list[int]) -> None:
    """Whole, byte by byte, or with several ends in one piece."""
    data = b"".join(line + b"\n" for line in lines)
    cut = Lines()
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    found = [line for piece in (*pieces, data[at:]) for line in cut.feed(piece)]
    assert found == data.split(b"\n")[:-1]


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 9))
def test_a_line_that_is_too_long_costs_only_itself(lengths: list[int], size: int) -> None:
    """It is said once, and no more of it is kept than the limit."""
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    cut = Lines(line_bytes_max=10)
    found = [line for at in range(0, len(data), size) for line in cut.feed(data[at : at + size])]
    assert [None if line is None else len(line) for line in found] == [
        n if n <= 10 else None for n in lengths
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MEMBER = st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "_meta"])
LIKE_A_FRAME = st.dictionaries(MEMBER, JSON | st.sampled_from(["2.0", "m", {}, {"code": 1, "message": ""}]))
LINE = (
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | LIKE_A_FRAME.map(lambda value: json.dumps(value).encode())
    | LIKE_A_FRAME.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")[:-2])
)


@given(LINE.filter(lambda line: b"\n" not in line))
def test_every_line_is_a_frame_or_gets_an_error(line: bytes) -> None:
    """Against Python's own reader: what is no JSON is a parse error, what is no object an invalid request."""
    frame = jsonrpc.read(line)
    if not line.strip():
        assert frame is None
        return
    try:
        value = json.loads(line.decode(), parse_constant=_refused)
    except ValueError:
        assert isinstance(frame, Misframed)
        assert frame.error.code in (
            PARSE_ERROR,
            INVALID_REQUEST,
        )  # a syntax error may lie behind the wrong start
        return
    if not isinstance(value, dict):
        assert isinstance(frame, Misframed)
        assert frame.error.code == INVALID_REQUEST or "surrogate" in frame.error.message
    elif isinstance(frame, Request | Notification):
        assert frame.method == value["method"]
        assert isinstance(frame, Request) == ("id" in value)
    elif isinstance(frame, Response):
        assert "method" not in value


def _refused(constant: str) -> None:
    raise ValueError(constant)


class Ends:
    """A peer whose output is kept, over handlers that a test gives it."""

    def __init__(self, serve: Callable[[str, msgspec.Raw], Awaitable[object]]) -> None:
        self.sent: list[Any] = []
        self.heard: list[str] = []
        self.broke: list[BaseException] = []
        self.peer = Peer(
            lambda line: self.sent.append(json.loads(line)),
            serve=serve,
            heard=lambda method, _: self.heard.append(method),
            broke=self.broke.append,
        )

    def feed(self, **frame: Any) -> None:
        self.peer.receive(json.dumps({"jsonrpc": "2.0", **frame}).encode() + b"\n")

    async def settled(self) -> None:
        """Returns when every request that came was answered."""
        while self.peer._tasks:
            await asyncio.wait(self.peer._tasks)


async def serves(method: str, params: msgspec.Raw) -> object:
    """Answers by the method's name."""
    match method:
        case "never":
            await asyncio.Event().wait()
        case "breaks":
            raise ZeroDivisionError
        case "echo":
            return params
        case _:
            raise RpcError(METHOD_NOT_FOUND, f"There is no method {method}.", {"method": method})
    raise AssertionError("never comes back")


pytestmark = pytest.mark.anyio


async def test_each_request_has_its_own_answer() -> None:
    """A result, an error of the handler's, one of ours; another request is not kept waiting by any."""
    ends = Ends(serves)
    for number, method in enumerate(["never", "breaks", "nothing", "echo"]):
        ends.feed(id=number, method=method, params={"n": number})
    ends.feed(method="$/cancel_request", params={"requestId": 0})
    ends.feed(method="$/cancel_request", params={"requestId": "unknown"})
    ends.feed(method="$/cancel_request", params={"odd": []})
    await ends.settled()
    answers = {frame["id"]: frame for frame in ends.sent}
    assert answers[0]["error"]["code"] == CANCELLED
    assert answers[1]["error"]["code"] == INTERNAL_ERROR
    assert answers[2]["error"] == {
        "code": METHOD_NOT_FOUND, "message": "There is no method nothing.", "data": {"method": "nothing"},
    }  # fmt: skip
    assert answers[3]["result"] == {"n": 3}
    assert [type(error) for error in ends.broke] == [ZeroDivisionError]
    assert len(ends.sent) == 4


async def test_an_id_in_use_is_refused() -> None:
    """Else nobody could tell which of the two an answer is to."""
    ends = Ends(serves)
    ends.feed(id=1, method="never")
    ends.feed(id=1, method="echo")
    assert [frame["error"]["code"] for frame in ends.sent] == [INVALID_REQUEST]
    await ends.peer.close()


async def test_what_comes_after_a_result_is_sent_after_it() -> None:
    """A session is announced before anything is said of it."""
    ends = Ends(lambda _, __: made())

    async def made() -> object:
        return Then({"made": True}, told)

    async def told() -> None:
        ends.peer.notify("told", {})

    ends.feed(id=1, method="make")
    await ends.settled()
    assert [frame.get("method", "result") for frame in ends.sent] == ["result", "told"]


async def test_a_call_gets_its_answer_and_a_cancelled_one_says_so() -> None:
    """Answers nobody asked for, and late ones, are nothing."""
    ends = Ends(serves)
    first = asyncio.create_task(ends.peer.call("ask", {}, dict[str, int]))
    second = asyncio.create_task(ends.peer.call("ask", {}, dict[str, int]))
    third = asyncio.create_task(ends.peer.call("ask", {}, dict[str, int]))
    await asyncio.sleep(0)
    ends.feed(id=77, result={"a": 7})
    ends.feed(id=1, result={"a": 1})
    ends.feed(id=2, error={"code": 5, "message": "no"})
    assert await first == {"a": 1}
    with pytest.raises(RpcError, match="no"):
        await second
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    ends.feed(id=3, result={"a": 3})
    assert ends.sent[-1] == {"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": 3}}


async def test_closing_ends_both_directions() -> None:
    """What is asked fails at once, what is served is cancelled."""
    ends = Ends(serves)
    asked = asyncio.create_task(ends.peer.call("ask", {}, dict[str, int]))
    ends.feed(id=1, method="never")
    await asyncio.sleep(0)
    await ends.peer.close()
    with pytest.raises(Disconnected):
        await asked
    with pytest.raises(Disconnected):
        await ends.peer.call("ask", {}, dict[str, int])
