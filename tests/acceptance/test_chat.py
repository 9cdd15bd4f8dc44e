"""The chat as a person meets it: in a pseudo-terminal, with real processes and a real server."""

from __future__ import annotations

import signal
import stat
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import Served, ServedCall
from clew.testing.terminal import Key
from tests.acceptance.chatting import CLEW, KEY, LINE, READY, Chat, Server, served


@pytest.fixture(scope="module")
def echo() -> Iterator[Server]:
    """Says everything back, and calls the tools it is told to."""
    yield from served("--echo", "--key", KEY, "--model", "small", "--model", "large")


def calling(name: str, **arguments: str) -> Served:
    return Served(calls=(ServedCall(name=name, arguments=dict(arguments)),))


def test_from_nothing_to_a_first_answer(chat: Chat, echo: Server) -> None:
    """Setup comes by itself; a wrong key is one sentence; the right one is kept unseen, for its owner only."""
    with chat.opened(None) as person:
        person.sees("Where should the model run?", "A tiny demo model")
        person.types("another", Key.ENTER)
        person.sees("Address of the server")
        person.types(echo.base_url, Key.ENTER)
        person.sees("API key")
        person.types("sk-wrong-key", Key.ENTER)
        person.sees("Which model?", "large", "small")
        person.types("lar")
        person.sees("1 of 1")
        person.types(Key.ENTER)
        person.sees("refused the API key")
        person.wait_until(lambda: person.screen.count("API key (paste it") == 2, "the question again")
        person.types(KEY, Key.ENTER)
        person.sees("proposed")
        person.types(Key.ENTER)
        person.sees("Done: large", READY)
        person.types("hello", Key.ENTER)
        person.sees("echo: hello", "large ·")
        assert KEY not in person.transcript
        assert "sk-wrong-key" not in person.transcript
    secrets = chat.home / "secrets.toml"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert KEY in secrets.read_text()


def test_leaving_setup_changes_nothing(chat: Chat) -> None:
    """Ctrl-C at any question leaves; the chat says what is missing, and does not break."""
    with chat.opened(None) as person:
        person.sees("Where should the model run?")
        person.types("anthropic", Key.ENTER)
        person.sees("API key")
        person.types(Key.CTRL_C)
        person.sees("Nothing was changed", READY, "no model: /setup")
        person.types("hello", Key.ENTER)
        person.sees("No model is configured", f"{LINE} hello")
    assert not (chat.home / "config.toml").exists()
    assert not (chat.home / "secrets.toml").exists()


def test_a_tool_runs_after_a_yes_and_not_after_a_no(chat: Chat, echo: Server) -> None:
    """The exact action is shown; what was half typed comes back; a no is a result; the whole output opens."""
    (chat.cwd / "poem.txt").write_text("roses\nviolets\nend\n")
    with chat.opened(echo, rows=44) as person:
        person.sees(READY)
        person.types(
            'CALL_TOOL edit {"path": "poem.txt", "old_text": "violets", "new_text": "lilies"}', Key.ENTER
        )
        person.sees("Allow it?", "-violets", "+lilies")
        person.types("maybe", Key.ENTER)
        person.sees("↳ then: maybe", "Allow it?")
        person.types("n", Key.ENTER)
        person.sees("the tool said: [refused]", "echo: maybe", READY)
        assert "violets" in (chat.cwd / "poem.txt").read_text()
        person.types('CALL_TOOL shell {"command": "seq 3; echo to-the-letter"}', Key.ENTER)
        person.sees("command: seq 3; echo to-the-letter", "Allow it?")
        person.types("y", Key.ENTER)
        person.sees("Allowed once.", "✓ [2]", "the tool said: 1", READY)
        person.types("/open 2", Key.ENTER)
        person.sees(f"{LINE} /open 2")
        person.wait_until(
            lambda: person.screen.rpartition("/open 2")[2].count("to-the-letter") == 2, "all of it"
        )


def test_up_edits_the_last_message(chat: Chat, echo: Server) -> None:
    """Nothing is taken back before it is sent; then the turn is, and it is said."""
    with chat.opened(echo) as person:
        person.sees(READY)
        person.types("first", Key.ENTER)
        person.sees("echo: first", READY)
        person.types("secnd", Key.ENTER)
        person.sees("echo: secnd", READY)
        person.types(Key.UP)
        person.sees("Editing your last message", f"{LINE} secnd\n")
        person.types(Key.UP)
        person.sees("turns back", f"{LINE} first\n")
        person.types(Key.DOWN)
        person.sees_no_more("turns back")
        person.types(Key.BACKSPACE, Key.BACKSPACE, "ond", Key.ENTER)
        person.sees("Undone: the last turn", "echo: second", READY)
    assert echo.said[-1] == ["first", "second"]


def test_what_is_typed_meanwhile_is_sent_afterwards(chat: Chat, scripted: Server) -> None:
    """Also when the turn is stopped with Ctrl-C, which keeps what was shown of the answer."""
    scripted.answers(Served(deltas=("half an answer",), stalls=True), Served(text="the second answer"))
    with chat.opened(scripted) as person:
        person.sees(READY)
        person.types("one", Key.ENTER)
        person.sees("half an answer", "working")
        person.types("two", Key.ENTER)
        person.sees("↳ then: two")
        person.types(Key.CTRL_C)
        person.sees("Stopped.", f"{LINE} two", "the second answer", READY)
        assert person.transcript.count("half an answer") == 1
        person.types("/history", Key.ENTER)
        person.sees("assistant (interrupted): half an answer")
    assert scripted.said[-1] == ["one", "two"]


def test_new_in_mid_turn_leaves_everything_behind(chat: Chat, scripted: Server) -> None:
    """The next request holds only what was said after it."""
    scripted.answers(Served(deltas=("old answer",), stalls=True), Served(text="new answer"))
    with chat.opened(scripted) as person:
        person.sees(READY)
        person.types("old", Key.ENTER)
        person.sees("old answer")
        person.types("queued", Key.ENTER)
        person.sees("↳ then: queued")
        person.types("/new", Key.ENTER)
        person.sees("New session", "cancelled", READY)
        person.types("new", Key.ENTER)
        person.sees("new answer", READY)
    assert scripted.said[-1] == ["new"]


def test_a_session_is_picked_from_the_list(chat: Chat, echo: Server) -> None:
    """By typing a part of its title; its last exchange is shown."""
    with chat.opened(echo) as person:
        person.sees(READY)
        for words in ("apples", "pears"):
            person.types(f"about {words}", Key.ENTER)
            person.sees(f"echo: about {words}", READY)
            person.types("/new", Key.ENTER)
            person.sees(READY)
            person.wait_until(lambda words=words: person.screen.count("New session") >= 1, "a new one")  # type: ignore[misc]
        person.types("/resume", Key.ENTER)
        person.sees("Go on with which session?", "about pears", "2 messages")
        person.types("appl")
        person.sees_no_more("> about pears")
        person.types(Key.ENTER)
        person.sees("Back in session", f"{LINE} about apples", "echo: about apples", READY)
        person.types("and?", Key.ENTER)
        person.sees("echo: and?", READY)
    assert echo.said[-1] == ["about apples", "and?"]
    with chat.opened(echo, "--resume") as person:
        person.sees("Go on with which session?", "4 messages")
        person.types(Key.CTRL_C)
        person.sees("Nothing was picked", READY)


def test_several_lines_are_one_message(chat: Chat, echo: Server) -> None:
    """Pasted, or written with Alt-Enter or Ctrl-J; a long paste is a mark in the line and is sent whole."""
    long = "\n".join(f"row {n}" for n in range(300))
    with chat.opened(echo) as person:
        person.sees(READY)
        person.pastes("pasted one\npasted two")
        person.types(Key.ALT_ENTER, "three", Key.CTRL_J, "four")
        person.sees(f"{LINE} pasted one\n  pasted two\n  three\n  four")
        person.types(Key.ENTER)
        person.sees("echo: pasted one", READY)
        person.pastes(long)
        person.sees("[pasted text 1: 300 lines]")
        person.types(" end", Key.ENTER)
        person.sees("row 299 end", READY)
    assert echo.said[-1] == ["pasted one\npasted two\nthree\nfour", f"{long} end"]


def test_windows_of_any_size(chat: Chat, echo: Server) -> None:
    """What is printed stays once, the line stays usable, and nothing is wider than the window."""
    with chat.opened(echo, columns=100) as person:
        person.sees(READY)
        person.types("wide 你好 🎉 words", Key.ENTER)
        person.sees("echo: wide 你好", READY)
        for columns, rows in ((40, 20), (25, 8), (120, 30)):
            person.resizes(columns, rows)
            person.types(f"at {columns}")
            person.sees(f"{LINE} at {columns}")
            person.types(Key.ENTER)
            person.sees(f"echo: at {columns}", f"{LINE} ")
        assert person.transcript.count("echo: at 25") == 1
        person.types("still here")
        person.sees(f"{LINE} still here")


def test_ctrl_c_and_ctrl_d(chat: Chat, scripted: Server) -> None:
    """At rest Ctrl-C empties the line, then says how to leave; leaving in mid-turn records the turn's end."""
    scripted.answers(Served(deltas=("cut short",), stalls=True))
    with chat.opened(scripted) as person:
        person.sees(READY)
        person.types("a draft")
        person.sees(f"{LINE} a draft")
        person.types(Key.CTRL_C)
        person.sees_no_more("a draft")
        person.types(Key.CTRL_C)
        person.sees("Ctrl-D or /quit leaves.")
        person.types("go", Key.ENTER)
        person.sees("cut short")
        person.types(Key.CTRL_D)
        assert person.waits_for_end() == 0
        assert "Stopped." in person.screen
        assert "`clew --continue` goes on" in person.screen
    with chat.opened(scripted, "-c") as person:
        person.sees(f"{LINE} go", "cut short", "(interrupted)", READY)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_being_told_to_end(chat: Chat, scripted: Server, number: signal.Signals) -> None:
    """As if the person had left: the end of the turn is recorded."""
    scripted.answers(Served(deltas=("cut short",), stalls=True))
    with chat.opened(scripted) as person:
        person.sees(READY)
        person.types("go", Key.ENTER)
        person.sees("cut short")
        person.kills(number)
        assert person.waits_for_end() == 130
    with chat.opened(scripted, "-c") as person:
        person.sees("cut short", "(interrupted)")


def test_kill_nine_loses_nothing(chat: Chat, scripted: Server) -> None:
    """What was said is answered by the next chat, and then what waited."""
    scripted.answers(
        Served(deltas=("never ended",), stalls=True),
        Served(text="answer to the first"),
        Served(text="answer to the second"),
    )
    with chat.opened(scripted) as person:
        person.sees(READY)
        person.types("precious", Key.ENTER)
        person.sees("never ended")
        person.types("second", Key.ENTER)
        person.sees("↳ then: second")
        person.kills()
        assert person.waits_for_end() == -signal.SIGKILL
    with chat.opened(scripted, "-c") as person:
        person.sees(
            f"{LINE} precious", "answer to the first", f"{LINE} second", "answer to the second", READY
        )
    assert scripted.said[-1] == ["precious", "second"]


def test_a_yes_after_the_chat_that_asked_was_killed_lets_the_call_run(chat: Chat, echo: Server) -> None:
    """Nobody else goes on with it: who says the yes does."""
    with chat.opened(echo) as person:
        person.sees(READY)
        person.types('CALL_TOOL shell {"command": "echo it ran"}', Key.ENTER)
        person.sees("Allow it?")
        person.kills()
        person.waits_for_end()
    environ = CommandLine(chat.home, echo.base_url, key=KEY).environ
    run = subprocess.run(
        [*CLEW, "run", "-c", "/approve"], check=False, capture_output=True, text=True, env=environ, timeout=60
    )
    assert (run.returncode, run.stdout.strip()) == (0, "the tool said: it ran"), run


def test_what_waited_in_a_killed_chat_is_answered_by_a_run_first(chat: Chat, scripted: Server) -> None:
    """In the order it was sent, before what the run was given; only that answer is printed."""
    scripted.answers(
        Served(deltas=("never ended",), stalls=True),
        Served(text="one"),
        Served(text="two"),
        Served(text="three"),
    )
    with chat.opened(scripted) as person:
        person.sees(READY)
        person.types("first", Key.ENTER)
        person.sees("never ended")
        person.types("second", Key.ENTER)
        person.sees("↳ then: second")
        person.kills()
        person.waits_for_end()
    environ = CommandLine(chat.home, scripted.base_url, key=KEY).environ
    run = subprocess.run(
        [*CLEW, "run", "-c", "third"], check=False, capture_output=True, text=True, env=environ, timeout=60
    )
    assert run.stdout.strip() == "three"
    assert "second" in run.stderr
    assert scripted.said[-1] == ["first", "second", "third"]


def test_a_long_answer_appears_once(chat: Chat, scripted: Server) -> None:
    """Markdown, code longer than the screen, in many small deltas: every line is printed, once, in order."""
    code = [f"line_{n:03} = {n}" for n in range(120)]
    answer = "# A title\n\nSome **bold** words.\n\n```python\n" + "\n".join(code) + "\n```\n\nThe end.\n"
    deltas: Sequence[str] = [answer[at : at + 7] for at in range(0, len(answer), 7)]
    scripted.answers(Served(deltas=tuple(deltas)))
    with chat.opened(scripted) as person:
        person.sees(READY)
        person.types("write", Key.ENTER)
        person.sees("The end.", READY)
        printed = [line for line in person.transcript.splitlines() if line.startswith("line_")]
        assert printed == code
        assert person.transcript.count("A title") == 1


def test_what_goes_wrong_is_one_line(chat: Chat, scripted: Server) -> None:
    """A refused key, a tool nobody has, an odd command: said, and the chat goes on."""
    scripted.answers(
        Served(status=401, message="no such key"), calling("nonsense"), Served(text="\x1b[2Jwell then")
    )
    with chat.opened(scripted) as person:
        person.sees(READY)
        person.types("one", Key.ENTER)
        person.sees("refused the API key", "/setup changes it", READY)
        person.types("two", Key.ENTER)
        person.sees("✗ [1] nonsense", "well then", READY)
        person.types("/undo x", Key.ENTER)
        person.sees("takes a number from 1 on")
        person.types("/nonsense", Key.ENTER)
        person.sees("There is no command /nonsense")
        person.types("!echo beside; exit 3", Key.ENTER)
        person.sees("beside", "exit code 3")
        assert f"{LINE} one" in person.transcript
        assert "Traceback" not in person.transcript


def test_a_terminal_that_cannot_move_its_cursor(chat: Chat, echo: Server) -> None:
    """Plain lines, without a single escape sequence."""
    with chat.opened(echo, term="dumb") as person:
        person.sees("Ctrl-D leaves")
        person.types("# hello\n")
        person.sees("echo: # hello")
        person.types("/quit\n")
        assert person.waits_for_end() == 0
        assert person.raw.count(b"\x1b") == 0
