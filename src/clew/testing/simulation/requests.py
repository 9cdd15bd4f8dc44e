"""Looks at every request that a model gets: it holds its own session's words, and goes on where the one before ended."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from clew.adapters.stores.memory.state import State
from clew.adapters.stores.memory.tree import messages_to
from clew.domain.conversation.ids import SessionId
from clew.domain.conversation.messages import Role
from clew.domain.ledger.rows import OpKind
from clew.domain.models.request import ModelRequest, RequestMessage, TextPart, UserTurn
from clew.domain.turn.prompt import canonical
from clew.domain.turn.recovery import batch_key
from clew.testing.simulation.witness import HINT, Witness

BREAKS = frozenset(
    {OpKind.UNDO, OpKind.REDO, OpKind.RETRY, OpKind.RESUME, OpKind.REFREEZE, OpKind.COMPACT, OpKind.EXPAND}
)
EVENT = "<event "
_WORD = re.compile(r"words-[0-9]+-end")
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

    def sent(self, process: str, session: SessionId, request: ModelRequest) -> None:
        """Called as the model gets it."""
        witness, state = self._witness, self._witness.disk.state
        if session not in state.sessions or session in state.purged:
            return
        said = _words_of(request)
        path = messages_to(state, state.sessions[session].handle.head)
        if not witness.holds(process, session):
            witness.record.hit("fault: a request of a process that was cut off")
            known = _tree_words(state, session)
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

    def summarising(self, session: SessionId, request: ModelRequest) -> None:
        """A request that asks for a summary holds words of its session, and of those it was forked from."""
        state = self._witness.disk.state
        if session in state.sessions and session not in state.purged:
            self._witness.record.hit("request: for a summary")
            known = {word for text in _tree_words(state, session) for word in _WORD.findall(text)}
            found = set(_WORD.findall(canonical(request.messages).decode()))
            self._witness.record.require(
                found <= known, f"a summary of {session} is asked of {found - known}"
            )

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
        stays = _stays(request.messages) if _has_hint(request) else request.messages
        self._asked[session] = _Asked(canonical(stays)[:-1], version, _summary_of(request))


def _stays(messages: Sequence[RequestMessage]) -> list[RequestMessage]:
    """All up to and with the last message of a person, without what was hinted in it."""
    opening = max(i for i, message in enumerate(messages) if _spoken(message) is not None)
    return _without_hint(messages[: opening + 1])


def _without_hint(messages: Sequence[RequestMessage]) -> list[RequestMessage]:
    return [
        UserTurn(parts=tuple(part for part in message.parts if not _is_hint(part)))
        if isinstance(message, UserTurn)
        else message
        for message in messages
    ]


def _is_hint(part: object) -> bool:
    return isinstance(part, TextPart) and part.text.startswith(HINT)


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


def _tree_words(state: State, session: SessionId) -> set[str]:
    """All that was ever said in the session and in those it was forked from."""
    line = [session]
    for each in line:
        parent = state.sessions[each].parent
        if parent is not None and parent not in line:
            line.append(parent)
    return {
        message.text
        for at, message in state.messages.items()
        if message.role == Role.USER and state.branches[at.branch].session in line
    }
