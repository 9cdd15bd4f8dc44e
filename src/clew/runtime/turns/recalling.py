"""What the requests of one turn are told beside the conversation: the core in the prompt, and what the turn recalls.

Nothing of it is stored but the prompt, and the number that says which facts there were when it was frozen. A turn looks
again before each of its later steps, so that what is forgotten while it runs is in no request any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from clew.domain.conversation.ids import FactId
from clew.domain.ledger.rows import Prefix, SessionRow
from clew.domain.memory.facts import Fact
from clew.domain.memory.recall import core, core_text, recalled, recalled_text
from clew.domain.tools.session_settings import read_settings
from clew.domain.turn.prefix import freeze
from clew.domain.turn.prompt import Overlay
from clew.runtime.ports.ledger import Ledger
from clew.runtime.turns.job import Means, TurnJob
from clew.runtime.turns.openings import Hear, Say


class TurnMemory:
    """Of one turn. Only its owner's facts are in it; in a session of another's there is none."""

    def __init__(self, job: TurnJob, facts: Sequence[Fact], row: SessionRow, said: str) -> None:
        self._job = job
        frozen, newest = read_settings(row.settings).core, max((fact.id for fact in facts), default=0)
        self.upto = newest if frozen is None and row.prefix is None else frozen or 0
        """The newest fact when the prompt was frozen; 0 when there was none."""
        self.is_new = frozen is None and self.upto > 0
        self._core = core(facts, self.upto)
        self._recalled = recalled(facts, said, self._core)

    def prefix(self) -> Prefix:
        job = self._job
        specs = [tool.spec for tool in job.tools]
        extra = "\n".join(text for text in (job.prompt, core_text(self._core)) if text)
        return freeze(job.model.profile, specs, job.instructions, extra)

    @property
    def overlays(self) -> tuple[Overlay, ...]:
        return (Overlay(text=recalled_text(self._recalled)),) if self._recalled else ()

    async def forgot(self, ledger: Ledger) -> bool:
        """Whether something of it was forgotten since; then it holds that no more."""
        if not self._core and not self._recalled:
            return False
        left: set[FactId] = {fact.id for fact in await ledger.facts(self._job.principal)}
        before = (self._core, self._recalled)
        self._core, self._recalled = (tuple(fact for fact in facts if fact.id in left) for facts in before)
        return (self._core, self._recalled) != before


async def facts_for(means: Means, job: TurnJob) -> tuple[tuple[Fact, ...], str]:
    """The facts that a turn may recall, and what it is asked."""
    if not means.remembers or job.model.profile.is_demo:
        return (), ""
    facts = await means.ledger.facts(job.principal, job.session)
    if not facts or isinstance(job.opening, Hear):
        return facts, ""
    if isinstance(job.opening, Say):
        text = job.opening.text
        return facts, text if isinstance(text, str) else text.decode(errors="replace")
    starts = await means.ledger.turn_starts(job.principal, job.session, 1)
    return facts, starts[0].text if starts else ""
