"""A ledger with some of everything in it, and every way we know to break it from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from clew.domain.conversation.ids import ApprovalId
from clew.domain.ledger.commits import (
    AddReply,
    AddUsage,
    AskApproval,
    ConsumeApproval,
    OpenTurn,
    UsageState,
)
from clew.domain.ledger.rows import ApprovalState, CallState, Prefix
from clew.domain.memory.facts import Kind, NewFact, Trace
from clew.testing.ledgers import (
    ANN,
    BOB,
    START_MS,
    add,
    as_holder,
    ask_tool,
    attachment,
    begin,
    compact,
    do,
    exchange,
    fork,
    job,
    move_call,
    place,
    plan,
    receive,
    run_turn,
    say,
    session_id,
    tool_call,
    turn_after,
    undo,
    user,
)
from tests.unit.sqlite.homes import database, opened

TALK: Final = session_id(1)
"""Ann's: a history with an undone tip, two summaries, attachments, a turn that runs and asks."""
FOREIGN: Final = session_id(2)
FORK: Final = session_id(3)
GONE: Final = session_id(4)
CALM: Final = session_id(5)
"""Ann's: one message, nothing running."""


async def fill(home: Path) -> None:
    """Makes the ledger that the attacks are written for."""
    async with opened(home) as ledger:
        foreign = await exchange(ledger, await begin(ledger, 2, owner=BOB), "bob's", "bob's too", actor=BOB)
        await compact(ledger, foreign, 2, "bob's summary", actor=BOB)
        prefix = Prefix(sha256="p" * 64, system_prompt="You are.", tools="[]")
        talk = await begin(ledger, 1, prefix=prefix)
        chat = await place(ledger, talk)
        await place(ledger, foreign, "telegram:2")
        image, blob = attachment(b"pixels")
        talk = await add(ledger, talk, user("look", image), user("b"), blobs=(blob,), idempotency_key="first")
        talk = await undo(ledger, await exchange(ledger, talk, "undone", "undone too"))
        talk = await exchange(ledger, talk, "kept")
        talk = await compact(ledger, await compact(ledger, talk, 1, "one"), 3, "two")
        talk = await compact(ledger, talk, 6, "three")
        talk = await undo(ledger, talk)  # off its path: three
        talk = await exchange(ledger, talk, "on")
        calm = await say(ledger, await begin(ledger, 5), "calm")
        await fork(ledger, talk, 3)
        gone = await place_of_gone(home)
        waiting = [await receive(ledger, talk, chat, key) for key in ("taken", "waits", "waits too")]
        await run_turn(ledger, calm, "a whole turn", tool_text="result")
        opened_turn = OpenTurn(turn=turn_after(talk), principal=ANN, model="m", conversation=chat)
        call, other = tool_call(talk), tool_call(talk, 1)
        turn = turn_after(talk)
        talk = await add(
            ledger,
            talk,
            user("go"),
            claim="this-process",
            open_turn=opened_turn,
            take=(waiting[0].id,),
            usage=(spent(1, UsageState.SETTLED), spent(2, UsageState.RESERVED)),
        )
        talk = await ask_tool(ledger, talk, turn, call)
        talk = await do(ledger, talk, fence=as_holder(talk), plan=(plan(other, turn, 1),))
        asked = tuple(
            AskApproval(id=ApprovalId(ident), call=each, args_sha256="x", asker=ANN, expires_at=START_MS * 2)
            for ident, each in (("spent", call.id), ("asked", call.id), ("denied", other.id))
        )
        talk = await do(ledger, talk, fence=as_holder(talk), ask=asked)
        await ledger.decide(ANN, ApprovalId("spent"), ApprovalState.APPROVED, START_MS)
        await ledger.decide(ANN, ApprovalId("denied"), ApprovalState.DENIED, START_MS)
        consumed = ConsumeApproval(id=ApprovalId("spent"), args_sha256="x")
        talk = await move_call(ledger, talk, call.id, CallState.STARTED, consume=consumed)
        reply = AddReply(conversation=chat, turn=turn, part=0, kind="notice", key="sent", body="hello")
        later = AddReply(conversation=chat, turn=turn, part=1, kind="notice", key="pending", body="hello")
        await do(ledger, talk, fence=as_holder(talk), replies=(reply, later))
        assert gone == GONE
        for key in ("waits", "done"):
            await ledger.add_job(job(talk, chat, key), most=2)
        facts = (
            NewFact(kind=Kind.USER, text=text, said_at=said_at)
            for text, said_at in (("a", 1), ("b", 2), ("c", 3))
        )
        gone_fact = (await ledger.keep_facts(ANN, tuple(facts), START_MS))[2]
        await ledger.forget_facts(ANN, (gone_fact.id,), (Trace(salt="s", sha256="x"),), START_MS)
    with database(home / "clew.db") as db:
        db.execute("UPDATE outbox SET state = 'sent' WHERE key = 'sent'")
        db.execute("UPDATE job SET state = 'done' WHERE key = 'done'")
        db.execute("INSERT INTO identity VALUES('telegram', 'bot', '77', 'ann')")


async def place_of_gone(home: Path) -> str:
    """A session whose deletion is under way, with a message that a fork still reads."""
    async with opened(home) as ledger:
        gone = await exchange(ledger, await begin(ledger, 4), "read by a fork", "read by nobody")
        path = await ledger.path(ANN, gone.session)
        await fork(ledger, gone, 6, at=path[0].head)
    with database(home / "clew.db") as db:
        db.execute("INSERT INTO purge(session_id, actor, at) VALUES(?, 'ann', 1)", (GONE,))
    return GONE


def spent(step: int, state: UsageState) -> AddUsage:
    return AddUsage(turn=1, step=step, attempt=1, task="turn", model="m", state=state)


class Attack(NamedTuple):
    """What somebody with the file and a bad idea might run."""

    name: str
    sql: str


_FACT: Final = "INSERT INTO fact(owner, kind, text, session_id, confidence, supersedes, said_at, created_at)"
_OP: Final = (
    "INSERT INTO op(session_id, version, kind, from_branch, from_seq, to_branch, to_seq, from_summary, to_summary, epoch,"
    " idempotency_key, actor, at) SELECT id, {version}, '{kind}', {from_branch}, {from_seq}, {to_branch}, {to_seq},"
    " {from_summary}, {to_summary}, {epoch}, {key}, 'eve', 1 FROM session WHERE id = '{session}'"
)


def op(kind: str, session: str = TALK, or_what: str = "", **different: str) -> str:
    """An op that would be right, but for what is said to be different."""
    right = {
        "version": "version + 1",
        "from_branch": "head_branch",
        "from_seq": "head_seq",
        "to_branch": "head_branch",
        "to_seq": "head_seq",
        "from_summary": "summary_id",
        "to_summary": "summary_id",
        "epoch": "epoch",
        "key": "NULL",
    }
    text = _OP.format(kind=kind, session=session, **(right | different))
    return text.replace("INSERT", f"INSERT {or_what}", 1) if or_what else text


def message(branch: str, seq: str, ident: str = "NULL", or_what: str = "") -> str:
    return (
        f"INSERT {or_what} INTO message(id, branch, seq, turn, step, role, actor, status, text, created_at)"
        f" SELECT {ident}, {branch}, {seq}, 1, 0, 'user', 'eve', 'ok', 'never said', 1 FROM session WHERE id = '{TALK}'"
    )


HEAD: Final = f"(SELECT head_branch FROM session WHERE id = '{TALK}')"
TIP: Final = f"(SELECT head_seq FROM session WHERE id = '{TALK}')"
ROOT: Final = f"(SELECT min(id) FROM branch WHERE session_id = '{TALK}')"
CALM_HEAD: Final = f"(SELECT head_branch FROM session WHERE id = '{CALM}')"
FOREIGN_ROOT: Final = f"(SELECT min(id) FROM branch WHERE session_id = '{FOREIGN}')"
FOREIGN_SUMMARY: Final = f"(SELECT summary_id FROM session WHERE id = '{FOREIGN}')"
OFF_PATH: Final = f"(SELECT id FROM summary WHERE session_id = '{TALK}' AND text = 'three')"
EPOCH: Final = f"(SELECT epoch FROM session WHERE id = '{TALK}')"
SESSION: Final = "INSERT {} INTO session(id, owner, surface, origin, last_active_at, created_at{}) VALUES('{}', 'ann', 's', 'new', 1, 1{})"
ATTACKS: Final = tuple(
    Attack(*each)
    for each in (
        # -- messages
        ("a message is rewritten", "UPDATE message SET text = 'never said' WHERE id = 1"),
        ("a message takes another's id", "UPDATE OR REPLACE message SET id = 2 WHERE id = 1"),
        ("a message takes another's rowid", "UPDATE OR REPLACE message SET rowid = 2 WHERE rowid = 1"),
        ("a message is deleted", "DELETE FROM message WHERE id = 1"),
        ("a message is replaced by id", message(HEAD, f"{TIP} + 1", "1", "OR REPLACE")),
        ("a message is replaced by place", message(ROOT, "1", or_what="OR REPLACE")),
        ("a message is replaced by id at a place its op left", op("append", CALM, to_seq="head_seq + 1") + "; "
         + message(CALM_HEAD, f"(SELECT head_seq FROM session WHERE id = '{CALM}')", "1", "OR REPLACE")),
        ("a message without an op", message(HEAD, f"{TIP} + 1")),
        ("a message past a gap", message(HEAD, f"{TIP} + 5")),
        ("a message on an undone tip", message(ROOT, f"(SELECT max(seq) + 1 FROM message WHERE branch = {ROOT})")),
        ("a message on a branch that is not there", message("999", "1")),
        ("a message with an id below zero", op("append", to_seq="head_seq + 1") + "; " + message(HEAD, TIP, "-7")),
        ("a message that a fork reads is deleted with its session",
         f"DELETE FROM message WHERE branch IN (SELECT id FROM branch WHERE session_id = '{GONE}') AND seq = 1"),
        # -- ops
        ("an op skips a version", op("title", version="version + 2")),
        ("an op comes again", op("title", version="version", or_what="OR REPLACE")),
        ("an op of an old epoch", op("title", epoch="epoch - 1")),
        ("an op of a later epoch", op("title", epoch="epoch + 1")),
        ("an op that saw another head", op("title", from_seq="head_seq - 1", to_seq="head_seq - 1")),
        ("an op that saw another branch", op("title", from_branch=ROOT, to_branch=ROOT)),
        ("an op that saw no summary", op("title", from_summary="NULL", to_summary="NULL")),
        ("an op of a session that is not there", op("title").replace(f"id = '{TALK}'", "1").replace("SELECT id,", "SELECT 'nobody',")),
        ("an op is rewritten", "UPDATE op SET actor = 'eve'"),
        ("an op is moved", "UPDATE OR REPLACE op SET version = version + 1"),
        ("an op is deleted", f"DELETE FROM op WHERE session_id = '{TALK}' AND version = 3"),
        ("a key is used again", op("title", key="'first'", or_what="OR REPLACE")),
        ("a session is created again", op("create")),
        ("a session is created by an undo", SESSION.format("", "", "eve", "") + "; INSERT INTO branch(session_id) VALUES('eve'); "
         + op("undo", "eve", to_branch="(SELECT max(id) FROM branch)")),
        ("an append of nothing", op("append")),
        ("an append goes back", op("append", to_seq="head_seq - 1")),
        ("an append jumps to an undone tip",
         op("append", to_branch=ROOT, to_seq=f"(SELECT max(seq) + 1 FROM message WHERE branch = {ROOT})")),
        ("an append goes to another's branch", op("append", to_branch=FOREIGN_ROOT, to_seq="head_seq + 1")),
        ("an append changes the summary", op("append", to_seq="head_seq + 1", to_summary="NULL")),
        ("an undo leads to another's branch", op("undo", to_branch=FOREIGN_ROOT, to_seq="1", to_summary="NULL")),
        ("a fork's undo leads to another's branch", op("undo", FORK, to_branch=FOREIGN_ROOT, to_seq="1", to_summary="NULL")),
        ("a fork's undo leads past where it was forked",
         op("undo", FORK, to_branch=HEAD, to_seq=f"(SELECT max(seq) FROM message WHERE branch = {HEAD})", to_summary="NULL")),
        ("a fork's undo leads to the start of another's tree", op("undo", FORK, to_branch=FOREIGN_ROOT, to_seq="0", to_summary="NULL")),
        ("a head stands on no message", op("resume", to_seq="head_seq + 9")),
        ("a title moves the head", op("title", to_branch=ROOT, to_seq="1")),
        ("a title changes the summary", op("title", to_summary="NULL")),
        ("a kind nobody knows moves the head", op("tidy", to_branch=ROOT, to_seq="1")),
        ("a compaction takes another's summary", op("compact", to_summary=FOREIGN_SUMMARY)),
        ("a compaction takes a summary off the path", op("compact", to_summary=OFF_PATH)),
        ("an undo keeps a summary that is off its path", op("undo", to_branch=ROOT, to_seq="0")),
        ("a deleted session goes on", op("append", GONE, to_seq="head_seq + 1")),
        # -- sessions
        ("a head is moved by hand", f"UPDATE session SET head_seq = 1 WHERE id = '{TALK}'"),
        ("a head is moved with its version", f"UPDATE session SET head_seq = 1, version = version + 1 WHERE id = '{TALK}'"),
        ("a version is counted up", f"UPDATE session SET version = version + 1 WHERE id = '{TALK}'"),
        ("a summary is dropped by hand", f"UPDATE session SET summary_id = NULL, version = version + 1 WHERE id = '{TALK}'"),
        ("an epoch goes back", f"UPDATE session SET epoch = epoch - 1 WHERE id = '{TALK}'"),
        ("an epoch jumps", f"UPDATE session SET epoch = epoch + 2 WHERE id = '{TALK}'"),
        ("an epoch falls to its default", f"UPDATE OR REPLACE session SET epoch = NULL WHERE id = '{TALK}'"),
        ("a session changes hands", f"UPDATE session SET owner = 'eve' WHERE id = '{TALK}'"),
        ("a session takes another's id", f"UPDATE OR REPLACE session SET id = '{FOREIGN}' WHERE id = '{TALK}'"),
        ("a session is deleted", f"DELETE FROM session WHERE id = '{TALK}'"),
        ("a session is replaced", SESSION.format("OR REPLACE", "", TALK, "")),
        ("a session starts in the middle", SESSION.format("", ", head_branch, head_seq", "eve", f", {ROOT}, 1")),
        ("a fork of nothing of one's own", SESSION.format(
            "", ", parent_session, parent_branch, parent_seq", "eve", f", '{FOREIGN}', {FOREIGN_ROOT}, 1")),
        ("a fork in a tree that is not its parent's", SESSION.format(
            "", ", parent_session, parent_branch, parent_seq", "eve", f", '{CALM}', {FOREIGN_ROOT}, 1")),
        ("a deleted session has a title again", f"UPDATE session SET title = 'back' WHERE id = '{GONE}'"),
        # -- branches, summaries, prefixes, blobs
        ("a branch starts where its session is not", f"INSERT INTO branch(session_id, parent_branch, parent_seq) VALUES('{TALK}', {ROOT}, 1)"),
        ("a branch starts on another's message", f"INSERT INTO branch(session_id, parent_branch, parent_seq) VALUES('{TALK}', {FOREIGN_ROOT}, 1)"),
        ("a second root", f"INSERT INTO branch(session_id) VALUES('{TALK}')"),
        ("a branch after a head that stands on nothing", op("append", CALM, to_seq="head_seq + 3") + "; INSERT INTO branch(session_id,"
         f" parent_branch, parent_seq) SELECT id, head_branch, head_seq FROM session WHERE id = '{CALM}'"),
        ("a branch moves", "UPDATE branch SET parent_seq = 0"),
        ("a branch is deleted", f"DELETE FROM branch WHERE id = {HEAD}"),
        ("a branch is replaced", f"INSERT OR REPLACE INTO branch(id, session_id, parent_branch, parent_seq) SELECT {ROOT}, id, head_branch,"
         f" head_seq FROM session WHERE id = '{TALK}'"),
        ("a summary is rewritten", "UPDATE summary SET text = 'never said'"),
        ("a summary is deleted", f"DELETE FROM summary WHERE session_id = '{TALK}'"),
        ("a summary is replaced", f"INSERT OR REPLACE INTO summary(id, session_id, branch, upto_seq, text, tokens_before, tokens_after,"
         f" created_at) VALUES(1, '{TALK}', {ROOT}, 1, 'x', 0, 0, 1)"),
        ("a summary follows another's", f"INSERT INTO summary(session_id, branch, upto_seq, previous, text, tokens_before, tokens_after,"
         f" created_at) VALUES('{TALK}', {ROOT}, 1, {FOREIGN_SUMMARY}, 'x', 0, 0, 1)"),
        ("a summary of a deleted session", f"INSERT INTO summary(session_id, branch, upto_seq, text, tokens_before, tokens_after,"
         f" created_at) VALUES('{GONE}', 1, 1, 'x', 0, 0, 1)"),
        ("a prefix is rewritten", "UPDATE prefix SET system_prompt = 'x'"),
        ("a prefix is replaced", f"INSERT OR REPLACE INTO prefix VALUES('{'p' * 64}', 'x', '[]')"),
        ("a prefix in use is deleted", "DELETE FROM prefix"),
        ("a blob is rewritten", "UPDATE blob SET bytes = x'00'"),
        ("a blob is replaced by hash", "INSERT OR REPLACE INTO blob(sha256, media_type, bytes) SELECT sha256, 'x', x'00' FROM blob"),
        ("a blob is replaced by id", "INSERT OR REPLACE INTO blob(id, sha256, media_type, bytes) VALUES(1, 'other', 'x', x'00')"),
        ("a named blob is deleted", "DELETE FROM blob"),
        ("a blob is named by nobody's message", "INSERT INTO attachment SELECT 2, sha256 FROM blob"),
        ("a name is moved to another message", "UPDATE attachment SET message = 2"),
        ("a name is taken away", "DELETE FROM attachment"),
        ("a name comes twice", "INSERT OR REPLACE INTO attachment SELECT * FROM attachment"),
        # -- turns, calls, approvals
        ("a turn comes again", "INSERT OR REPLACE INTO turn SELECT * FROM turn"),
        ("a turn of an old epoch", f"INSERT INTO turn(session_id, turn, principal, state, epoch, started_at) VALUES('{TALK}', 99, 'ann', 'running', 1, 1)"),
        ("a second turn opens", f"INSERT INTO turn(session_id, turn, principal, state, epoch, started_at)"
         f" SELECT '{TALK}', 99, 'ann', 'running', epoch, 1 FROM session WHERE id = '{TALK}'"),
        ("a turn moves under an old epoch", f"UPDATE turn SET state = 'done', epoch = epoch - 1 WHERE session_id = '{TALK}'"),
        ("an ended turn runs again", f"UPDATE turn SET state = 'running' WHERE session_id = '{CALM}'"),
        ("a turn is somebody else's", "UPDATE turn SET principal = 'eve'"),
        ("a turn is deleted", "DELETE FROM turn"),
        ("a call comes again", "INSERT OR REPLACE INTO tool_call SELECT * FROM tool_call"),
        ("a call takes another's place", "INSERT OR REPLACE INTO tool_call SELECT 'new', session_id, turn, step, n, provider_id, name,"
         f" args_sha256, 'planned', 0, {EPOCH}, 1, NULL, NULL FROM tool_call WHERE session_id = '{TALK}'"),
        ("a call that was never planned", f"INSERT INTO tool_call SELECT 'new', session_id, turn, 9, 9, provider_id, name, args_sha256,"
         f" 'finished', 0, epoch, 1, 1, 1 FROM tool_call WHERE session_id = '{TALK}'"),
        ("a call of no turn", f"INSERT INTO tool_call SELECT 'new', session_id, 99, 9, 9, provider_id, name, args_sha256,"
         f" 'planned', 0, epoch, 1, NULL, NULL FROM tool_call WHERE session_id = '{TALK}' LIMIT 1"),
        ("a call is planned under an old epoch", f"INSERT INTO tool_call SELECT 'new', session_id, turn, 9, 9, provider_id, name, args_sha256,"
         f" 'planned', 0, epoch - 1, 1, NULL, NULL FROM tool_call WHERE session_id = '{TALK}' LIMIT 1"),
        ("a started call is planned again", "UPDATE tool_call SET state = 'planned' WHERE state = 'started'"),
        ("a started call starts again", "UPDATE tool_call SET state = 'started' WHERE state = 'started'"),
        ("a finished call starts again", "UPDATE tool_call SET state = 'started' WHERE state = 'finished'"),
        ("a call moves under an old epoch", "UPDATE tool_call SET state = 'finished', epoch = epoch - 1 WHERE state = 'started'"),
        ("a denied call starts", "UPDATE tool_call SET state = 'started' WHERE state = 'planned'"),
        ("a call becomes another", "UPDATE tool_call SET state = 'finished', args_sha256 = 'other' WHERE state = 'started'"),
        ("a call becomes safe to repeat", "UPDATE tool_call SET state = 'finished', safe_to_repeat = 1 WHERE state = 'started'"),
        ("a call is renamed", "UPDATE tool_call SET state = 'finished', name = 'other' WHERE state = 'started'"),
        ("a call is deleted", "DELETE FROM tool_call"),
        ("an approval is spent twice", "UPDATE approval SET state = 'consumed' WHERE state = 'consumed'"),
        ("a spent approval is granted again", "UPDATE approval SET state = 'approved' WHERE state = 'consumed'"),
        ("an approval is spent that nobody granted", "UPDATE approval SET state = 'consumed' WHERE state = 'pending'"),
        ("a denied approval is granted", "UPDATE approval SET state = 'approved' WHERE state = 'denied'"),
        ("an approval is born granted", "INSERT INTO approval SELECT 'new', call, 9, args_sha256, asker, 'approved', NULL, NULL, 1, epoch FROM approval LIMIT 1"),
        ("an approval of an old epoch", "INSERT INTO approval SELECT 'new', call, 9, args_sha256, asker, 'pending', NULL, NULL, 1, epoch - 1 FROM approval LIMIT 1"),
        ("an approval moves under an old epoch", "UPDATE approval SET state = 'approved', epoch = epoch - 1 WHERE state = 'pending'"),
        ("an approval is for other arguments", "UPDATE approval SET state = 'approved', args_sha256 = 'y' WHERE state = 'pending'"),
        ("an approval comes again", "INSERT OR REPLACE INTO approval SELECT * FROM approval WHERE state = 'pending'"),
        ("an approval takes another's place", "INSERT OR REPLACE INTO approval SELECT 'new', call, n, 'y', 'eve', 'pending', NULL, NULL, 1, epoch FROM approval"),
        ("an approval is deleted", "DELETE FROM approval"),
        # -- inbox, outbox, conversations
        ("a taken message waits again", "UPDATE inbox SET state = 'queued' WHERE state = 'consumed'"),
        ("a taken message is cancelled", f"UPDATE inbox SET state = 'cancelled', epoch = {EPOCH} WHERE state = 'consumed'"),
        ("a taken message is of another turn", "UPDATE inbox SET turn = 7 WHERE state = 'consumed'"),
        ("a taken message is taken at another time", "UPDATE inbox SET settled_at = 7 WHERE state = 'consumed'"),
        ("a message is taken under an old epoch", "UPDATE inbox SET state = 'consumed', epoch = 1 WHERE state = 'queued'"),
        ("a received message is rewritten", "UPDATE inbox SET body = 'never sent'"),
        ("a received message is of another account", "UPDATE inbox SET sent_by = 'eve'"),
        ("a received message is another's", "UPDATE inbox SET principal = 'eve'"),
        ("a received message goes to another session", f"UPDATE inbox SET session_id = '{FOREIGN}'"),
        ("a received message takes another's key", "UPDATE OR REPLACE inbox SET external_key = 'taken' WHERE external_key = 'waits'"),
        ("a received message is deleted", "DELETE FROM inbox"),
        ("a message is received again", "INSERT OR REPLACE INTO inbox SELECT * FROM inbox WHERE state = 'queued'"),
        ("a received message is replaced by key", "INSERT OR REPLACE INTO inbox(account, external_key, conversation, n, session_id, principal,"
         " kind, body, state, at) SELECT account, external_key, conversation, 99, session_id, principal, kind, 'never sent', 'queued', 1 FROM inbox LIMIT 1"),
        ("a received message is replaced by number", "INSERT OR REPLACE INTO inbox(account, external_key, conversation, n, session_id, principal,"
         " kind, body, state, at) SELECT account, 'new', conversation, n, session_id, principal, kind, 'never sent', 'queued', 1 FROM inbox LIMIT 1"),
        ("a message is received as taken", "INSERT INTO inbox(account, external_key, conversation, n, session_id, principal, kind, body, state, at)"
         " SELECT account, 'new', conversation, 99, session_id, principal, kind, '', 'consumed', 1 FROM inbox LIMIT 1"),
        ("a message is received for nobody", "INSERT INTO inbox(account, external_key, conversation, n, session_id, principal, kind, body, state, at)"
         " SELECT account, 'new', conversation, 99, 'nobody', principal, kind, '', 'queued', 1 FROM inbox LIMIT 1"),
        ("a message is received for a deleted session", "INSERT INTO inbox(account, external_key, conversation, n, session_id, principal, kind, body,"
         f" state, at) SELECT account, 'new', conversation, 99, '{GONE}', principal, kind, 'word', 'queued', 1 FROM inbox LIMIT 1"),
        ("a sent reply is sent again", "UPDATE outbox SET state = 'pending' WHERE state = 'sent'"),
        ("a reply is rewritten", "UPDATE outbox SET body = 'never said'"),
        ("a reply takes another's key", "UPDATE OR REPLACE outbox SET key = 'sent' WHERE key = 'pending'"),
        ("a reply is replaced", "INSERT OR REPLACE INTO outbox SELECT * FROM outbox"),
        ("a reply of a deleted session", f"INSERT INTO outbox(session_id, conversation, turn, body, part, kind, state, key, next_at)"
         f" VALUES('{GONE}', 1, 1, 'word', 0, 'notice', 'pending', 'new', 1)"),
        ("a reply is deleted", "DELETE FROM outbox"),
        ("a place is replaced", "INSERT OR REPLACE INTO conversation(route_key, surface) SELECT route_key, 'x' FROM conversation"),
        ("a place is replaced by id", "INSERT OR REPLACE INTO conversation(id, route_key, surface) VALUES(1, 'new', 'x')"),
        ("a place moves unseen", f"UPDATE conversation SET session_id = '{FOREIGN}'"),
        ("a place's version goes back", "UPDATE conversation SET version = 0"),
        ("a place's version falls to its default", f"UPDATE OR REPLACE conversation SET version = NULL, session_id = '{FOREIGN}'"),
        ("a place takes another's key", "UPDATE OR REPLACE conversation SET route_key = 'telegram:2', version = version + 1"
         " WHERE route_key = 'telegram:1'"),
        ("a place is called otherwise unseen", "UPDATE conversation SET route_key = 'telegram:3' WHERE route_key = 'telegram:1'"),
        ("a place is deleted", "DELETE FROM conversation"),
        # -- deletions, usage, people
        ("a deletion is taken back", "DELETE FROM purge"),
        ("a deletion is turned on another", f"UPDATE purge SET session_id = '{TALK}'"),
        ("a deletion is dated anew", "INSERT OR REPLACE INTO purge(session_id, actor, at) SELECT session_id, 'eve', 2 FROM purge"),
        ("what was settled changes", "UPDATE usage SET cost_usd = 0 WHERE state = 'settled'"),
        ("usage is another's", "UPDATE usage SET owner = 'eve'"),
        ("usage is replaced", "INSERT OR REPLACE INTO usage SELECT * FROM usage"),
        ("usage is deleted", "DELETE FROM usage"),
        ("a fact of a deleted session", f"{_FACT} VALUES('ann', 'user', 'word', '{GONE}', 1, NULL, 9, 9)"),
        ("an older fact takes the place of a newer", f"{_FACT} SELECT 'ann', 'user', 'd', NULL, 1, id, 1, 9 FROM fact WHERE text = 'b'"),
        ("a fact comes again", "INSERT OR REPLACE INTO fact SELECT * FROM fact"),
        ("a fact says something else", "UPDATE fact SET text = 'd'"),
        ("a fact is another's", "UPDATE fact SET owner = 'eve'"),
        ("what was forgotten comes again", "INSERT OR REPLACE INTO forgotten SELECT * FROM forgotten"),
        ("what was forgotten is something else", "UPDATE forgotten SET sha256 = 'y'"),
        ("what was forgotten may come back", "DELETE FROM forgotten"),
        ("a job comes again", "INSERT OR REPLACE INTO job SELECT * FROM job"),
        ("a job takes another's key", "INSERT OR REPLACE INTO job(kind, key, owner, payload, state, next_at) SELECT kind, key, 'eve', 'x', 'queued', 1 FROM job"),
        ("a job is due again", "UPDATE job SET next_at = next_at - 1 WHERE key = 'waits'"),
        ("a job that is done waits again", "UPDATE job SET state = 'queued' WHERE state = 'done'"),
        ("a job is another's", "UPDATE job SET owner = 'eve' WHERE key = 'waits'"),
        ("a job is for another place", "UPDATE job SET conversation = 2 WHERE key = 'waits'"),
        ("a job is deleted", "DELETE FROM job WHERE key = 'waits'"),
        ("a job of a deleted session", f"INSERT INTO job(kind, key, owner, session_id, payload, state, next_at) VALUES('k', 'k', 'ann', '{GONE}', 'word', 'q', 1)"),
        ("somebody becomes an admin by replacing", "INSERT OR REPLACE INTO principal VALUES('eve', 'Eve', 'admin')"),
        ("somebody takes another's id", "UPDATE OR REPLACE principal SET id = 'ann' WHERE id = 'eve'"),
        ("somebody is deleted", "DELETE FROM principal WHERE id = 'ann'"),
        ("an identity is taken over", "INSERT OR REPLACE INTO identity VALUES('telegram', 'bot', '77', 'eve')"),
        ("an identity is rewritten", "UPDATE identity SET principal = 'eve'"),
    )
)  # fmt: skip
