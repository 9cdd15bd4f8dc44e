"""pydantic-ai's errors as ours. Its tree already says what a provider meant; the sentences are those of every wire."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from pydantic_ai import exceptions as theirs

from clew.adapters.models.openai_chat.failures import (
    Server,
    never_connected,
    one_line,
    sentence,
    words_in,
)
from clew.domain.models.answer import Failure, FailureKind

# The first that fits: more special ones come before what they derive from.
_KINDS: Final = (
    (theirs.ModelContextWindowExceededError, FailureKind.OVERFLOW),
    (theirs.ModelAuthenticationError, FailureKind.AUTH),
    (theirs.ModelNotFoundError, FailureKind.UNKNOWN_MODEL),
    (theirs.ModelQuotaExceededError, FailureKind.AUTH),
    (theirs.ModelRateLimitError, FailureKind.RATE_LIMITED),
    (theirs.ModelRequestRejectedError, FailureKind.BAD_REQUEST),
    (theirs.ModelUnavailableError, FailureKind.SERVER),
    (theirs.ModelServerError, FailureKind.SERVER),
    (theirs.ModelConnectionError, FailureKind.NETWORK),
    (theirs.ModelRequestTimeout, FailureKind.NETWORK),
    (theirs.UnexpectedModelBehavior, FailureKind.GARBAGE),
    (theirs.UserError, FailureKind.BAD_REQUEST),
)

_KEY_VARIABLE: Final = re.compile(r"\b[A-Z][A-Z0-9_]*_API_KEY\b")


def failure_of(server: Server, wrong: Exception, *, started: bool) -> Failure:
    """What any error of the library, or of a provider's package below it, comes to.

    `started` is whether words had come: what breaks after that was cut.
    """
    kind = next((kind for known, kind in _KINDS if isinstance(wrong, known)), None)
    if isinstance(wrong, theirs.ModelHTTPError) and kind in {None, FailureKind.BAD_REQUEST}:
        kind = _kind_of_http(wrong)
    if kind is FailureKind.NETWORK:
        return _broken(server, wrong, started=started)
    if kind is None or kind is FailureKind.GARBAGE:
        said = one_line(str(wrong)) or type(wrong).__name__
        return server.fail(FailureKind.GARBAGE, f"{server.host} answered with something unexpected: {said}.")
    return server.fail(kind, sentence(server, kind, _how(wrong), _detail(wrong)))


def unusable(server: Server, wrong: Exception) -> Failure:
    """The provider cannot be set up: no key, a package that is not installed, an option it does not know."""
    if variable := _KEY_VARIABLE.search(str(wrong)):
        return server.fail(FailureKind.AUTH, f"{server.host} needs an API key: set {variable[0]}.")
    return server.fail(FailureKind.BAD_REQUEST, f"{server.host} cannot be used: {_said(wrong)}.")


def asked_seconds(wrong: Exception) -> float | None:
    """The pause the provider asks for."""
    return wrong.retry_after if isinstance(wrong, theirs.ModelAPIError) else None


def _kind_of_http(wrong: theirs.ModelHTTPError) -> FailureKind:
    return FailureKind.SERVER if wrong.status_code >= 500 else FailureKind.BAD_REQUEST


def _broken(server: Server, wrong: Exception, *, started: bool) -> Failure:
    if started:
        said = f"The connection to {server.host} broke before its answer was complete."
        return server.fail(FailureKind.CUT, said)
    failure = server.fail(FailureKind.NETWORK, f"{server.host} could not be reached: {_said(wrong)}.")
    return msgspec.structs.replace(failure, was_sent=not never_connected(wrong))


def _said(wrong: Exception) -> str:
    return one_line(str(wrong)).rstrip(".") or type(wrong).__name__


def _how(wrong: Exception) -> str:
    return f"HTTP {wrong.status_code}" if isinstance(wrong, theirs.ModelHTTPError) else ""


def _detail(wrong: Exception) -> str:
    """The provider's own words, without the library's around them."""
    body = wrong.body if isinstance(wrong, theirs.ModelAPIError) else None
    return (words_in(body) if body is not None else "") or _said(wrong)
