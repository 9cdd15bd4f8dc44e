"""Messages while a turn runs, with real processes: twenty in two seconds in each mode, and a second terminal."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Any

import msgspec
import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import Served, ServedCall
from clew.testing.terminal import Key
from tests.acceptance.chatting import CLEW, KEY, READY, Chat, Server

MESSAGES = 20
SECONDS_MAX = 2.0
WAIT_FOR_GO = "until [ -e go ]; do sleep 0.05; done; echo gone"


def clew(chat: Chat, server: Server, *arguments: str) -> str:
    """What a command of another process prints."""
    environ = CommandLine(chat.home, server.base_url, key=KEY).environ
    ran = subprocess.run(
        [*CLEW, *arguments], env=environ, cwd=chat.cwd, capture_output=True, check=True, timeout=60
    )
    return ran.stdout.decode()


def only_session(chat: Chat, server: Server) -> str:
    (row,) = msgspec.json.decode(clew(chat, server, "sessions", "list", "--json"))
    return str(row["id"])


def stored(chat: Chat, server: Server) -> list[dict[str, Any]]:
    shown = clew(chat, server, "sessions", "show", only_session(chat, server), "--json")
    messages: list[dict[str, Any]] = msgspec.json.decode(shown)["messages"]
    return [m for m in messages if m["role"] == "user"]


@pytest.mark.parametrize("mode", ["queue", "steer", "interrupt"])
def test_twenty_messages_in_two_seconds(chat: Chat, scripted: Server, mode: str) -> None:
    """All stored in order, none doubled, and /why accounts for every one."""
    first = {
        "queue": Served(deltas=("half an", " answer"), pause_after=1),
        "steer": Served(
            text="half an", calls=(ServedCall(name="shell", arguments={"command": WAIT_FOR_GO}),)
        ),
        "interrupt": Served(deltas=("half an",), stalls=True),
    }[mode]
    scripted.answers(first, *(Served(text=f"answer {n}") for n in range(MESSAGES + 1)))
    texts = [f"message {n:02}" for n in range(MESSAGES)]
    with chat.opened(scripted, environ={"CLEW__TURN__BUSY": mode, "CLEW__APPROVAL__MODE": "all"}) as person:
        person.sees(READY)
        person.types("the first", Key.ENTER)
        person.sees("half an", "working")
        began = time.monotonic()
        for text in texts:
            person.types(text, Key.ENTER)
        assert time.monotonic() - began < SECONDS_MAX
        if mode == "interrupt":
            person.sees(texts[-1])
        else:
            person.sees("and 17 more")
        (chat.cwd / "go").touch()
        scripted.go_on()
        person.sees("answer", READY)
        person.wait_until(lambda: len(stored(chat, scripted)) == MESSAGES + 1, "all of them stored")
        person.sees(READY)
        person.sees_no_more("working")
    users = stored(chat, scripted)
    assert [m["text"] for m in users] == ["the first", *texts]
    told = clew(chat, scripted, "run", "--session", only_session(chat, scripted), "/why 50")
    for text in texts:
        (line,) = [line for line in told.split("\n") if "message" in line and f"“{text}”, received" in line]
        assert f": {'joined' if mode == 'steer' else 'opened'} turn " in line
    turns = {m["turn"] for m in users}
    assert len(turns) == (1 if mode == "steer" else MESSAGES + 1)


def test_a_second_terminal_steers_and_stops(chat: Chat, scripted: Server) -> None:
    """What it sends joins the turn that the first one runs; /stop there ends it here within five seconds."""
    scripted.answers(
        Served(text="half an", calls=(ServedCall(name="shell", arguments={"command": WAIT_FOR_GO}),)),
        Served(deltas=("as you like",), stalls=True),
    )
    with chat.opened(scripted, environ={"CLEW__APPROVAL__MODE": "all"}) as person:
        person.sees(READY)
        person.types("the first", Key.ENTER)
        person.sees("half an", "working")
        session = only_session(chat, scripted)
        told = clew(chat, scripted, "run", "--session", session, "/steer to the left")
        assert "joins the running turn" in told
        (chat.cwd / "go").touch()
        person.sees("to the left", "as you like")
        assert clew(chat, scripted, "run", "--session", session, "/stop") == "Stopped.\n"
        person.sees("Stopped. /retry asks again", READY, seconds=5)
        person.types("/history", Key.ENTER)
        person.sees("assistant (interrupted): as you like")
    assert [(m["text"], m["turn"]) for m in stored(chat, scripted)] == [("the first", 1), ("to the left", 1)]


def test_background_work_survives_kill_nine(chat: Chat, scripted: Server) -> None:
    """The next chat that opens the conversation finishes it; the result arrives once, and the model is told."""
    scripted.answers(Served(text="hello"), Served(deltas=("half of it",), stalls=True))
    with chat.opened(scripted) as person:
        person.sees(READY)
        person.types("hi", Key.ENTER)
        person.sees("hello", READY)
        person.types("/background look it up", Key.ENTER)
        person.sees("Begun beside this session")
        person.wait_until(lambda: len(scripted.said) == 2, "the work asks the model")
        person.kills()
        assert person.waits_for_end() == -signal.SIGKILL
    scripted.answers(Served(text="found it"), Served(text="I see"))
    with chat.opened(scripted, "-c", columns=140) as person:
        person.sees("has ended: done. found it", READY)
        person.types("and?", Key.ENTER)
        person.sees("I see", READY)
    with chat.opened(scripted, "-c", columns=140) as person:
        person.sees(READY)
        person.types("/ps", Key.ENTER)
        person.sees("Nothing is running in the background.")
        assert person.transcript.count("has ended") == 1  # in what was said, and not as news
    assert scripted.said[0] == ["hi", "look it up"]
    hi, event, asked = scripted.said[1]
    assert (hi, asked) == ("hi", "and?")
    assert "found it" in event
    assert "not written by the user" in event


def test_a_session_that_is_deleted_elsewhere_ends_its_turn_and_is_left(chat: Chat, scripted: Server) -> None:
    """The chat says so in sentences, tells whoever goes on talking what to do, and /new goes on."""
    scripted.answers(Served(deltas=("half an",), stalls=True), Served(text="answered"))
    with chat.opened(scripted) as person:
        person.sees(READY)
        person.types("the first", Key.ENTER)
        person.sees("half an", "working")
        clew(chat, scripted, "sessions", "delete", only_session(chat, scripted), "--yes")
        person.sees("this turn ended there")
        person.sees_no_more("working")
        person.types("the second", Key.ENTER)
        person.sees("/new starts another")
        person.types(Key.CTRL_C, "/new", Key.ENTER)
        person.sees("New session")
        person.types("the third", Key.ENTER)
        person.sees("answered")
        assert "An error inside Clew" not in person.transcript
        assert person.transcript.count("There is no session") == 1
