"""The HTTP API as a whole: every operation behind a key, errors in the wire's own shape, and the process around it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from clew.config.settings import HttpSettings
from clew.domain.ledger.errors import LedgerError, Outdated
from clew.domain.routing.keys import SURFACES
from clew.runtime.delivery import raised_at
from clew.runtime.talk import Services
from clew.surfaces.http.access import Access
from clew.surfaces.http.completions import Completions
from clew.surfaces.http.errors import ApiError, as_answer, bad_request
from clew.surfaces.http.lines import Lines
from clew.surfaces.http.listener import read_body
from clew.surfaces.http.openapi import document
from clew.surfaces.http.operations import Asking, Operation
from clew.surfaces.http.sessions import Sessions
from clew.surfaces.http.streaming import Gone

LOG: Final = structlog.get_logger("clew.http")
NO_KEY: Final = ", so every request is refused; `clew pair key create` makes one"
MB: Final = 1_000_000
BODY_SECONDS: Final = 60.0
_WHERE: Final = re.compile(r"(.*) - at `\$\.?(.*)`", re.DOTALL)
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class HttpApi:
    """`owner_key` is the one of the settings; `outdated` is told when no turn can begin in this process any more."""

    def __init__(self, services: Services, settings: HttpSettings, owner_key: str | None) -> None:
        self.services = services
        self.outdated: Callable[[Outdated], None] = _unheard
        self._settings = settings
        self._owner_key = owner_key
        self._access = Access(
            services.ledger,
            owner_key=owner_key,
            owner_tools=settings.tools,
            requests_per_minute=settings.requests_per_minute,
        )
        self._lines = Lines(services, settings.tool_seconds, self._outdate)
        self._completions = Completions(
            services, self._lines, settings.tool_seconds, stops=settings.disconnect == "stop"
        )
        self.operations: tuple[Operation, ...] = (
            *self._completions.operations,
            *Sessions(
                services, self._lines, self._completions, events_seconds=settings.events_seconds
            ).operations,
        )
        described = msgspec.json.encode(document(self.operations))

        async def openapi(_: Request) -> Response:
            return Response(described, media_type="application/json")

        self.routes: list[BaseRoute] = [Route("/openapi.json", openapi)]
        self.routes += [Route(o.path, self._served(o), methods=[o.method]) for o in self.operations]
        # Behind a key too: who has none is not even told which paths there are.
        self.routes.append(Route("/v1/{rest:path}", self._elsewhere, methods=_METHODS))

    def _outdate(self, error: Outdated) -> None:
        self.outdated(error)

    async def check(self) -> tuple[str, str | None]:
        """What is served, and what is wrong with it: nothing, for one that refuses everybody is safe."""
        people = await self.services.ledger.people()
        keys = sum(platform in SURFACES for person in people for platform, _ in person.accounts)
        keys += self._owner_key is not None
        return f"API: {keys} key{'' if keys == 1 else 's'}{'' if keys else NO_KEY}", None

    async def run(self) -> None:
        """Until it is cancelled: goes on with what processes left, at the start and once a lease."""
        while True:
            try:
                await self._lines.go_on()
            except LedgerError as error:
                LOG.warning("not looked for what was left", why=str(error))
            await asyncio.sleep(self.services.runner.settings.lease_seconds)

    async def drain(self, seconds: float) -> None:
        """Lets what runs end."""
        await asyncio.gather(self._lines.drain(seconds), self._completions.stateless.drain(seconds))

    async def close(self) -> None:
        await self._lines.close()

    # -- one request ---------------------------------------------------------------------------------------------
    def _served(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        body = None if operation.body is None else msgspec.json.Decoder(operation.body)

        async def serve(request: Request) -> Response:
            """The supervisor of one request: whatever goes wrong is its answer."""
            try:
                response = await self._answer(operation, body, request)
            except Gone:
                response = Response(status_code=499)
            except Exception as error:  # noqa: BLE001 - the supervisor: said by where it was raised, which holds nobody's words
                response = _error(error, operation.path)
            self.services.meter.count(
                "clew_http_requests_total", path=operation.path, status=str(response.status_code)
            )
            return response

        return serve

    async def _answer(
        self, operation: Operation, body: msgspec.json.Decoder[msgspec.Struct] | None, request: Request
    ) -> Response:
        caller = await self._access.caller(request.headers)
        try:
            query = msgspec.convert(dict(request.query_params), operation.query, strict=False)
        except msgspec.ValidationError as error:
            raise _invalid(error) from error
        read = None if body is None else await self._read(body, request)
        asking = Asking(caller=caller, path=request.path_params, query=query, body=read, request=request)
        answered = await operation.handle(asking)
        if isinstance(answered, Response):
            return answered
        return Response(msgspec.json.encode(answered), operation.status, media_type="application/json")

    async def _read(self, body: msgspec.json.Decoder[msgspec.Struct], request: Request) -> msgspec.Struct:
        most = self._settings.body_mb_max * MB
        try:
            async with asyncio.timeout(BODY_SECONDS):
                raw = await read_body(request, most)
        except TimeoutError as error:
            raise ApiError(408, "too_slow", "The body did not come.", headers=_CLOSE) from error
        if raw is None:
            why = f"A request has at most {self._settings.body_mb_max} MB (http.body_mb_max)."
            raise ApiError(413, "request_too_large", why, headers=_CLOSE)
        try:
            return body.decode(raw or b"{}")
        except msgspec.ValidationError as error:
            raise _invalid(error) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise bad_request(f"The body is no JSON: {error}.", code="invalid_json") from error

    async def _elsewhere(self, request: Request) -> Response:
        try:
            await self._access.caller(request.headers)
        except Exception as error:  # noqa: BLE001 - as above
            return _error(error, "")
        known = any(_is_path(o.path, request.url.path) for o in self.operations)
        if known:
            return _error(ApiError(405, "method_not_allowed", "This path is not asked in this way."), "")
        return _error(ApiError(404, "unknown_url", f"There is nothing at {request.url.path[:200]}."), "")


_CLOSE: Final = {"connection": "close"}


def _is_path(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) is not None


def _invalid(error: msgspec.ValidationError) -> ApiError:
    where = _WHERE.fullmatch(str(error))
    if where is None:
        return bad_request(f"{error}.")
    return bad_request(f"{where[1]}, at {where[2]}.", where[2])


def _error(error: Exception, path: str) -> Response:
    answer = as_answer(error)
    if answer is None:
        LOG.error("not answered", path=path, error=type(error).__name__, at=raised_at(error))
        answer = ApiError(500, "internal_error", "An error inside Clew.")
    return Response(answer.encoded(), answer.status, answer.headers, "application/json")


def _unheard(_: Outdated) -> None:
    """Before anybody serves it, nobody has to be told."""
