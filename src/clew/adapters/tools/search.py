"""The `session_search` tool: what was said before, in every session its principal may read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from msgspec import Meta

from clew.adapters.tools.arguments import Arguments
from clew.adapters.tools.bounded import cut_after
from clew.adapters.tools.declared import DeclaredTool, ToolFailed
from clew.domain.conversation.text import one_line
from clew.domain.ledger.errors import StoreUnusable
from clew.domain.ledger.rows import Hit, SearchResult
from clew.domain.tools.spec import Effect, ToolResult
from clew.runtime.ports.ledger import Ledger
from clew.runtime.ports.tools import ToolContext

LIMIT_MAX: Final = 50


class SessionSearchArguments(Arguments, frozen=True, kw_only=True):
    query: Annotated[str, Meta(min_length=1, description='Words; "a phrase", -without, begin* also work.')]
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 10


def session_search_tool(ledger: Ledger, output_bytes: int) -> DeclaredTool[SessionSearchArguments]:
    """Searches as the context's principal, whoever that is: what they may not read is not found."""

    async def perform(arguments: SessionSearchArguments, context: ToolContext) -> ToolResult:
        try:
            result = await ledger.search(context.principal, arguments.query, limit=arguments.limit)
        except StoreUnusable as error:
            raise ToolFailed(f"The past cannot be searched now: {error}") from error
        return ToolResult(text=cut_after(_text(arguments.query, result), output_bytes))

    return DeclaredTool(
        name="session_search",
        description="Search earlier conversations of this person.",
        arguments=SessionSearchArguments,
        effect=Effect.READ,
        safe_to_repeat=True,
        perform=perform,
        describe=lambda arguments: f"search earlier conversations for {arguments.query!r}",
    )


def _text(query: str, result: SearchResult) -> str:
    lines = [_entry(hit) for hit in result.hits] or [f"[nothing was said about {one_line(query)!r}]"]
    if result.incomplete_since is not None:
        lines.append(f"[incomplete: messages after {_moment(result.incomplete_since)} may be missing]")
    if result.ranked_newest is not None:
        lines.append(f"[the newest {result.ranked_newest:,} places with these words were ranked]")
    return "\n".join(lines)


def _entry(hit: Hit) -> str:
    title = f'"{one_line(hit.title, 80)}"' if hit.title else "untitled"
    return (
        f"{hit.session} {title}, {_moment(hit.created_at)}, {hit.role}, message {hit.position}:\n"
        f"  {one_line(hit.snippet, 400)}"
    )


def _moment(at: int) -> str:
    """Milliseconds since 1970 as a date and time."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
