"""The model of a torture: a server of its own, whose answers follow what the messages ask for."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from clew.testing.model_server import ModelServer, Served, ServedCall, looks_for_facts
from clew.testing.torture_checks import EFFECTS

_FIRST: Final = re.compile(r"w\d+-\d+ ")
_KNOWN: Final = re.compile(r"(shell|read|background|linger|wait|fail|delegate)(\+|$)").match
_SAID: Final = re.compile(r"\[(\d+)\] user[^\n]*:\n(w\d+-\d+) ")
_TASK: Final = re.compile(r'<event kind="task"[^>]*>\n(.*)\n</event>', re.DOTALL)


class ScriptedTalk:
    """Reads in a message what to do: `w7 shell read` is two steps with a call each, then the answer `done w7`.

    Asked for facts, it finds one in each message; a subagent's task is read like a message.

    `a+b` are two calls in one step, `hello` is nothing, `fail` an error; `_call` says what the others are. Each shell command appends a word of its own to a file, so that what took effect can be counted.
    """

    def __init__(self) -> None:
        self._effects = 0

    def __call__(self, body: Any) -> Served:
        messages = body["messages"]
        if looks_for_facts(body):
            said = _SAID.findall(str(messages[-1]["content"]))
            return Served(text=_json([{"text": f"Said {word}", "message": int(n)} for n, word in said]))
        ours = [n for n, message in enumerate(messages) if message["role"] == "user" and _words(message)]
        if not ours:
            return Served(text="This was said.")  # a summary is asked for
        last = ours[-1]
        word, *plan = _words(messages[last])
        step = sum(1 for message in messages[last:] if message.get("tool_calls"))
        if step >= len(plan):
            return Served(deltas=("done ", word))
        if plan[step] == "fail":
            return Served(status=400, message="The script says no.")
        return Served(text="", calls=tuple(self._call(name, word) for name in plan[step].split("+")))

    def _call(self, name: str, word: str) -> ServedCall:
        self._effects += 1
        append = f"echo {word}.{self._effects} >> {EFFECTS}"
        match name:
            case "read":
                return ServedCall(name="read", arguments={"path": "notes"})
            case "background":
                return ServedCall(name="shell", arguments={"command": append, "background": True})
            case "linger":
                return ServedCall(name="shell", arguments={"command": f"{append}; echo; sleep 60"})
            case "delegate":
                tasks = [f"{word} {what}" for what in ("hello", "shell", "read shell")]
                return ServedCall(name="delegate", arguments={"tasks": tasks})
            case "wait":
                return ServedCall(name="shell", arguments={"command": "sleep 0.2"})
            case _:
                return ServedCall(name="shell", arguments={"command": append})


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _words(message: Mapping[str, Any]) -> list[str]:
    """The message when it is one of ours: its first word, and those that ask for something."""
    content = message["content"]
    text = content if isinstance(content, str) else str(content[0].get("text", ""))
    text = task[1] if (task := _TASK.match(text)) else text
    words = text.split()
    return [words[0], *filter(_KNOWN, words)] if _FIRST.match(text) else []


def serve_talk(told: int) -> int:
    """Serves until it is killed, or nobody is left who could; tells its port."""
    parent = os.getppid()

    async def serve() -> None:
        async with ModelServer(ScriptedTalk(), notes=True) as server:
            os.write(told, b"%d\n" % server.port)
            while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells a process that its parent died
                await asyncio.sleep(1)

    asyncio.run(serve())
    return 0
