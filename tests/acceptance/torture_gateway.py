"""`clew serve` is killed at each moment of a message's way, again and again: `make torture-gateway TIMES=20`.

In each round somebody says something; its update comes three times. The gateway ends itself at the moment, is started
again, and the same message is delivered three times more. When it has answered what was said after that, everything before
is settled: the message must be stored once, and each word of its answer shown at least once, at most twice, and a second
time only in a message that says so. A tool runs at most once, and what was said in a session that was left is remembered
once. A failure names its moment and round.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from clew.runtime.delivery import POSSIBLY_REPEATED
from clew.runtime.sending import POLL_SECONDS
from clew.testing.model_server import ModelServer, Served, ServedCall, looks_for_facts
from clew.testing.telegram import BotApi
from tests.acceptance.serving import Gateway

ENDS_SECONDS_MAX: Final = 60.0
STOPPED: Final = "Clew stopped while it did"
SHORT, LONG, STREAM, TOOL, COMMAND, LEFT = "short", "long", "stream", "tool", "command", "left"
WORDS: Final = {SHORT: 3, LONG: 900, STREAM: 900, TOOL: 3, COMMAND: 1, LEFT: 3}
"""How many words an answer has; 900 take two messages."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """When the gateway ends itself, as `crash_points` calls it, and what is said before."""

    name: str
    point: str
    kinds: tuple[str, ...]


SAID: Final = (SHORT, LONG, COMMAND)
MOMENTS: Final = (
    Moment(name="after receipt", point="after receive", kinds=SAID),
    Moment(name="before the model", point="after take", kinds=(SHORT, LONG)),
    Moment(name="in the stream", point="first token", kinds=(SHORT, LONG)),
    Moment(name="before a preview is sent", point="after add_reply", kinds=(STREAM,)),
    Moment(name="after a preview was sent", point="before notice", kinds=(STREAM,)),
    Moment(name="after a preview was noted", point="after notice", kinds=(STREAM,)),
    Moment(name="between call and result", point="after start", kinds=(TOOL,)),
    Moment(name="before the send", point="after take_reply", kinds=SAID),
    Moment(name="after the send", point="before notice", kinds=SAID),
    Moment(name="after the first of two", point="before notice:2", kinds=(LONG,)),
    Moment(name="before the offset", point="after notice", kinds=SAID),
    Moment(name="as a session is left", point="after leave", kinds=(LEFT,)),
    Moment(name="before memory looks", point="after take_job", kinds=(LEFT,)),
    Moment(name="before it is kept", point="before move_job", kinds=(LEFT,)),
)


def words(number: int, kind: str) -> list[str]:
    """Each word of an answer is its own, so that one can tell what was shown how often."""
    return [f"n{number}w{n}" for n in range(WORDS[kind])]


def shown_wrongly(wanted: Sequence[str], shown: Sequence[str]) -> list[str]:
    """What is wrong with how often these words were shown: a sentence for each kind of wrong."""
    marked = Counter(word for text in shown if text.startswith(POSSIBLY_REPEATED) for word in _words_in(text))
    plain = Counter(
        word for text in shown if not text.startswith(POSSIBLY_REPEATED) for word in _words_in(text)
    )
    faults = {
        "never shown": [word for word in wanted if plain[word] + marked[word] == 0],
        "shown twice without a mark": [word for word in wanted if plain[word] > 1],
        "repeated twice": [word for word in wanted if marked[word] > 1],
    }
    return [f"{what}: {', '.join(found[:5])} ({len(found)} words)" for what, found in faults.items() if found]


def _words_in(text: str) -> list[str]:
    return re.findall(r"\bn\d+w\d+\b", text)


class Talker:
    """Answers as the messages ask for: `n7 stream` is streamed, and stands still in the middle the first time."""

    def __init__(self, effects: Path) -> None:
        self._effects = effects
        self._streamed: set[int] = set()

    def __call__(self, body: Any) -> Served:
        if looks_for_facts(body):
            said = re.findall(r"\[(\d+)\] user[^\n]*:\n(n\d+) ", str(body["messages"][-1]["content"]))
            return Served(text=_json([{"text": f"Said {name}", "message": int(n)} for n, name in said]))
        role = body["messages"][-1]["role"]
        text = [m for m in body["messages"] if m["role"] == "user"][-1]["content"]
        ((digits, kind),) = re.findall(r"\bn(\d+) (\w+)", text if isinstance(text, str) else str(text))
        number = int(digits)
        if kind == TOOL and role == "tool":
            return Served(text=" ".join(words(number, TOOL)))
        if kind == TOOL:
            command = f"echo {number} >> {self._effects}; echo ran n{number}"
            return Served(calls=(ServedCall(name="shell", arguments=_json({"command": command})),))
        if kind not in WORDS:
            return Served(text=f"pong {number}")
        told = words(number, kind)
        deltas = tuple(f"{word} " for word in told)
        first = kind == STREAM and number not in self._streamed
        self._streamed.add(number)
        return Served(deltas=deltas, pause_after=len(deltas) // 2 if first else None)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


class Report(msgspec.Struct):
    once: Counter[str] = msgspec.field(default_factory=Counter)
    marked: Counter[str] = msgspec.field(default_factory=Counter)
    wrong: list[str] = msgspec.field(default_factory=list)

    def table(self) -> str:
        lines = [f"{'moment':28} rounds  shown once  repeated with a mark"]
        for name in {**self.once, **self.marked}:
            total = self.once[name] + self.marked[name]
            lines.append(f"{name:28} {total:6}  {self.once[name]:10}  {self.marked[name]:10}")
        lines += self.wrong or ["all of it holds"]
        return "\n".join(lines)


class TorturedGateway:
    """One home, its chat and its model, for all rounds of some moments."""

    def __init__(self, served: Gateway, effects: Path, report: Report) -> None:
        self._served = served
        self._effects = effects
        self._report = report
        self._ann = served.api.person(42, "Ann")
        self._said: list[str] = []

    async def round(self, number: int, moment: Moment, kind: str) -> None:
        served, api = self._served, self._served.api
        before = len(api.shown(42))
        commands = {COMMAND: f"/title n{number}w0", LEFT: "/new"}
        if kind == LEFT:
            await served.start()
            api.say(self._ann, f"n{number} {SHORT}")
            await served.until(lambda: len(api.shown(42)) > before)
            await served.stop()
        message = api.say(self._ann, commands.get(kind, f"n{number} {kind}"), times=3)
        if kind != COMMAND:
            self._said.append(f"n{number} {SHORT if kind == LEFT else kind}")
        await served.start(CLEW_TEST_CRASH=moment.point)
        assert served.process is not None
        await asyncio.wait_for(served.process.wait(), ENDS_SECONDS_MAX)
        await served.kill()
        api.repeat(message, times=3)
        api.say(self._ann, f"n{number} ping")
        await served.start()
        await served.until(lambda: any(f"pong {number}" in said for said in api.shown(42)))
        if kind == LEFT:
            await asyncio.wait_for(self._remembered(f"Said n{number}"), ENDS_SECONDS_MAX)
        if code := await served.stop():
            raise AssertionError(f"it ended with {code}: {served.log}")
        self._judge(api.shown(42)[before:], number, moment, kind)

    async def _remembered(self, fact: str) -> None:
        """Returns when it is, and no job waits: nothing tells of what the gateway writes."""
        waits = "SELECT count(*) FROM job WHERE state = 'queued'"
        while not self._all(f"SELECT 1 FROM fact WHERE text = '{fact}'") or self._all(waits) != [0]:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    def _all(self, query: str) -> list[Any]:
        home = self._served.clew.home
        with closing(apsw.Connection(str(home / "clew.db"), flags=apsw.SQLITE_OPEN_READONLY)) as db:
            return [row[0] for row in db.execute(query)]

    def _judge(self, shown: Sequence[str], number: int, moment: Moment, kind: str) -> None:
        stopped = sum(said.startswith(STOPPED) for said in shown)
        wrong = [] if stopped == 1 and kind == COMMAND else shown_wrongly(words(number, kind), shown)
        if stopped > 1:
            wrong.append(f"said {stopped} times that a command was left in the middle")
        notices = sum(said.startswith("Clew stopped in the middle") for said in shown)
        if notices > 1:
            wrong.append(f"{notices} notices of one crash")
        ran = self._effects.read_text().split().count(str(number)) if self._effects.exists() else 0
        if ran > 1:
            wrong.append(f"the tool ran {ran} times")
        self._report.wrong += [f"{moment.name}, {kind}, n{number}: {sentence}" for sentence in wrong]
        is_marked = any(said.startswith(POSSIBLY_REPEATED) for said in shown)
        (self._report.marked if is_marked else self._report.once)[moment.name] += 1

    async def look_at_all(self) -> None:
        """Each message is stored once, and the ledger is whole."""
        stored = Counter(self._all("SELECT text FROM message WHERE role = 'user'"))
        facts = Counter(self._all("SELECT text FROM fact"))
        self._report.wrong += [f"{text!r} is remembered {n} times" for text, n in facts.items() if n > 1]
        self._report.wrong += [
            f"{text!r} is stored {stored[text]} times" for text in self._said if stored[text] != 1
        ]
        checked = await self._served.clew.run("db", "check")
        if checked.code != 0:
            self._report.wrong.append(f"db check: {checked.out}{checked.err}")


async def torture(
    folder: Path, moments: Sequence[Moment], times: int, report: Report, first: int = 0
) -> None:
    """So many rounds at each of these moments, in one home."""
    effects, home = folder / "effects", folder / "home"
    model = ModelServer(Talker(effects), context_length=10_000_000, notes=True)
    async with BotApi() as api, model:
        served = Gateway(home, model, api, module="clew.testing.crashing", CLEW__APPROVAL__MODE="all")
        tortured = TorturedGateway(served, effects, report)
        rounds = [(moment, n) for moment in moments for n in range(times)]
        try:
            for number, (moment, n) in enumerate(rounds, first + 1):
                try:
                    await tortured.round(number, moment, moment.kinds[n % len(moment.kinds)])
                except (AssertionError, TimeoutError) as error:
                    report.wrong.append(f"{moment.name}, n{number}: stuck: {error!r}")
                    return
        finally:
            await served.kill()
        await tortured.look_at_all()


async def in_lanes(folder: Path, times: int, lanes: int, report: Report) -> None:
    async with asyncio.TaskGroup() as group:
        for lane in range(lanes):
            own = folder / f"lane{lane}"
            own.mkdir()
            group.create_task(torture(own, MOMENTS[lane::lanes], times, report, lane * 10_000))


def main() -> int:
    """Exit code 1 when something does not hold."""
    parser = argparse.ArgumentParser(description="`clew serve` is killed at each moment of a message's way.")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--lanes", type=int, default=2)
    chosen = parser.parse_args()
    folder, report, began = Path(tempfile.mkdtemp(prefix="clew-gateway-")), Report(), time.monotonic()
    asyncio.run(in_lanes(folder, chosen.times, chosen.lanes, report))
    sys.stdout.write(f"{report.table()}\n{time.monotonic() - began:.0f} s, in {folder}\n")
    if not report.wrong:
        shutil.rmtree(folder)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
