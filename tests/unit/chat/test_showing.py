"""What the chat shows: the screen, previews, the status line, the picker, a resize."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec
import pytest
from prompt_toolkit.layout.screen import Char
from prompt_toolkit.layout.screen import Screen as Cells

from clew.domain.conversation.ids import ApprovalId, CallId, SessionId
from clew.domain.conversation.messages import Status
from clew.domain.models.answer import Usage
from clew.domain.models.request import ModelProfile
from clew.runtime.ports.people import (
    AttemptVoid,
    CallAnnounced,
    CallEnded,
    CallOutput,
    CallRunning,
    Consent,
    Question,
    StepRecorded,
    TextShown,
    ThinkingShown,
)
from clew.surfaces.cli.chat.approving import Asker
from clew.surfaces.cli.chat.choosing import ago
from clew.surfaces.cli.chat.live import LiveLines, Moment
from clew.surfaces.cli.chat.preview import preview
from clew.surfaces.cli.chat.resizing import rows_gained
from clew.surfaces.cli.chat.results import KEPT_MAX, Results
from clew.surfaces.cli.chat.screen import Screen, ScreenOptions
from clew.surfaces.cli.chat.status import Facts, StatusLine
from clew.surfaces.cli.chat.typesetting import Typesetter
from clew.surfaces.cli.picker import Choice, Picker

SETTER = Typesetter(styles=False, colours=False)
CALL = CallId("s-1-1-0")


class Paper:
    """A display that keeps what it was shown."""

    columns = 60

    def __init__(self) -> None:
        self.text = ""

    def show(self, text: str) -> None:
        assert text.endswith("\n"), "only whole lines are shown"
        self.text += text

    def changed(self) -> None:
        """It is looked at afterwards."""


@pytest.fixture
def paper() -> Paper:
    return Paper()


def screen_on(paper: Paper, **options: bool | int) -> Screen:
    return Screen(paper, SETTER, msgspec.convert(options, ScreenOptions))


def test_a_reply_is_printed_once_whatever_ends_it(paper: Paper) -> None:
    """By the step, by the end of the turn, or by both."""
    screen = screen_on(paper)
    for delta in ("One.\n\nTw", "o.\n\n- a\n- b"):
        screen.watch(TextShown(delta))
    screen.watch(StepRecorded(text="", usage=Usage()))
    screen.end()
    assert paper.text == "One.\n\nTwo.\n\n • a\n • b\n\n"


def test_a_void_attempt_is_said_only_where_something_was_shown(paper: Paper) -> None:
    """What follows stands for itself; the reason is shown while it is waited for."""
    screen = screen_on(paper)
    screen.watch(AttemptVoid(reason="Busy.", after_seconds=2))
    assert paper.text == ""
    assert "Busy. Trying again in 2 s." in "\n".join(
        LiveLines(screen).draw(Moment(activity="working"), 60, 9)
    )
    screen.watch(TextShown("half\n\nof "))
    screen.watch(AttemptVoid(reason="Cut.", after_seconds=2))
    screen.watch(TextShown("whole"))
    screen.end()
    assert paper.text == "half\nCut. What was shown of this answer is void; trying again.\n\nwhole\n\n"


def test_a_call_is_one_line_that_opens(paper: Paper) -> None:
    """While it runs its newest output is shown; an error shows its end."""
    screen = screen_on(paper)
    screen.watch(CallAnnounced(call=CALL, name="shell", line="run: make"))
    screen.watch(CallRunning(CALL))
    screen.watch(CallOutput(CALL, "one\ntwo\nthree\nfour\nfive\n"))
    live = LiveLines(screen).draw(Moment(activity="working"), 60, 20)
    assert [line.strip() for line in live][1:5] == ["two", "three", "four", "five"]
    screen.watch(CallEnded(call=CALL, status=Status.OK, text="one\ntwo", diff=""))
    assert paper.text == "✓ [1] run: make · one (+1 lines)\n"
    screen.call("run: x", Status.ERROR, "first\nlast", "")
    assert paper.text.endswith("✗ [2] run: x · first (+1 lines)\n  first\n  last\n")
    screen.open_result(1)
    assert paper.text.endswith("[1] run: make\none\ntwo\n")
    screen.open_result(7)
    assert paper.text.endswith("There is no result 7, only 1 to 2.\n")


def test_results_are_bounded() -> None:
    """The oldest are forgotten here, and keep their numbers."""
    results = Results()
    for n in range(KEPT_MAX + 5):
        results.add(f"call {n}", "text")
    assert results.numbers == (6, KEPT_MAX + 5)
    assert results.get(5) is None


def test_thinking_is_shown_if_wanted(paper: Paper) -> None:
    """Otherwise only that it goes on."""
    for wanted, text in ((True, "hmm\n\nso\n\n"), (False, "so\n\n")):
        paper.text = ""
        screen = screen_on(paper, show_thinking=wanted)
        screen.watch(ThinkingShown("hmm"))
        screen.watch(TextShown("so"))
        screen.end()
        assert paper.text == text


@pytest.mark.parametrize("rows", [1, 3, 10])
def test_what_changes_never_takes_more_rows_than_there_are(paper: Paper, rows: int) -> None:
    """Nor more columns."""
    screen = screen_on(paper)
    screen.watch(TextShown("word " * 1000))
    moment = Moment(activity="working", waiting=["x" * 200] * 9, question="Allow?", hint="hint")
    lines = LiveLines(screen).draw(moment, 30, rows)
    assert len(lines) <= rows
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines) <= 30


def question(name: str, **arguments: object) -> Question:
    encoded = msgspec.json.encode(arguments).decode()
    return Question(
        session=SessionId("s"), approval=ApprovalId("a"), call=CALL, name=name, line=name, arguments=encoded
    )


def test_an_edit_is_shown_as_the_difference_it_makes(tmp_path: Path) -> None:
    """With the lines around it, if the file holds what is replaced."""
    (tmp_path / "f").write_text("one\ntwo\nthree\n")
    text = preview(question("edit", path="f", old_text="two", new_text="2"), tmp_path, SETTER)
    assert [line.strip() for line in text.splitlines()][2:] == [
        "@@ -1,3 +1,3 @@",
        "one",
        "-two",
        "+2",
        "three",
    ]
    text = preview(
        question("edit", path="gone", old_text="two", new_text="2", replace_all=True), tmp_path, SETTER
    )
    assert "-two" in text
    assert "replace_all: true" in text


def test_what_would_run_is_shown_to_the_letter(tmp_path: Path) -> None:
    """Nothing hidden, nothing turned around; what does not fit is counted, and can be seen whole."""
    text = preview(
        question("shell", command="ls\u202e; rm -rf /\nsecond line", timeout_seconds=5), tmp_path, SETTER
    )
    assert "ls\\u202e; rm -rf /\n    second line" in text
    assert "timeout_seconds: 5" in text
    long = question("write", path="new", text="\n".join(map(str, range(100))))
    assert "more lines; v shows all" in preview(long, tmp_path, SETTER)
    assert "+99" in preview(long, tmp_path, SETTER, whole=True)


def test_arguments_that_are_no_object_are_shown_as_they_are(tmp_path: Path) -> None:
    """A person decides about what the model wrote."""
    odd = msgspec.structs.replace(question("x"), arguments="[broken")
    assert "[broken" in preview(odd, tmp_path, SETTER)


def test_only_a_whole_answer_is_one() -> None:
    """What was being typed is never taken for consent; one question at a time."""

    async def conversation() -> list[Consent | None]:
        asked: list[Question] = []
        asker = Asker(asked.append, lambda _: None)
        asking = [asyncio.create_task(asker.ask(question(name))) for name in ("one", "two")]
        await asyncio.sleep(0)
        assert [asker.answer(typed) for typed in ("", "yesterday", "you", "ok")] == [None] * 4
        assert asker.answer(" Yes ") == Consent.ONCE
        first = await asking[0]
        await asyncio.sleep(0)
        assert [q.name for q in asked] == ["one", "two"]
        asker.answer("n")
        return [first, await asking[1]]

    assert asyncio.run(conversation()) == [Consent.ONCE, Consent.NO]


def test_the_status_line_keeps_what_matters_most() -> None:
    """In any width, the model's name stays."""
    status = StatusLine()
    status.facts = Facts(
        is_known=True, model=ModelProfile(name="some-model", context_window=1000), session=SessionId("abcdef"),
        tokens=12_345, cost_usd=0.5, mode="ask", filled=250,
    )  # fmt: skip
    assert status.text(100) == "some-model · 12k tokens · 25% of window · $0.5000 · asks first · abcdef"
    assert status.text(40) == "some-model · 25% of window · asks first"
    assert status.text(12) == "some-model"
    assert status.text(6) == "some-…"


def test_a_demo_model_is_called_one() -> None:
    """Wherever its name stands."""
    status = StatusLine()
    status.facts = Facts(is_known=True, model=ModelProfile(name="tiny", is_demo=True))
    assert status.text(80) == "tiny (demo) · new session"


def test_rows_are_counted_as_the_terminal_breaks_them() -> None:
    """Every full row of 80 is two at 50, and so is the one the cursor is in."""
    cells = Cells()
    for column in range(80):
        cells.data_buffer[0][column] = Char("x")
    for column in range(30):
        cells.data_buffer[1][column] = Char("x")
    assert rows_gained(cells, 2, 60, 50) == 2
    assert rows_gained(cells, 2, 10, 80) == 0


def test_a_list_is_narrowed_by_words_in_any_order() -> None:
    """With `free`, what fits nothing is a choice; without, it is not."""

    async def picked(typed: str, *, free: bool) -> list[str]:
        picker = Picker("?", [Choice(key="a", label="red apple"), Choice(key="b", label="pear")], free=free)
        picker.buffer.text = typed
        return [choice.key for choice in picker.matching]

    assert asyncio.run(picked("app re", free=False)) == ["a"]
    assert asyncio.run(picked("", free=False)) == ["a", "b"]
    assert asyncio.run(picked("plum", free=True)) == []


def test_how_long_ago() -> None:
    """Roughly."""
    minute = 60_000
    assert [ago(0, n * minute) for n in (0, 5, 120, 60 * 24, 60 * 24 * 3)] == [
        "just now",
        "5 min ago",
        "2 h ago",
        "1 day ago",
        "3 days ago",
    ]
