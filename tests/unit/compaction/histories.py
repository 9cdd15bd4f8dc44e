"""Paths as a program leaves them, for properties: turns of steps with calls and results, events, steers, open calls."""

from __future__ import annotations

from hypothesis import strategies as st

from clew.domain.conversation.ids import BranchId, CallId, MessageId, SummaryId
from clew.domain.conversation.messages import (
    AssistantBody,
    Attachment,
    Body,
    EventBody,
    Head,
    Message,
    Role,
    Status,
    ToolBody,
    ToolCall,
    UserBody,
)
from clew.domain.ledger.rows import SummaryRow

WORDS = st.sampled_from(["", "short", "a few words more ", "x" * 40, "今天天气很好", "1234567890 ", "line\n"])
TEXTS = st.builds(lambda word, times: word * times, WORDS, st.integers(0, 40))
FILES = st.sampled_from(
    [
        (),
        (Attachment(sha256="1", media_type="image/png", size=9, name="cat.png"),),
        (Attachment(sha256="2", media_type="text/plain", size=500),),
    ]
)


class Writing:
    """A path that grows."""

    def __init__(self) -> None:
        self.path: list[Message] = []
        self.turn = 0

    def add(self, role: Role, text: str, body: Body | None = None, step: int = 1) -> Message:
        seq = len(self.path) + 1
        ident, branch = MessageId(seq), BranchId(1)
        made = Message(ident, branch, seq, self.turn, step, role, "who", Status.OK, text, body, seq)
        self.path.append(made)
        return made

    def call(self, n: int, arguments: str = "{}") -> ToolCall:
        return ToolCall(id=CallId(f"c{len(self.path)}-{n}"), name="look", arguments=arguments)

    def result(self, call: ToolCall, text: str, files: tuple[Attachment, ...] = ()) -> Message:
        return self.add(Role.TOOL, text, ToolBody(call=call.id, name="look", attachments=files))


@st.composite
def paths(draw: st.DrawFn, turns_max: int = 6) -> tuple[Message, ...]:
    """Up to so many turns; the last may still run, with a call that waits for its result."""
    writing = Writing()
    for turn in range(draw(st.integers(0, turns_max))):
        writing.turn = turn + 1
        _turn(draw, writing)
    return tuple(writing.path[: draw(st.integers(0, len(writing.path))) or None])


def _turn(draw: st.DrawFn, writing: Writing) -> None:
    if draw(st.integers(0, 5)) == 0:
        writing.add(Role.EVENT, draw(TEXTS), EventBody(kind="process_ended"), step=0)
    if draw(st.integers(0, 7)) > 0:
        writing.add(Role.USER, draw(TEXTS), UserBody(attachments=draw(FILES)), step=0)
    for _ in range(draw(st.integers(0, 3))):
        calls = tuple(writing.call(n, draw(TEXTS)) for n in range(draw(st.integers(1, 3))))
        writing.add(Role.ASSISTANT, draw(TEXTS), AssistantBody(calls=calls))
        for call in draw(st.permutations(calls)):
            if draw(st.integers(0, 5)) == 0:
                writing.add(Role.USER, "joined", step=1)
            writing.result(call, draw(TEXTS), draw(FILES))
    if draw(st.booleans()):
        writing.add(Role.ASSISTANT, draw(TEXTS))


def summary_of(upto: Head, text: str = "notes", number: int = 1) -> SummaryRow:
    return SummaryRow(
        id=SummaryId(number), upto=upto, previous=None, text=text, focus=None, model=None,
        tokens_before=0, tokens_after=0, created_at=0,
    )  # fmt: skip
