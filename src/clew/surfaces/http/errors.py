"""Errors as OpenAI's wire has them: a status, and a body that says what, where and why in one clear sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from clew.domain.conversation.ids import SessionId
from clew.domain.ledger.errors import Busy, LedgerError, NotFound, Outdated, Refused
from clew.domain.models.answer import FailureKind
from clew.runtime.commands import CommandError
from clew.runtime.ports.models import ModelUnavailable
from clew.runtime.turns import TurnOutcome
from clew.wire.openai_chat import Error, ErrorBody

SESSION: Final = "X-Clew-Session"
"""The header that names the session of a request, and of its answer."""
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_OF_TURNS: Mapping[str, tuple[int, str]] = {
    FailureKind.UNKNOWN_MODEL: (404, "model_not_found"),
    FailureKind.BAD_REQUEST: (400, "bad_request"),
    FailureKind.OVERFLOW: (400, "context_length_exceeded"),
    FailureKind.RATE_LIMITED: (429, "rate_limit_exceeded"),
    FailureKind.CAP: (429, "insufficient_quota"),
    FailureKind.UNPRICED: (429, "insufficient_quota"),
    FailureKind.AUTH: (502, "model_auth"),
    FailureKind.SERVER: (502, "model_failed"),
    FailureKind.NETWORK: (502, "model_failed"),
    FailureKind.CUT: (502, "model_failed"),
    FailureKind.GARBAGE: (502, "model_failed"),
    "step_limit": (429, "step_limit"),
    "repeat_limit": (429, "repeat_limit"),
    "time_limit": (429, "time_limit"),
    "approval": (409, "approval_required"),
    "outdated": (503, "restarting"),
}
"""A turn's error by its code; any other is an error inside Clew."""


class ApiError(Exception):
    """The request is answered with this."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def of_kept(self, session: SessionId) -> ApiError:
        """The same, where what was said is kept: OpenAI's clients would say it again by themselves."""
        headers = {**self.headers, "x-should-retry": "false", SESSION: session}
        return ApiError(self.status, self.code, str(self), param=self.param, headers=headers)

    @property
    def body(self) -> ErrorBody:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return ErrorBody(error=Error(message=str(self), type=kind, param=self.param, code=self.code))

    def encoded(self) -> bytes:
        return msgspec.json.encode(self.body)


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    return ApiError(400, code, message, param=param)


def unsupported(param: str, what: str) -> ApiError:
    return ApiError(400, "unsupported_parameter", f"{what} is not supported here.", param=param)


def not_found(what: str) -> ApiError:
    return ApiError(404, "not_found", what)


def as_answer(error: Exception) -> ApiError | None:
    """What an error that is expected is answered with; None for any other."""
    match error:
        case ApiError():
            return error
        case NotFound():
            return not_found(str(error))
        case Busy():
            return ApiError(409, "busy", str(error))
        case Outdated():
            return ApiError(503, "restarting", str(error), headers={"retry-after": "5"})
        case Refused() | CommandError():
            return ApiError(409, "refused", str(error))
        case ModelUnavailable():
            return ApiError(503, "model_unavailable", str(error))
        case LedgerError():
            return ApiError(503, "store", str(error))
        case _:
            return None


def of_turn(outcome: TurnOutcome) -> ApiError:
    """What a turn that was not done is answered with."""
    if outcome.error is None:
        return ApiError(409, "interrupted", "The turn was stopped before it had an answer.")
    code, sentence = outcome.error
    status, name = _OF_TURNS.get(code, (500, "internal_error" if code == "internal" else code))
    return ApiError(status, name, sentence)
