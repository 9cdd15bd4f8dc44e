"""A cut parts no call from its result, keeps the newest user message, and always shrinks or says it cannot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clew.domain.compaction.cut import find_cut_point, standing
from clew.domain.compaction.estimate import message_tokens, total_tokens
from clew.domain.compaction.policy import Budget, NothingToGain, Plan, Shares, plan, request_tokens
from clew.domain.conversation.messages import AssistantBody, EventBody, Message, Role, ToolBody
from clew.domain.ledger.rows import SummaryRow
from clew.domain.models.request import ModelProfile
from tests.unit.compaction.histories import Writing, paths, summary_of

WINDOWS = st.sampled_from([200, 1_000, 4_000])


def budget(window: int) -> Budget:
    return Budget.of(ModelProfile(name="m", context_window=window), Shares())


def cut_of(messages: tuple[Message, ...], keep: int) -> int | None:
    """Where it is cut; what is said to be kept then is what stands."""
    found = find_cut_point(messages, [message_tokens(m) for m in messages], keep)
    if found is None:
        return None
    assert found.kept_tokens == total_tokens(standing(messages, summary_of(messages[found.covered - 1].head)))
    return found.covered


def sides_of_calls(messages: tuple[Message, ...], cut: int) -> list[tuple[bool, bool]]:
    """For each call with a result, on which side each is."""
    asked = {call.id: index < cut for index, m in enumerate(messages) for call in m.calls}
    answered = {m.body.call: index < cut for index, m in enumerate(messages) if isinstance(m.body, ToolBody)}
    return [(asked[call], answered[call]) for call in asked.keys() & answered.keys()]


def waiting(messages: tuple[Message, ...], cut: int) -> list[str]:
    """The covered calls of the newest turn that have no result yet."""
    answered = {m.body.call for m in messages if isinstance(m.body, ToolBody)}
    newest = [m for m in messages[:cut] if m.turn == messages[-1].turn]
    return [call.id for m in newest for call in m.calls if call.id not in answered]


@given(paths(), st.integers(0, 3_000))
def test_a_call_is_never_separated_from_its_result(path: tuple[Message, ...], keep: int) -> None:
    """Nor is a call that still waits for its result covered: the result will come after the cut."""
    cut = cut_of(path, keep)
    if cut is not None:
        assert 0 < cut < len(path)
        assert all(one == other for one, other in sides_of_calls(path, cut))
        assert not waiting(path, cut)


@given(paths(), st.integers(0, 3_000))
def test_the_newest_user_message_stands_verbatim(path: tuple[Message, ...], keep: int) -> None:
    """Wherever the cut is, also inside its turn; the event where it was one that began the newest turn."""
    cut = cut_of(path, keep)
    said = [m for m in path if m.is_asked]
    if cut is not None and said:
        assert said[-1] in standing(path, summary_of(path[cut - 1].head))


@given(paths(), paths(), st.integers(0, 500))
def test_what_stands_only_grows(path: tuple[Message, ...], more: tuple[Message, ...], keep: int) -> None:
    """As long as a summary is in force, what is shown beside it begins with what was shown before."""
    cut = cut_of(path, keep)
    if cut is None:
        return
    summary = summary_of(path[cut - 1].head)
    before = standing(path, summary)
    writing = Writing()
    writing.path, writing.turn = list(path), path[-1].turn
    for message in more:
        writing.turn = path[-1].turn + message.turn
        writing.add(message.role, message.text, message.body, message.step)
    assert standing(writing.path, summary)[: len(before)] == before


@given(paths(), WINDOWS, st.booleans())
def test_a_plan_shrinks_or_says_it_cannot(path: tuple[Message, ...], window: int, deep: bool) -> None:
    """With a summary as long as it may be, the request is shorter than it was; and again for the next plan."""
    chosen = budget(window)
    summary: SummaryRow | None = None
    for number in range(1, 4):
        made = plan(path, summary, fixed=50, budget=chosen, deep=deep)
        if isinstance(made, NothingToGain):
            assert made.sentence.endswith(".")
            return
        text = "word " * (made.summary_tokens * 3 // 5 - 8)
        assert made.tokens_before == request_tokens(path, summary, 50)
        previous, summary = summary, summary_of(made.upto, text, number)
        assert made.tokens_after(text) == request_tokens(path, summary, 50) < made.tokens_before
        assert previous is None or previous.upto < summary.upto


@given(paths(turns_max=12), WINDOWS)
def test_a_plan_comes_down_to_the_target_where_a_cut_can(path: tuple[Message, ...], window: int) -> None:
    """What stays is within the target, unless no legal cut leaves so little."""
    chosen = budget(window)
    made = plan(path, None, fixed=0, budget=chosen)
    if isinstance(made, Plan):
        room = chosen.target - chosen.summary
        smallest = min(
            total_tokens(standing(path, summary_of(m.head))) for m in path[:-1] if _is_legal(path, m.seq)
        )
        assert made.tokens_kept <= max(room, smallest)


def _is_legal(path: tuple[Message, ...], cut: int) -> bool:
    said = [m for m in path if m.is_asked]
    stands = not said or said[-1] in standing(path, summary_of(path[cut - 1].head))
    return stands and all(one == other for one, other in sides_of_calls(path, cut)) and not waiting(path, cut)


def test_nothing_can_be_covered_of_one_message() -> None:
    """An empty session, or one with a single message, however long."""
    writing = Writing()
    assert isinstance(plan((), None, fixed=10, budget=budget(1_000), deep=True), NothingToGain)
    writing.add(Role.USER, "long " * 50_000, step=0)
    assert isinstance(plan(tuple(writing.path), None, fixed=10, budget=budget(8_000)), NothingToGain)


def test_a_long_turn_is_cut_inside() -> None:
    """Twenty steps behind one question: the question stays, the first steps are covered."""
    writing = Writing()
    writing.turn = 1
    question = writing.add(Role.USER, "What is in these files?", step=0)
    for n in range(20):
        call = writing.call(n)
        writing.add(Role.ASSISTANT, "Let me look.", AssistantBody(calls=(call,)))
        writing.result(call, "line of a file " * 40)
    made = plan(tuple(writing.path), None, fixed=0, budget=budget(4_000))
    assert isinstance(made, Plan)
    assert made.covered[0] == question
    assert standing(writing.path, summary_of(made.upto))[0] == question
    assert made.tokens_kept + made.tokens_before // 100 <= 1_000


def test_what_only_events_began_can_be_summarised() -> None:
    """Weeks of reminders without a word of the person's: the cut goes up to the newest of them, which stays."""
    writing = Writing()
    for turn in range(50):
        writing.turn = turn + 1
        role = Role.EVENT if turn else Role.USER
        writing.add(role, "tea " * 40, EventBody(kind="reminder") if turn else None, step=0)
        writing.add(Role.ASSISTANT, "Tea. " * 40)
    path = tuple(writing.path)
    cut = cut_of(path, 10)
    assert cut == len(path) - 1
    stands = standing(path, summary_of(path[cut - 1].head))
    assert path[-2] in stands
