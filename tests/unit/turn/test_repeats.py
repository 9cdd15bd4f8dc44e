"""Turns that go in circles are found; those that only wait, or look again, are not."""

from __future__ import annotations

from clew.domain.conversation.ids import CallId
from clew.domain.conversation.messages import Status, ToolCall
from clew.domain.tools.spec import ToolFile, ToolResult
from clew.domain.turn.repeats import Repeats


def a_call(name: str = "read", arguments: str = "{}", *, n: int = 0) -> ToolCall:
    return ToolCall(id=CallId(f"s-1-{n}-0"), name=name, arguments=arguments)


def test_a_circle_of_several_calls_is_a_circle() -> None:
    """Counted over the turn, not one after the other; call ids differ every time."""
    repeats = Repeats(3)
    for n in range(3):
        assert repeats.reached is None
        repeats.note(a_call("read", n=n), ToolResult(text="a"))
        repeats.note(a_call("grep", n=n), ToolResult(text="b"))
    assert repeats.reached is not None
    assert "read" in repeats.reached
    assert "3 times" in repeats.reached


def test_anything_that_differs_is_no_repetition() -> None:
    """Name, arguments, text, status, diff or file: somebody who waits for a change may go on."""
    repeats, same = Repeats(2), ToolResult(text="a")
    repeats.note(a_call(), same)
    repeats.note(a_call("write"), same)
    repeats.note(a_call(arguments='{"path": "b"}'), same)
    repeats.note(a_call(), ToolResult(text="b"))
    repeats.note(a_call(), ToolResult(text="a", status=Status.ERROR))
    repeats.note(a_call(), ToolResult(text="a", diff="+b"))
    repeats.note(a_call(), ToolResult(text="a", files=(ToolFile(media_type="image/png", bytes=b"1"),)))
    repeats.note(a_call(), ToolResult(text="a", files=(ToolFile(media_type="image/png", bytes=b"2"),)))
    assert repeats.reached is None
    repeats.note(a_call(), same)
    assert repeats.reached is not None


def test_words_that_run_together_are_told_apart() -> None:
    """`ab` and `c` are not `a` and `bc`, and half a surrogate is a text like any other."""
    repeats = Repeats(2)
    repeats.note(a_call("ab", "c"), ToolResult(text="\ud800"))
    repeats.note(a_call("a", "bc"), ToolResult(text="\ud800"))
    assert repeats.reached is None
