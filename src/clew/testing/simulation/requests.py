"""Looks at every request that a model gets: it holds its own session's words, and goes on where the one before ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from clew.adapters.stores.memory.state import State
from clew.adapters.stores.memory.tree import messages_to
from clew.domain.conversation.ids import PrincipalId, SessionId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.rows import OpKind
from clew.domain.models.request import ModelRequest, RequestMessage, TextPart, UserTurn
from clew.domain.turn.prompt import canonical
from clew.domain.turn.recovery import batch_key
from clew.testing.simulation.process_life import Life
from clew.testing.simulation.record import TOKEN
from clew.testing.simulation.remembered import OVERLAY
from clew.testing.simulation.witness import HINT, Witness

BREAKS = frozenset(
    {OpKind.UNDO, OpKind.REDO, OpKind.RETRY, OpKind.RESUME, OpKind.REFREEZE, OpKind.COMPACT, OpKind.EXPAND}
)
EVENT = "<event "
SUMMARY = "<summary_of_"


class _Asked(msgspec.Struct, frozen=True):
    """The newest request of a session: what of its messages has to come again, at which version of the session."""

    stays: bytes
    version: int
    summary: str | None


class Requests:
    """One for all processes of a run."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._asked: dict[SessionId, _Asked] = {}
        self._paid: Counter[SessionId] = Counter()

    def paid(self, session: SessionId) -> None:
        """Under a cap each call, whatever it is made for, is on disk before it is made."""
        self._paid[session] += 1
        rows = sum(row.session == session for row in self._witness.disk.state.usage.values())
        self._witness.record.require(self._paid[session] <= rows, f"a call of {session} was not set aside")
        self._witness.record.hit("request: set aside under a cap")

    def sent(self, life: Life, session: SessionId, request: ModelRequest) -> None:
        """Called as the model gets it."""
        witness, state, process = self._witness, self._witness.disk.state, life.name
        if session not in state.sessions or session in state.purged:
            return
        self._check_owner(life, session, request)
        said = _words_of(request)
        path = messages_to(state, state.sessions[session].handle.head)
        if not witness.holds(process, session):
            witness.record.hit("fault: a request of a process that was cut off")
            known = _tree_texts(state, session)
            witness.record.require(set(said) <= known, f"a request of {session} holds foreign words: {said}")
            return
        spoken = [m.text for m in path if m.role == Role.USER]
        if _summary_of(request) is not None:
            spoken = spoken[len(spoken) - len(said) :]
        witness.record.require(said == spoken, f"a request of {session} holds {said}, its path {spoken}")
        self._check_prefix(session, request, state)
        if _has_hint(request):
            batch = next((m.calls for m in reversed(path) if m.calls), ())
            witness.told_model(session, batch_key(batch))

    def beside(self, life: Life, session: SessionId, request: ModelRequest, what: str) -> None:
        """What looks at a session from beside it is sent words of that session, and of those it was forked from."""
        state, record = self._witness.disk.state, self._witness.record
        if session in state.sessions and session not in state.purged:
            record.hit(f"request: for {what}")
            self._check_owner(life, session, request)
            known = {word for text in _tree_texts(state, session) for word in TOKEN.findall(text)}
            found = {t for t in TOKEN.findall(canonical(request.messages).decode()) if t.startswith("words")}
            record.require(found <= known, f"{what} of {session} is asked of {found - known}")

    def owner(self, session: SessionId) -> PrincipalId:
        return self._witness.disk.state.sessions[session].owner

    def fact_numbers(self) -> list[int]:
        """Of everybody's facts."""
        return list(self._witness.disk.state.facts)

    def found(self, attempt: str, tokens: Iterable[str]) -> None:
        self._witness.remembered.found(attempt, tokens)

    def _check_owner(self, life: Life, session: SessionId, request: ModelRequest) -> None:
        """A request holds its own person's words and facts alone, and none that is forgotten."""
        record, owner = self._witness.record, self.owner(session)
        held = TOKEN.findall(request.system) + TOKEN.findall(canonical(request.messages).decode())
        foreign = {token for token in held if record.owners.get(token) != owner}
        record.require(not foreign, f"a request of {owner} holds what is somebody else's: {foreign}")
        state = self._witness.disk.state
        self._witness.remembered.sent(owner, request, state, life.program.went_on_at)

    def _check_prefix(self, session: SessionId, request: ModelRequest, state: State) -> None:
        """Request N is a prefix of request N+1, but where the head moved or the prompt was changed, and said so."""
        version = state.sessions[session].handle.version
        before = self._asked.get(session)
        now = canonical(_without_hint(request.messages))
        if before is not None:
            between = {state.ops[session, v].kind for v in range(before.version + 1, version + 1)}
            if before.summary != _summary_of(
                request
            ):  # a turn goes by the summary that it found or made itself
                between |= {op.kind for op in state.ops.values() if op.session == session}
            goes_on = now.startswith(before.stays)
            self._witness.record.require(
                goes_on or bool(between & BREAKS),
                f"a request of {session} does not go on from the one before",
            )
            self._witness.record.hit("request: " + ("goes on" if goes_on else "begins anew"))
        was_told = list(request.messages) != _without_hint(request.messages)
        stays = _stays(request.messages) if was_told else request.messages
        self._asked[session] = _Asked(canonical(stays)[:-1], version, _summary_of(request))


def _stays(messages: Sequence[RequestMessage]) -> list[RequestMessage]:
    """All up to and with the last message of a person, without what was hinted in it."""
    opening = max(i for i, m in enumerate(messages) if _spoken(m) is not None or m != _without_hint([m])[0])
    return _without_hint(messages[: opening + 1])


def _without_hint(messages: Sequence[RequestMessage]) -> list[RequestMessage]:
    return [
        UserTurn(parts=tuple(part for part in message.parts if not _is_hint(part, OVERLAY)))
        if isinstance(message, UserTurn)
        else message
        for message in messages
    ]


def _is_hint(part: object, *others: str) -> bool:
    return isinstance(part, TextPart) and part.text.startswith((HINT, *others))


def _has_hint(request: ModelRequest) -> bool:
    return any(
        _is_hint(part)
        for message in request.messages
        if isinstance(message, UserTurn)
        for part in message.parts
    )


def _words_of(request: ModelRequest) -> list[str]:
    return [words for message in request.messages if (words := _spoken(message)) is not None]


def _spoken(message: RequestMessage) -> str | None:
    """What a person said in it; None where no person speaks."""
    if not isinstance(message, UserTurn) or not isinstance(message.parts[0], TextPart):
        return None
    text = message.parts[0].text
    return None if text.startswith((EVENT, SUMMARY)) else text


def _summary_of(request: ModelRequest) -> str | None:
    first = request.messages[0] if request.messages else None
    if not isinstance(first, UserTurn) or not isinstance(first.parts[0], TextPart):
        return None
    return first.parts[0].text if first.parts[0].text.startswith(SUMMARY) else None


def _tree_texts(state: State, session: SessionId) -> set[str]:
    """All that was ever said, or came in, in the session and in those it was forked from."""
    line = [session]
    for each in line:
        parent = state.sessions[each].parent
        if parent is not None and parent not in line:
            line.append(parent)
    return {m.text for at, m in state.messages.items() if state.branches[at.branch].session in line}
