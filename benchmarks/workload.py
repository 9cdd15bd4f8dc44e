"""A deterministic workload: the same seed, session number and length always give the same bytes.

It imports nothing of ours, so another engine can replay it. Messages have the shape of OpenAI chat. A turn is: user,
one or two rounds of an assistant message with one to three calls and a result of 200 B to 8 KB for each, and a reply.
One session in ten is mostly Chinese, Japanese and Korean; other text has accents and emoji now and then.

Words that occur nowhere else are planted by a message's number (sessions of 100 laid end to end), so how often each
must be found is known. `python -m benchmarks.workload` prints the hash of the first 20,000 messages.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterator
from typing import Final, NamedTuple, NotRequired, TypedDict

SEED: Final = 20260101
PER_SESSION: Final = 100


class Function(TypedDict):
    """The name and the JSON arguments of a call."""

    name: str
    arguments: str


class Call(TypedDict):
    """A tool call of an assistant message."""

    id: str
    type: str
    function: Function


class Message(TypedDict):
    """A message; the order in which its keys are set is part of its bytes."""

    role: str
    content: str
    tool_calls: NotRequired[list[Call]]
    tool_call_id: NotRequired[str]
    tool_name: NotRequired[str]


class Marker(NamedTuple):
    """Words planted in every `stride`-th message, starting at the `offset`-th."""

    stride: int
    offset: int
    text: str


MARKERS: Final = {
    "rare": Marker(20000, 7, "zyxgraphite"),
    "phrase": Marker(1000, 13, "rolling restart window"),
    "cjk": Marker(2000, 29, "蓝鲸数据湖迁移"),
    "cjk2": Marker(2000, 31, "鳄梨"),
}

_SYLLABLES: Final = str.split(
    "ba ce di fo gu ha je ki lo mu na pe qi ro su ta ve wi xo yu za bri cla dre flo gra pli sta tri ver mon ter sol lin"
    " ran del cor ven pol mar"
)
_TOPIC: Final = str.split(
    "the a to of and in is for on that with as it this from by be are at or server database session message table index"
    " query cache token model agent gateway deploy restart config file path test error retry timeout thread process memory"
    " schema commit branch merge review build release user chat history summary tool result output input stream chunk"
    " socket lock write read load save list search find update delete insert select where order"
)
_CJK: Final = str.split(
    "数据库 会话 消息 网关 部署 重启 配置 文件 路径 测试 错误 重试 超时 线程 进程 内存 模型 代理 历史 摘要 工具 结果 输出"
    " 输入 缓存 查询 索引 提交 分支 合并 请 帮我 检查 一下 这个 问题 为什么 没有 更新 谢谢 可以 现在 已经 完成 サーバー 설정"
)
_TOOLS: Final = ("terminal", "read_file", "search_files", "web_search")
_RESULT_LOG_SIZES: Final = (math.log(200), math.log(8192))
_VOCABULARY_WORDS: Final = 6000
_POOL_WORDS: Final = 120_000


def _vocabulary(rng: random.Random) -> list[str]:
    words = list(_TOPIC)
    seen = set(words)
    while len(words) < _VOCABULARY_WORDS:
        word = "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 4)))
        if word not in seen:
            seen.add(word)
            words.append(word)
    return words


def _log(rng: random.Random, words: list[str]) -> str:
    """What tools print: log lines, grep hits and JSON. Results are slices of it."""
    lines: list[str] = []
    at = 0
    while at < len(words) - 14:
        count = rng.randint(6, 14)
        line = " ".join(words[at : at + count])
        style = rng.random()
        if style < 0.35:
            day, hour, minute = rng.randint(1, 28), rng.randint(0, 23), rng.randint(0, 59)
            line = f"2026-01-{day:02d}T{hour:02d}:{minute:02d}Z INFO {line}"
        elif style < 0.5:
            line = f"src/{words[at]}/{words[at + 1]}.py:{rng.randint(1, 900)}: {line}"
        elif style < 0.6:
            line = json.dumps({"id": rng.getrandbits(48), "name": words[at], "value": line})
        lines.append(line)
        at += count
    return "\n".join(lines)


class Workload:
    """Pools of text drawn once, from which sessions are cut."""

    def __init__(self, seed: int = SEED) -> None:
        self._seed = seed
        rng = random.Random(seed)
        vocabulary = _vocabulary(rng)
        weights = [1.0 / (rank + 3) for rank in range(len(vocabulary))]  # Zipf-like
        words = rng.choices(vocabulary, weights, k=_POOL_WORDS)
        self._log = _log(rng, words)
        self._sentences = [
            " ".join(words[at : at + rng.randint(8, 40)]).capitalize() + "."
            for at in range(0, len(words) - 40, 40)
        ]
        self._cjk = ["".join(rng.choices(_CJK, k=rng.randint(8, 30))) + "。" for _ in range(1500)]

    def session(self, number: int, length: int = PER_SESSION) -> list[Message]:
        """The first `length` messages of a session, markers planted."""
        rng = random.Random(f"{self._seed}:{number}")
        cjk = number % 10 == 3
        messages: list[Message] = []
        calls = 0
        while len(messages) < length:
            messages.append({"role": "user", "content": self._text(rng, cjk, 1, 3)})
            for _ in range(rng.choice((1, 1, 1, 2))):
                batch: list[Call] = []
                for _ in range(rng.choice((1, 1, 2, 2, 3))):
                    calls += 1
                    batch.append(self._call(rng, f"call_{number}_{calls}"))
                spoken = self._text(rng, cjk, 1, 1) if rng.random() < 0.4 else ""
                messages.append({"role": "assistant", "content": spoken, "tool_calls": batch})
                messages.extend(self._result(rng, call, cjk) for call in batch)
            messages.append({"role": "assistant", "content": self._text(rng, cjk, 2, 8)})
        messages = messages[:length]
        for position, message in enumerate(messages):
            for marker in MARKERS.values():
                if (number * PER_SESSION + position) % marker.stride == marker.offset:
                    message["content"] += " " + marker.text
        return messages

    def turn(self, number: int) -> list[Message]:
        """One turn of five messages: user, an assistant message with two calls, their results, the reply."""
        rng = random.Random(f"{self._seed}:turn:{number}")
        cjk = number % 10 == 3
        calls = [
            _a_call(f"call_t{number}_{n}", "terminal", json.dumps({"command": "ls -la", "n": n}))
            for n in (0, 1)
        ]
        user = self._text(rng, cjk, 1, 3)
        results = [self._result(rng, call, False) for call in calls]
        reply = self._text(rng, cjk, 2, 8)
        return [
            {"role": "user", "content": user},
            {"role": "assistant", "content": "", "tool_calls": calls},
            *results,
            {"role": "assistant", "content": reply},
        ]

    def stream(self, sessions: int, start: int = 0) -> Iterator[tuple[int, Message]]:
        """(session number, message), the sessions interleaved turn by turn, as many chats at once would be."""
        waiting = [(start + number, self.session(start + number)) for number in range(sessions)]
        at = [0] * sessions
        while waiting_now := [i for i in range(sessions) if at[i] < len(waiting[i][1])]:
            for i in waiting_now:
                number, messages = waiting[i]
                end = at[i] + 1
                while end < len(messages) and messages[end]["role"] != "user":
                    end += 1
                for message in messages[at[i] : end]:
                    yield number, message
                at[i] = end

    def _text(self, rng: random.Random, cjk: bool, fewest: int, most: int) -> str:
        text = " ".join(rng.choices(self._cjk if cjk else self._sentences, k=rng.randint(fewest, most)))
        extra = rng.random()
        if extra < 0.03:
            return text + " 🚀✅ naïve café – déjà vu"  # noqa: RUF001 - an en dash is part of the workload
        if extra < 0.08:
            return text + " ref " + format(rng.getrandbits(64), "016x")
        return text

    def _call(self, rng: random.Random, ident: str) -> Call:
        name = rng.choice(_TOOLS)
        command = rng.choice(self._sentences)[:120]
        return _a_call(ident, name, json.dumps({"command": command, "timeout": rng.randint(1, 60)}))

    def _result(self, rng: random.Random, call: Call, cjk: bool) -> Message:
        size = int(math.exp(rng.uniform(*_RESULT_LOG_SIZES)))
        start = rng.randrange(0, len(self._log) - size - 1)
        output = self._log[start : start + size]
        if cjk and rng.random() < 0.5:
            output = rng.choice(self._cjk) + "\n" + output
        content = f"exit_code=0 run={rng.getrandbits(32):08x}\n{output}"
        name = call["function"]["name"]
        return {"role": "tool", "tool_call_id": call["id"], "tool_name": name, "content": content}


def _a_call(ident: str, name: str, arguments: str) -> Call:
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def fingerprint(sessions: int = 200) -> str:
    """sha256 over the JSON of the first sessions, message by message."""
    workload, digest = Workload(), hashlib.sha256()
    for number in range(sessions):
        for message in workload.session(number):
            digest.update(json.dumps(message, ensure_ascii=False).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    print(fingerprint()[:16])
