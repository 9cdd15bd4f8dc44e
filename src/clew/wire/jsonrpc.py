"""JSON-RPC 2.0 as newline-delimited JSON, without IO: bytes in, frames out. Strict in what it takes, and nothing kills it.

The rules are those of jsonrpc.org/specification and of the Agent Client Protocol: one object a line, UTF-8, no batches,
parameters by name. Every line is a frame or a `Misframed`, which says what to answer; a line that cannot be answered
(it answers something itself) is `Misframed` without an answer. Members that are not known are ignored. `_meta` stays
where it is, inside the parameters, and is never merged into them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

LINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Default bound of one line: a few images, in base64."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
CANCELLED: Final = -32800
CANCEL: Final = "$/cancel_request"

Id = int | str | None
T = TypeVar("T")


class RpcError(Exception):
    """What a request is answered with instead of a result; `data` is for programs."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Request(NamedTuple):
    id: Id
    method: str
    params: msgspec.Raw


class Notification(NamedTuple):
    method: str
    params: msgspec.Raw


class Response(NamedTuple):
    """`result` is empty where there is an `error`."""

    id: Id
    result: msgspec.Raw
    error: RpcError | None


class Misframed(NamedTuple):
    """A line that is no frame. `answer` says whether its sender is to be told."""

    id: Id
    error: RpcError
    answer: bool = True


Frame = Request | Notification | Response | Misframed
NO_PARAMS: Final = msgspec.Raw(b"{}")
_ABSENT: Final = msgspec.Raw()


class _Members(msgspec.Struct, gc=False):
    """What a frame may hold, each still as it came."""

    jsonrpc: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT
    method: msgspec.Raw = _ABSENT
    params: msgspec.Raw = _ABSENT
    result: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


class _Error(msgspec.Struct):
    code: int
    message: str
    data: Any = None


_members: Final = msgspec.json.Decoder(_Members).decode
_id: Final = msgspec.json.Decoder(int | str | None).decode
_text: Final = msgspec.json.Decoder(str).decode
_error: Final = msgspec.json.Decoder(_Error).decode
_encode: Final = msgspec.json.Encoder().encode
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no JSON, or too deep; ValidationError, for JSON of another shape, is one too."""


class Lines:
    """Cuts bytes into lines, however they come. One that is too long is None, once; the rest of it is dropped."""

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self._max = line_bytes_max
        self._partial = bytearray()
        self._dropping = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        *ended, rest = data.split(b"\n")
        for piece in ended:
            line = None if len(self._partial) + len(piece) > self._max else bytes(self._partial + piece)
            self._partial.clear()
            if not self._dropping:
                yield line
            self._dropping = False
        if self._dropping:
            return
        self._partial += rest
        if len(self._partial) > self._max:
            self._partial.clear()
            self._dropping = True
            yield None


def read(line: bytes | None, line_bytes_max: int = LINE_BYTES_MAX) -> Frame | None:
    """The frame of a line (None: one that was too long). None for an empty line, which is nothing. Never raises."""
    if line is None:
        return Misframed(None, RpcError(INVALID_REQUEST, f"The line is longer than {line_bytes_max} bytes."))
    if not line.strip():
        return None
    try:
        line.decode()  # what is not looked into below may hold bytes that are no text
        members = _members(line)
    except _BROKEN:
        return Misframed(None, _what_is_wrong_with(line))
    return _frame(members)


def _what_is_wrong_with(line: bytes) -> RpcError:
    try:
        msgspec.json.decode(line.decode())
    except _BROKEN as error:
        return RpcError(PARSE_ERROR, f"The line is not JSON: {error}.")
    return RpcError(INVALID_REQUEST, "The line is not one JSON object; batches are not part of the protocol.")


def _frame(members: _Members) -> Frame:
    answers = not _given(members.method) and (_given(members.result) or _given(members.error))
    try:
        number: Id = _id(members.id) if _given(members.id) else None
    except _BROKEN:
        return Misframed(
            None, RpcError(INVALID_REQUEST, "The id is neither text nor a whole number."), not answers
        )

    def misframed(code: int, sentence: str) -> Misframed:
        return Misframed(number, RpcError(code, sentence), not answers)

    if bytes(members.jsonrpc) != b'"2.0"':
        return misframed(INVALID_REQUEST, "It does not say that it is JSON-RPC 2.0.")
    if answers:
        return _response(members, number) or misframed(INVALID_REQUEST, "It is no answer of JSON-RPC.")
    try:
        method = _text(members.method) if _given(members.method) else ""
    except _BROKEN:
        method = ""
    if not method:
        return misframed(INVALID_REQUEST, "It names no method.")
    params = members.params if bytes(members.params) not in (b"", b"null") else NO_PARAMS
    if not bytes(params).startswith(b"{"):
        if not _given(members.id):
            return Misframed(
                None, RpcError(INVALID_PARAMS, "The parameters are not an object."), answer=False
            )
        return misframed(INVALID_PARAMS, "The parameters are not an object.")
    # Raw copies are taken: the line they point into is not kept.
    return (
        Request(number, method, params.copy()) if _given(members.id) else Notification(method, params.copy())
    )


def _response(members: _Members, number: Id) -> Response | None:
    if not _given(members.error) or bytes(members.error) == b"null":
        return Response(number, members.result.copy(), None) if _given(members.result) else None
    try:
        error = _error(members.error)
    except _BROKEN:
        return None
    return Response(number, _ABSENT, RpcError(error.code, error.message, error.data))


def _given(raw: msgspec.Raw) -> bool:
    return len(bytes(raw)) > 0


def decoded(raw: msgspec.Raw, kind: type[T]) -> T:
    """Parameters or a result as a type of ours. Raises RpcError with INVALID_PARAMS in one sentence."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except _BROKEN as error:
        raise RpcError(INVALID_PARAMS, f"The parameters do not fit: {error}.") from error


# -- writing -----------------------------------------------------------------------------------------------------
def request(number: int, method: str, params: object) -> bytes:
    return line_of({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def notification(method: str, params: object) -> bytes:
    return line_of({"jsonrpc": "2.0", "method": method, "params": params})


def result(number: Id, value: object) -> bytes:
    return line_of({"jsonrpc": "2.0", "id": number, "result": value})


def failure(number: Id, error: RpcError) -> bytes:
    shown = {"code": error.code, "message": error.message}
    return line_of(
        {
            "jsonrpc": "2.0",
            "id": number,
            "error": shown if error.data is None else {**shown, "data": error.data},
        }
    )


def line_of(frame: dict[str, object]) -> bytes:
    """One line. A lone surrogate (a file's name can hold one) becomes a question mark: it has no place in UTF-8."""
    try:
        return _encode(frame) + b"\n"
    except UnicodeEncodeError:
        plain = json.dumps(msgspec.to_builtins(frame), ensure_ascii=False)
        return plain.encode("utf-8", errors="replace") + b"\n"
