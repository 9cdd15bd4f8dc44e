"""The `web_search` tool, answered by the one service that was configured."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, assert_never

import httpx
import msgspec
from msgspec import Meta

from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.bounded import cut_after
from clew.adapters.tools.declared import DeclaredTool, ToolFailed
from clew.adapters.tools.web import tls
from clew.domain.conversation.text import one_line
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.ports.tools import ToolContext

SECONDS_MAX: Final = 20.0
ANSWER_BYTES_MAX: Final = 2_000_000
BRAVE_BASE_URL: Final = "https://api.search.brave.com"
SNIPPET_CHARS: Final = 300


class Provider(StrEnum):
    BRAVE = "brave"
    SEARXNG = "searxng"


class WebSearch(msgspec.Struct, frozen=True, kw_only=True):
    """Who searches. SearXNG needs a `base_url`, Brave an `api_key`; the address is trusted, and may be private."""

    provider: Provider
    base_url: str = ""
    api_key: str = ""


class WebSearchArguments(Arguments, frozen=True, kw_only=True):
    query: Annotated[str, Meta(min_length=1, max_length=400)]
    limit: Annotated[int, Meta(ge=1, le=20, description="How many results.")] = 8


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One result, as both services have it; `description` is Brave's word, `content` SearXNG's."""

    url: str
    title: str = ""
    description: str | None = None
    content: str | None = None


class _BraveResults(msgspec.Struct, frozen=True, kw_only=True):
    results: tuple[Result, ...] = ()


class _BraveAnswer(msgspec.Struct, frozen=True, kw_only=True):
    web: _BraveResults | None = None


def web_search_tool(search: WebSearch, output_bytes: int) -> DeclaredTool[WebSearchArguments]:
    """`output_bytes` bounds the text of a result."""

    async def perform(arguments: WebSearchArguments, context: ToolContext) -> ToolResult:
        results = await _results(search, arguments)
        text = "\n\n".join(_entry(n, result) for n, result in enumerate(results, 1))
        return ToolResult(
            text=cut_after(text, output_bytes) or f"[nothing found for {one_line(arguments.query)!r}]"
        )

    return DeclaredTool(
        name="web_search",
        description="Search the web. Read a result with web_fetch.",
        arguments=WebSearchArguments,
        effect=Effect.NETWORK,
        safe_to_repeat=True,
        perform=perform,
        describe=lambda arguments: f"search the web for {arguments.query!r}",
    )


async def _results(search: WebSearch, arguments: WebSearchArguments) -> tuple[Result, ...]:
    answer = await _ask(search, arguments)
    try:
        match search.provider:
            case Provider.BRAVE:
                web = msgspec.json.decode(answer, type=_BraveAnswer).web
                found = web.results if web else ()
            case Provider.SEARXNG:
                found = msgspec.json.decode(answer, type=_BraveResults).results
            case _:
                assert_never(search.provider)
    except msgspec.DecodeError as error:
        raise ToolFailed(
            f"{search.provider} answered something that is no list of results: {error}."
        ) from error
    return found[: arguments.limit]


async def _ask(search: WebSearch, arguments: WebSearchArguments) -> bytes:
    """The service's answer. Raises ToolFailed with a sentence that holds no key."""
    request = _request(search, arguments)
    try:
        async with httpx.AsyncClient(verify=tls(), timeout=SECONDS_MAX) as client:
            response = await client.send(request)
    except httpx.HTTPError as error:
        raise ToolFailed(
            f"{search.provider} cannot be reached: {str(error) or type(error).__name__}"
        ) from error
    if response.status_code != 200:
        raise ToolFailed(
            f"{search.provider} refused the search: {response.status_code} {response.reason_phrase}."
        )
    if len(response.content) > ANSWER_BYTES_MAX:
        raise ToolFailed(f"{search.provider} answered more than {ANSWER_BYTES_MAX:,} bytes.")
    return response.content


def _request(search: WebSearch, arguments: WebSearchArguments) -> httpx.Request:
    match search.provider:
        case Provider.BRAVE:
            return httpx.Request(
                "GET",
                f"{(search.base_url or BRAVE_BASE_URL).rstrip('/')}/res/v1/web/search",
                params={"q": arguments.query, "count": arguments.limit},
                headers={"X-Subscription-Token": search.api_key, "Accept": "application/json"},
            )
        case Provider.SEARXNG:
            return httpx.Request(
                "GET",
                f"{search.base_url.rstrip('/')}/search",
                params={"q": arguments.query, "format": "json"},
                headers={"Accept": "application/json"},
            )
        case _:
            assert_never(search.provider)


def _entry(n: int, result: Result) -> str:
    snippet = one_line(result.description or result.content or "", SNIPPET_CHARS)
    return f"{n}. {one_line(result.title)}\n{result.url}" + (f"\n{snippet}" if snippet else "")
