"""hermes-agent measured with its own classes, by the Python it is installed for: `python -m benchmarks.peer_hermes JOB`.

It does what its gateway does for the same work, in HERMES_HOME, with its own settings; only what is set up without
being measured goes faster than it would. The last line of output is a JSON object of medians in seconds.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hermes_state  # type: ignore[import-not-found]
from gateway.config import GatewayConfig, Platform  # type: ignore[import-not-found]
from gateway.session import SessionEntry, SessionSource, SessionStore  # type: ignore[import-not-found]
from hermes_state import SessionDB

from benchmarks.workload import PER_SESSION, Message, Workload

HOME = Path(os.environ["HERMES_HOME"])
SECONDS_MAX = 20.0
Figures = dict[str, float]


def median(work: Callable[[int], object], times: int) -> float:
    """The median of several runs, fewer when they take long."""
    seconds: list[float] = []
    end = time.perf_counter() + SECONDS_MAX
    while len(seconds) < times and (len(seconds) < 3 or time.perf_counter() < end):
        started = time.perf_counter()
        work(len(seconds))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def database() -> Any:
    """Its database as the gateway opens it, without the rewrite of its index that every thousandth write waits for."""
    SessionDB._OPTIMIZE_EVERY_N_WRITES = 10**12
    return SessionDB(HOME / "state.db")


def store() -> Any:
    """The gateway's session store over that database."""
    hermes_state.DEFAULT_DB_PATH = HOME / "state.db"
    SessionDB._OPTIMIZE_EVERY_N_WRITES = 10**12
    return SessionStore(HOME / "sessions", GatewayConfig())


def append(db: Any, session: str, message: Message) -> None:
    db.append_message(
        session_id=session,
        role=message["role"],
        content=message["content"],
        tool_name=message.get("tool_name"),
        tool_calls=message.get("tool_calls"),
        tool_call_id=message.get("tool_call_id"),
    )


def turn(known: str) -> Figures:
    """A turn as the gateway stores it: routing entry, history, five messages, tokens, routing entry again."""
    sessions, workload = store(), Workload()
    sessions.get_or_create_session(_source(0))
    at = dt.datetime.now()  # noqa: DTZ005 - as its own code has it
    for number in range(1, int(known)):
        source = _source(number)
        key = sessions._generate_session_key(source)
        sessions._entries[key] = SessionEntry(
            session_key=key,
            session_id=f"20260101_000000_{number:08x}",
            created_at=at,
            updated_at=at,
            origin=source,
            display_name=source.chat_name,
            platform=source.platform,
            chat_type="dm",
        )
    sessions._save()

    def one(number: int) -> None:
        entry = sessions.get_or_create_session(_source(0))
        sessions.load_transcript(entry.session_id)
        for message in workload.turn(number):
            sessions.append_to_transcript(entry.session_id, message)
        for _ in range(2):
            sessions._db.update_token_counts(
                entry.session_id, input_tokens=900, output_tokens=50, model="fake", api_call_count=1
            )
        sessions.update_session(entry.session_key, last_prompt_tokens=1234)

    return {"turn": median(one, 100)}


def _source(number: int) -> Any:
    return SessionSource(
        platform=Platform.TELEGRAM,
        chat_id=str(100_000 + number),
        chat_name=f"chat {number}",
        chat_type="dm",
        user_id=str(number),
        user_name=f"user {number}",
    )


def moves(length: str) -> Figures:
    """`/retry` loads the transcript and writes it anew without its end; `/undo` marks the end as gone."""
    sessions, workload = store(), Workload()
    db = sessions._db
    db.create_session("s", "telegram")
    db.replace_messages("s", workload.session(51, int(length)))
    retries: list[float] = []
    for _ in range(4):
        started = time.perf_counter()
        history = sessions.load_transcript("s")
        last = max(at for at, message in enumerate(history) if message["role"] == "user")
        sessions.rewrite_transcript("s", history[:last])
        retries.append(time.perf_counter() - started)
        for message in history[last:]:
            append(db, "s", message)
    undos: list[float] = []
    for number in range(20):
        for message in workload.turn(number):
            append(db, "s", message)
        started = time.perf_counter()
        sessions.rewind_session("s", 1)
        undos.append(time.perf_counter() - started)
    return {"retry's write": statistics.median(retries), "undo": statistics.median(undos)}


def load(length: str) -> Figures:
    """The history as its gateway hands it to the model."""
    db = database()
    db.create_session("s", "bench")
    db.replace_messages("s", Workload().session(50, int(length)))
    return {"load": median(lambda _: db.get_messages_as_conversation("s", repair_alternation=True), 40)}


def listing(sessions: str) -> Figures:
    """The newest twenty by activity; it keeps the system prompt on the session's row, here one of 8 KB."""
    db, workload = database(), Workload()
    for pragma in ("synchronous=OFF", "cache_size=-300000"):
        db._conn.execute(f"PRAGMA {pragma}")
    prompt = "You are a helpful agent. " * 330
    for number in range(int(sessions)):
        db.create_session(f"s{number:06d}", "telegram", model="fake", system_prompt=prompt)
        db.replace_messages(f"s{number:06d}", workload.session(number, 4))
    db.close()
    db = database()
    return {"list": median(lambda _: db.list_sessions_rich(order_by_last_active=True), 40)}


def appending(messages: str) -> Figures:
    """One message at a time, in turn order over many sessions."""
    db = database()
    stream = list(Workload().stream(int(messages) // PER_SESSION))
    for number in range(int(messages) // PER_SESSION):
        db.create_session(f"s{number}", "bench", model="fake")
    return {"append": median(lambda at: append(db, f"s{stream[at][0]}", stream[at][1]), len(stream))}


def search(messages: str) -> Figures:
    """Its search over as many messages, indexed in one go before: row by row it would take hours."""
    db, workload = database(), Workload()
    for pragma in ("synchronous=OFF", "cache_size=-600000", "secure_delete=OFF", "wal_autocheckpoint=20000"):
        db._conn.execute(f"PRAGMA {pragma}")
    SessionDB._drop_fts_triggers(db._conn.cursor())
    for number in range(int(messages) // PER_SESSION):
        db.create_session(f"s{number}", "bench")
        db.replace_messages(f"s{number}", workload.session(number))
    columns = "COALESCE(content,'')||' '||COALESCE(tool_name,'')||' '||COALESCE(tool_calls,'')"
    for table in ("messages_fts", "messages_fts_trigram"):
        db._conn.execute(f"INSERT INTO {table}(rowid, content) SELECT id, {columns} FROM messages")
    db._conn.commit()
    db.close()
    db = database()
    asked = {
        "ranked": {"query": "deploy"},
        "ranked, three common words": {"query": "deploy server restart"},
        "newest": {"query": "deploy", "sort": "newest"},
        "rare": {"query": "zyxgraphite"},
        "phrase": {"query": '"rolling restart window"'},
        "CJK, 2 characters": {"query": "鳄梨"},
        "CJK, 7 characters": {"query": "蓝鲸数据湖迁移"},
    }
    return {label: median(_search(db, options), 50) for label, options in asked.items()}


def _search(db: Any, options: dict[str, str]) -> Callable[[int], object]:
    return lambda _: db.search_messages(limit=20, **options)


def version() -> Figures:
    command = [str(Path(sys.executable).with_name("hermes")), "--version"]
    return {"version": median(lambda _: subprocess.run(command, check=True, capture_output=True), 5)}


def editor() -> Figures:
    """From spawn to the answer of `session/new`, with a model server that is not asked; nothing without its `acp` extra."""
    if importlib.util.find_spec("acp") is None:
        return {}
    model = {"default": "m", "provider": "custom", "base_url": "http://127.0.0.1:9/v1", "api_key": "k"}
    (HOME / "config.yaml").write_text(json.dumps({"model": {**model, "context_length": 200_000}}))
    new = {"cwd": str(HOME), "mcpServers": []}
    asked = [
        {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": 1}},
        {"jsonrpc": "2.0", "id": 1, "method": "session/new", "params": new},
    ]

    def opened(_: int) -> None:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("hermes-acp"))], env={**os.environ, "OPENAI_API_KEY": "k"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for request in asked:
            process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        while json.loads(process.stdout.readline()).get("id") != 1:
            pass
        process.kill()
        process.wait()

    return {"editor": median(opened, 5)}


JOBS: dict[str, Callable[..., Figures]] = {
    "turn": turn,
    "moves": moves,
    "load": load,
    "list": listing,
    "append": appending,
    "search": search,
    "version": version,
    "editor": editor,
}

if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[1]](*sys.argv[2:])))
