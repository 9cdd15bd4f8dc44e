"""The order that the protocol asks of an agent's frames, which no schema can say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

Frame = dict[str, Any]
SAID: Final = frozenset({
    "user_message_chunk", "agent_message_chunk", "agent_thought_chunk", "tool_call", "tool_call_update", "plan",
})  # fmt: skip
ENDED: Final = frozenset({"completed", "failed"})
NEXT: Final = {"pending": {"pending", "in_progress", *ENDED}, "in_progress": {"in_progress", *ENDED}}


class _Session:
    """What an editor knows of one session."""

    def __init__(self) -> None:
        self.speaking = 0
        """Requests under way during which something may be said: prompts and loads."""
        self.calls: dict[str, str] = {}

    def update(self, update: Frame) -> None:
        kind = update["sessionUpdate"]
        assert kind not in SAID or self.speaking, f"{kind} outside of a prompt and a load"
        if kind == "tool_call":
            assert update["toolCallId"] not in self.calls, "announced twice"
            self.calls[update["toolCallId"]] = update["status"]
        elif kind == "tool_call_update":
            before = self.calls[update["toolCallId"]]
            assert update["status"] in NEXT[before], f"{update['status']} after {before}"
            self.calls[update["toolCallId"]] = update["status"]

    def asked(self, call: str) -> None:
        assert self.calls[call] == "pending", "asked of a call that is not waiting"

    def answered(self) -> None:
        self.speaking -= 1
        left = [call for call, status in self.calls.items() if status not in ENDED]
        assert self.speaking or not left, f"never ended: {left}"


def check_order(log: Iterable[tuple[str, Frame]]) -> None:
    """Raises AssertionError where a session speaks before it is open or unasked, shows a load after its answer, announces a
    call twice, or leaves one without an end."""
    sessions: dict[str, _Session] = {}
    requests: dict[Any, Frame] = {}
    for direction, frame in log:
        if "method" in frame and direction == "sent" and "id" in frame:
            assert frame["id"] not in requests
            requests[frame["id"]] = frame
            if frame["method"] == "session/load":
                sessions[frame["params"]["sessionId"]] = _Session()
            if frame["method"] in ("session/load", "session/prompt"):
                sessions[frame["params"]["sessionId"]].speaking += 1
        elif "method" in frame and direction == "heard" and "params" in frame:
            session = sessions.get(frame["params"].get("sessionId"))
            if frame["method"] == "session/update":
                assert session is not None, "an update of a session that nobody opened"
                session.update(frame["params"]["update"])
            elif frame["method"] == "session/request_permission":
                assert session is not None
                session.asked(frame["params"]["toolCall"]["toolCallId"])
        elif direction == "heard":
            _answered(sessions, requests.pop(frame["id"]), frame)
    assert requests == {}, "requests without an answer"


def _answered(sessions: dict[str, _Session], request: Frame, answer: Frame) -> None:
    method, params = request["method"], request["params"]
    if method in ("session/load", "session/prompt"):
        sessions[params["sessionId"]].answered()
    if method in ("session/new", "session/fork", "session/resume") and "result" in answer:
        sessions[answer["result"].get("sessionId", params.get("sessionId"))] = _Session()
