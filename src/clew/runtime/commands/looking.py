"""Commands that only read."""

from __future__ import annotations

from datetime import UTC, datetime

from clew.domain.conversation.messages import Message, Role, Status, ToolBody
from clew.domain.conversation.text import one_line
from clew.domain.ledger.rows import SessionRow, UsageTotals
from clew.domain.ledger.spending import capped, dollars
from clew.domain.tools.session_settings import read_settings
from clew.runtime.account import came_out, read_account
from clew.runtime.commands.values import CommandContext, CommandError, CommandReply, a_number, no_arguments
from clew.runtime.ports.models import ModelUnavailable

_LISTED = 20
_HISTORY_TURNS = 10
_LINE_MAX = 100
_ACCOUNTED = 20
_ACCOUNTED_MAX = 1000


def when(at: int) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M")


async def sessions(context: CommandContext, arguments: str) -> CommandReply:
    wanted = arguments.strip().casefold()
    rows = await context.ledger.sessions(context.principal, limit=_LISTED if not wanted else 1000)
    if wanted:
        rows = tuple(r for r in rows if wanted in (r.title or "").casefold() or r.id.startswith(wanted))[
            :_LISTED
        ]
    if not rows:
        return CommandReply(
            text="There are no sessions." if not wanted else f"No session is called “{wanted}”."
        )
    current = context.session.id if context.session else None
    lines = [_session_line(number, row, row.id == current) for number, row in enumerate(rows, 1)]
    return CommandReply(text="\n".join(lines))


def _session_line(number: int, row: SessionRow, is_current: bool) -> str:
    mark = "*" if is_current else " "
    return f"{mark}{number:3} {row.id}  {when(row.last_active_at)}  {row.title or 'untitled'}"


async def search(context: CommandContext, arguments: str) -> CommandReply:
    if not arguments.strip():
        raise CommandError("/search takes words to look for.")
    found = await context.ledger.search(context.principal, arguments.strip(), limit=_LISTED)
    lines = [f"{hit.session}  {when(hit.created_at)}  {hit.role}: {hit.snippet}" for hit in found.hits]
    if found.incomplete_since is not None:
        lines.append(
            f"The index is being rebuilt: messages after {when(found.incomplete_since)} may be missing."
        )
    return CommandReply(text="\n".join(lines) or "Nothing was found.")


async def history(context: CommandContext, arguments: str) -> CommandReply:
    turns = a_number("history", arguments, _HISTORY_TURNS)
    starts = await context.ledger.turn_starts(context.principal, context.current.id, turns)
    if not starts:
        return CommandReply(text="Nothing was said yet.")
    path = await context.ledger.path(context.principal, context.current.id, above=starts[-1].seq - 1)
    return CommandReply(text="\n".join(_history_line(message) for message in path))


def _history_line(message: Message) -> str:
    calls = f" [{', '.join(call.name for call in message.calls)}]" if message.calls else ""
    status = "" if message.status == Status.OK else f" ({message.status})"
    return f"{message.seq:4} {message.role}{status}: {one_line(message.text + calls, _LINE_MAX)}"


async def status(context: CommandContext, arguments: str) -> CommandReply:
    no_arguments("status", arguments)
    row = context.current
    usage = await context.ledger.usage(context.principal, row.id)
    turn = await context.ledger.turn(context.principal, row.id)
    try:
        profile = (await context.models.choose(row.model)).profile
        model = f"{profile.name} (window {profile.context_window} tokens)"
    except ModelUnavailable as error:
        model = str(error)
    mode = read_settings(row.settings).approval or context.default_mode
    lines = [
        f"session   {row.id}  {row.title or 'untitled'}",
        f"messages  {row.handle.head.seq} on the path, version {row.handle.version}",
        f"model     {model}",
        f"approval  {mode}",
        f"usage     {usage.input} tokens in, {usage.output} out, {_cost(usage)}",
        *(f"limit     {line}" for line in await _caps(context)),
        f"directory {row.cwd or context.cwd}",
    ]
    if turn is not None:
        lines.append(f"last turn {turn.turn}: {came_out(turn)}")
    return CommandReply(text="\n".join(lines))


async def usage(context: CommandContext, arguments: str) -> CommandReply:
    no_arguments("usage", arguments)
    lines = []
    if context.session is not None:
        own = await context.ledger.usage(context.principal, context.session.id)
        lines.append(
            f"this session: {own.input} tokens in, {own.output} out, {own.calls} calls, {_cost(own)}"
        )
    everything = await context.ledger.usage(context.principal)
    lines.append(
        f"all sessions: {everything.input} tokens in, {everything.output} out, {everything.calls} calls, "
        f"{_cost(everything)}"
    )
    return CommandReply(text="\n".join([*lines, *await _caps(context)]))


async def _caps(context: CommandContext) -> list[str]:
    """A line for each cap that is set: what counts against it, and what is left."""
    caps = context.caps.today(context.clock.now_ms())
    if caps.first is None:
        return []
    session = None if context.session is None else context.session.id
    spent = await context.ledger.spent(context.principal, session, caps.day_began)
    return [
        f"{name}: {dollars(so_far)} of the ${cap:g} allowed {of_what} spent or set aside, "
        f"{dollars(max(cap - so_far, 0.0))} left"
        for name, cap, so_far, of_what in capped(caps, spent)
    ]


def _cost(used: UsageTotals) -> str:
    if used.cost_usd is None:
        return "cost unknown"
    calls = "1 call" if used.unpriced == 1 else f"{used.unpriced} calls"
    return f"${used.cost_usd:.4f}" + (f" and what {calls} cost, which is unknown" if used.unpriced else "")


async def why(context: CommandContext, arguments: str) -> CommandReply:
    """What happened to the last turn and each of its calls, and to the last messages that had to wait."""
    count = min(a_number("why", arguments, _ACCOUNTED), _ACCOUNTED_MAX)
    ledger, principal, session = context.ledger, context.principal, context.current.id
    rows = await ledger.received(principal, session, count)
    turn = await ledger.turn(principal, session)
    if turn is None and not rows:
        return CommandReply(text="No message of this session was taken into a turn yet.")
    account = await read_account(ledger, principal, session, rows)
    lines = account.turn(turn) if turn is not None else []
    lines += [account.received(row) for row in rows]
    lines += account.undelivered(await ledger.replies(principal, session, count))
    return CommandReply(text="\n".join(lines))


async def diff(context: CommandContext, arguments: str) -> CommandReply:
    """What the tools changed in files, from the stored results."""
    no_arguments("diff", arguments)
    path = await context.ledger.path(context.principal, context.current.id)
    diffs = [
        m.body.diff for m in path if m.role == Role.TOOL and isinstance(m.body, ToolBody) and m.body.diff
    ]
    return CommandReply(text="\n".join(diffs) or "No file was changed in this session.")
