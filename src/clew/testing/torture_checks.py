"""What must hold of a home whose processes were killed: asked of its ledger, and of what happened outside.

Everything here reads. What is wrong comes back as sentences; none means that everything holds.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from clew.adapters.stores.sqlite import open_ledger
from clew.adapters.stores.sqlite.ledger import LEDGER_FILE
from clew.adapters.system import SystemClock
from clew.config.settings import RecoverySettings
from clew.domain.conversation.ids import LOCAL, CallId, SessionId
from clew.domain.conversation.messages import Message, Status, ToolBody
from clew.domain.ledger.errors import LedgerError
from clew.domain.ledger.rows import CallRow, CallState, Origin, TurnRow, TurnState
from clew.runtime.ports.ledger import Ledger
from clew.runtime.turns.outcome import CANCELLED, STOPPED
from clew.runtime.turns.recovering import SET_ASIDE
from clew.testing.invariants import check, read_tree

EFFECTS: Final = "effects"
HOME: Final = "home"
ENDED_BY_COMMANDS: Final = frozenset({"undo", "redo", "retry", "new", "resume", STOPPED})
ENDED_WITH_PARENT: Final = frozenset({*ENDED_BY_COMMANDS, SET_ASIDE, CANCELLED})
"""Why a turn beside a session ends: what it works for did, or the chat that it ran in."""
REFUSED_BY_MODEL: Final = "bad_request"
"""Why a turn fails that asks the scripted model to."""
CRASHES_MAX: Final = RecoverySettings().max_crashes


class Expected(msgspec.Struct, kw_only=True):
    """What whoever tortured a home knows about it."""

    accepted: dict[str, bool] = msgspec.field(default_factory=dict)
    """Of each message, by its first word: was it taken for certain? If not, it may be there, or not."""
    forgotten: set[str] = msgspec.field(default_factory=set)
    """First words of messages that were deleted for certain."""
    runs: list[tuple[str, int]] = msgspec.field(default_factory=list)
    """(call, wall clock in ms) of each run of a tool."""


async def wrong_in(folder: Path, expected: Expected, sessions: frozenset[str]) -> list[str]:
    """Looks at the sessions named, or at all if none is, and at every message and effect of the home."""
    home = folder / HOME
    wrong = [
        *_messages(home / LEDGER_FILE, expected.accepted),
        *_facts(home / LEDGER_FILE, expected.accepted),
    ]
    with closing(sqlite3.connect(home / LEDGER_FILE)) as db:
        living = "SELECT id FROM session WHERE id NOT IN (SELECT session_id FROM purge)"
        known = [SessionId(row[0]) for row in db.execute(living)]
        reserved = [row[0] for row in db.execute("SELECT session_id FROM usage WHERE state = 'reserved'")]
    wrong += [
        f"{session}: money is set aside for ever"
        for session in reserved
        if not sessions or session in sessions
    ]
    effects = Counter((folder / EFFECTS).read_text("utf-8").split()) if (folder / EFFECTS).exists() else {}
    runs: dict[str, list[int]] = {}
    for call, at in expected.runs:
        runs.setdefault(call, []).append(at)
    asked: set[str] = set()
    ledger = await open_ledger(home, SystemClock())
    try:
        for session in known:
            asked |= await _effects_asked(ledger, session)
            if sessions and session not in sessions:
                continue
            try:
                await check(ledger, LOCAL, session)
                wrong += [f"{session}: {sentence}" for sentence in await _turns(ledger, session)]
                wrong += [f"{session}: {s}" for s in await _calls(ledger, session, effects, runs)]
            except (AssertionError, LedgerError, LookupError) as error:
                wrong.append(f"{session}: {error!r}")
    finally:
        await ledger.close()
    wrong += _left_of_the_forgotten(home, expected.forgotten)
    return wrong + [f"the effect {effect} belongs to no call" for effect in effects if effect not in asked]


def _left_of_the_forgotten(home: Path, words: Iterable[str]) -> Iterator[str]:
    """Whoever opened the ledger last has brought every deletion to its end: no file holds a word of it."""
    files = {path.name: path.read_bytes() for path in home.glob("clew*.db*")}
    for word in words:
        for name, content in files.items():
            if word.encode() in content:
                yield f"the message {word} was deleted, and {name} holds it"


def _messages(path: Path, accepted: Mapping[str, bool]) -> Iterator[str]:
    """Every message that was taken is in one place, and none is in two, but where /retry sent what had been sent into a turn
    into the one that answers anew."""
    with closing(sqlite3.connect(path)) as db:
        said = Counter(
            str(row[0]).split()[0] for row in db.execute("SELECT text FROM message WHERE role = 'user'")
        )
        waiting = (
            "SELECT json_extract(body, '$.text') FROM inbox WHERE kind = 'message' AND state <> 'consumed'"
            " AND session_id NOT IN (SELECT session_id FROM purge)"
        )
        said.update(str(row[0]).split()[0] for row in db.execute(waiting))
        sent_again = (
            "SELECT json_extract(body, '$.text') FROM inbox WHERE kind = 'message' AND json_extract(body, '$.not_before') > 0"
            " AND session_id NOT IN (SELECT session_id FROM purge)"
        )
        said.subtract(str(row[0]).split()[0] for row in db.execute(sent_again))
    for word, was_taken in accepted.items():
        if said[word] > 1:
            yield f"the message {word} is there {said[word]} times"
        if was_taken and not said[word]:
            yield f"the message {word} was taken and is lost"
    for word in said:
        if word not in accepted:
            yield f"nobody said {word}"


def _facts(path: Path, accepted: Mapping[str, bool]) -> Iterator[str]:
    """Whatever looked for them, and however often: each is there once, and somebody said it."""
    with closing(sqlite3.connect(path)) as db:
        found = Counter(str(row[0]) for row in db.execute("SELECT text FROM fact"))
    for text, times in found.items():
        if times > 1:
            yield f"the fact {text!r} is there {times} times"
        if text.removeprefix("Said ") not in accepted:
            yield f"nobody said what is remembered: {text!r}"


def unsettled(folder: Path) -> list[str]:
    """Sessions that somebody has to come back to: a background work of theirs was not delivered, or a job waits."""
    with closing(sqlite3.connect(folder / HOME / LEDGER_FILE)) as db:
        left = (
            "SELECT parent_session FROM session s WHERE origin = 'side' AND surface = 'background' AND ended_at IS NULL"
            " AND id NOT IN (SELECT session_id FROM purge) AND parent_session NOT IN (SELECT session_id FROM purge)"
            " UNION SELECT '' FROM job WHERE state = 'queued'"
        )
        return [row[0] for row in db.execute(left)]


async def _turns(ledger: Ledger, session: SessionId) -> list[str]:
    """Somebody came after every crash: each turn has been answered, or was ended by what is allowed to end one."""
    newest = await ledger.turn(LOCAL, session)
    numbers = range(1, newest.turn + 1 if newest else 1)
    turns = [turn for n in numbers if (turn := await ledger.turn(LOCAL, session, n)) is not None]
    calls = {call.id: call.turn for call in await ledger.calls(LOCAL, session)}
    asked = {calls[approval.call] for approval in await ledger.approvals(LOCAL, session)}
    named = [f"turn {t.turn} is {t.state} ({t.end_reason}, {t.crashes} crashes): {t.error}" for t in turns]
    row = await ledger.session(LOCAL, session)
    is_beside = row.origin == Origin.SIDE
    return [
        name
        for name, turn in zip(named, turns, strict=True)
        if not _may_be(turn, turn.turn in asked) and not (is_beside and turn.end_reason in ENDED_WITH_PARENT)
    ]


def _may_be(turn: TurnRow, was_asked: bool) -> bool:
    """Whether a turn may stand in the ledger like this, once somebody has said something after it."""
    match turn.state:
        case TurnState.DONE:
            return True
        case TurnState.FAILED:
            return turn.end_reason == REFUSED_BY_MODEL
        case TurnState.INTERRUPTED | TurnState.ABANDONED:
            is_worn_out = turn.end_reason == SET_ASIDE and turn.crashes >= CRASHES_MAX
            left_unasked = was_asked and turn.end_reason == TurnState.ABANDONED
            return turn.end_reason in ENDED_BY_COMMANDS or is_worn_out or left_unasked
        case TurnState.RUNNING | TurnState.WAITING:
            return False


def _asked(messages: Iterable[Message]) -> Iterator[tuple[CallId, str]]:
    """Each call that appends to the effects, and the word that it appends."""
    for message in messages:
        for call in message.calls:
            command = msgspec.json.decode(call.arguments).get("command", "")
            if command.startswith("echo ") and f">> {EFFECTS}" in command:
                yield call.id, command.split()[1]


async def _effects_asked(ledger: Ledger, session: SessionId) -> set[str]:
    tree = await read_tree(ledger, LOCAL, session)
    return {effect for _, effect in _asked(tree.messages.values())}


async def _calls(
    ledger: Ledger, session: SessionId, effects: Mapping[str, int], runs: Mapping[str, list[int]]
) -> list[str]:
    """What happened outside is what the ledger says, call by call."""
    tree = await read_tree(ledger, LOCAL, session)
    results = {m.body.call: m for m in tree.messages.values() if isinstance(m.body, ToolBody)}
    appends = dict(_asked(tree.messages.values()))
    wrong: list[str] = []
    for call in await ledger.calls(LOCAL, session):
        count = effects.get(appends[call.id], 0) if call.id in appends else None
        wrong += _judged(call, results.get(call.id), count, runs.get(call.id, []))
    return wrong


def _judged(call: CallRow, result: Message | None, effects: int | None, runs: list[int]) -> Iterator[str]:
    named = f"call {call.id} ({call.name}, {call.state})"
    if len(runs) > 1 and not call.safe_to_repeat:
        yield f"{named} is not safe to repeat and ran {len(runs)} times"
    if call.finished_at is not None and any(at > call.finished_at for at in runs):
        yield f"{named} ran again after its result was stored"
    if call.state in (CallState.PLANNED, CallState.NOT_RUN) and runs:
        yield f"{named} ran all the same"
    if effects is None:
        return
    if effects > 1:
        yield f"{named} took effect {effects} times"
    if effects and call.state in (CallState.PLANNED, CallState.NOT_RUN):
        yield f"{named} took effect all the same"
    is_ok = result is not None and result.status == Status.OK
    if not effects and call.state == CallState.FINISHED and is_ok:
        yield f"{named} has a result and took no effect"
