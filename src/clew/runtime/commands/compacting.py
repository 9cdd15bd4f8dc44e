"""/compress and /expand: a summary on request, and taking one back."""

from __future__ import annotations

from typing import Final

from clew.domain.compaction.policy import NothingToGain
from clew.runtime.commands.values import CommandContext, CommandError, CommandReply, no_arguments
from clew.runtime.compaction import Compacted, CompactionAsk, Trigger

FOCUS_CHARACTERS_MAX: Final = 500
_PREVIEW: Final = "--preview"


async def compress(context: CommandContext, arguments: str) -> CommandReply:
    """Also while a turn runs: it goes on, and its next request is the shorter one."""
    words = arguments.split()
    odd = next((w for w in words if w.startswith("--") and w != _PREVIEW), None)
    if odd is not None:
        raise CommandError(f"/compress knows {_PREVIEW}, not {odd[:40]}; nothing was done.")
    focus = " ".join(word for word in words if word != _PREVIEW)
    if len(focus) > FOCUS_CHARACTERS_MAX:
        raise CommandError(f"The focus of a summary has at most {FOCUS_CHARACTERS_MAX} characters.")
    row = context.current
    ask = CompactionAsk(
        principal=context.principal,
        session=row.id,
        trigger=Trigger.COMMAND,
        model=(await context.models.choose(row.model)).profile,
        saw=row.handle.summary,
        focus=focus or None,
    )
    if _PREVIEW in words:
        return await _preview(context, ask)
    outcome = await context.compactor.compact(ask)
    if not isinstance(outcome, Compacted):
        raise CommandError(outcome.sentence)
    return CommandReply(text=outcome.sentence)


async def _preview(context: CommandContext, ask: CompactionAsk) -> CommandReply:
    planned = await context.compactor.preview(ask)
    if isinstance(planned, NothingToGain):
        raise CommandError(planned.sentence)
    after = planned.tokens_kept + planned.summary_tokens
    return CommandReply(
        text=f"A summary would stand for {len(planned.covered):,} messages, up to number {planned.upto.seq}: about "
        f"{planned.tokens_before:,} → {after:,} tokens by estimate. Nothing was done."
    )


async def expand(context: CommandContext, arguments: str) -> CommandReply:
    no_arguments("expand", arguments)
    row = await context.desk.expand(context.principal, context.current.id)
    left = (
        "the one before it stands" if row.handle.summary is not None else "all messages stand by themselves"
    )
    return CommandReply(text=f"The summary was taken back: {left} again.")
