"""What is spent and what may be: real processes, a real server that keeps its own account, one ledger."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import apsw
import pytest

from clew.testing.command_line import CommandLine
from clew.testing.model_server import ModelServer, Served, ServedCall, ServedUsage

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).parent / "spending_program.py"
PRICES = {"CLEW__MODEL__INPUT_USD_PER_MTOK": "0.1", "CLEW__MODEL__OUTPUT_USD_PER_MTOK": "0.4"}
BROKEN_AFTER_USAGE = """\
data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"half"},"finish_reason":null}]}

data: {"id":"x","model":"m","choices":[],"usage":{"prompt_tokens":31,"completion_tokens":17}}

data: {"error":{"message":"the machine was taken away","code":503}}

"""


def rows(home: Path, columns: str) -> list[tuple[object, ...]]:
    """Of all usage, as it is on disk."""
    db = apsw.Connection(str(home / "clew.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(db.execute(f"SELECT {columns} FROM usage ORDER BY id"))
    finally:
        db.close()


def spent(home: Path) -> float:
    return sum(cost for (cost,) in rows(home, "cost_usd") if isinstance(cost, float))


async def test_usage_rows_are_what_the_model_server_reported_to_the_token(tmp_path: Path) -> None:
    """Streamed or not, over several steps, through failures and the attempts that follow them."""
    (tmp_path / "a.txt").write_text("words")
    call = (ServedCall(name="read", arguments={"path": "a.txt"}),)
    steps = [
        Served(calls=call, usage=ServedUsage(101, 11)),
        Served(text="done", usage=ServedUsage(202, 22)),
        Served(text="whole", streams=False, usage=ServedUsage(303, 33)),
        Served(status=429, message="slowly", headers={"retry-after-ms": "1"}),
        Served(raw=BROKEN_AFTER_USAGE),
        Served(text="at last", usage=ServedUsage(404, 44)),
        Served(status=400, message="no"),
        Served(calls=call, usage=ServedUsage(505, 55)),
        Served(status=401, message="who are you"),
    ]
    async with ModelServer(steps) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        ran = [await clew.run("run", "--json", f"question {n}") for n in range(5)]
        reported = (sum(u.input for u in server.reported), sum(u.output for u in server.reported))
    assert [one.code for one in ran] == [0, 0, 0, 1, 1]
    assert reported == (101 + 202 + 303 + 31 + 404 + 505, 11 + 22 + 33 + 17 + 44 + 55)
    told = [(one.json["usage"]["input"], one.json["usage"]["output"]) for one in ran]
    assert told == [(303, 33), (303, 33), (435, 61), (0, 0), (505, 55)]
    assert rows(clew.home, "sum(input), sum(output)") == [reported]
    assert rows(clew.home, "state, task, attempt, input, output") == [
        ("settled", "turn", 1, 101, 11),
        ("settled", "turn", 1, 202, 22),
        ("settled", "turn", 1, 303, 33),
        ("failed", "turn", 2, 31, 17),
        ("settled", "turn", 3, 404, 44),
        ("settled", "turn", 1, 505, 55),
    ]


async def test_a_session_stops_before_the_call_that_could_pass_its_cap(tmp_path: Path) -> None:
    """It says which cap, exits as refused, and the server is not asked; /usage and /status say what is left."""
    cap = {**PRICES, "CLEW__LIMITS__USD_PER_SESSION": "0.01"}
    cost = (5000 * 0.1 + 4000 * 0.4) / 1e6
    async with ModelServer(lambda _: Served(text="yes", usage=ServedUsage(5000, 4000))) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        ran = [await clew.run("run", "--json", "hi", environ=cap)]
        while ran[-1].code == 0:
            ran.append(await clew.run("run", "--json", "--continue", "more", environ=cap))
        asked, used = len(server.requests), spent(clew.home)
        usage = await clew.run("run", "--continue", "/usage", environ=cap)
        status = await clew.run("run", "--continue", "/status", environ=cap)
        other = await clew.run("run", "--json", "hi", environ=cap)
    assert 2 <= asked == len(ran) - 1
    assert used == pytest.approx(asked * cost)
    assert used <= 0.01
    assert [one.json["usage"]["cost_usd"] for one in ran[:-1]] == [pytest.approx(cost)] * asked
    refused = ran[-1]
    assert refused.code == 3
    assert refused.json["status"] == "refused"
    assert refused.json["error"]["code"] == "cap"
    assert "limits.usd_per_session" in refused.json["error"]["message"]
    for said in (usage.out, status.out):
        assert f"usd_per_session: ${used:.4f} of the $0.01 allowed for a session" in said
        assert f"${0.01 - used:.4f} left" in said
    assert other.code == 0
    assert {str(source)[:10] for (source,) in rows(clew.home, "price_source")} == {"settings, "}


async def test_with_a_cap_a_model_without_a_price_is_refused(tmp_path: Path) -> None:
    """The sentence names the settings, and a price set is enough."""
    cap = {"CLEW__LIMITS__USD_PER_DAY": "5"}
    async with ModelServer(lambda _: Served(text="yes")) as server:
        clew = CommandLine(tmp_path / "home", server.base_url)
        refused = await clew.run("run", "--json", "hi", environ=cap)
        assert (refused.code, refused.json["error"]["code"]) == (3, "unpriced")
        assert "model.input_usd_per_mtok" in refused.json["error"]["message"]
        assert not server.requests
        assert (await clew.run("run", "hi", environ={**cap, **PRICES})).code == 0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CLEW__LIMITS__USD_PER_SESSION", "-1", "limits.usd_per_session is -1, but has to be a number"),
        ("CLEW__LIMITS__USD_PER_DAY", "much", 'limits.usd_per_day is "much", but has to be a number'),
        ("CLEW__LIMITS__USD_PER_USER_DAY", "nan", "limits.usd_per_user_day is nan, but has to be a number"),
        ("CLEW__MODEL__INPUT_USD_PER_MTOK", "-0.5", "model.input_usd_per_mtok is -0.5, but has to be"),
        ("CLEW__MODEL__OUTPUT_USD_PER_MTOK", "free", 'model.output_usd_per_mtok is "free", but has to be'),
    ],
)
async def test_a_cap_that_is_negative_or_no_number_is_one_sentence(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    """At the start, before anything is asked or written."""
    clew = CommandLine(tmp_path / "home")
    ran = await clew.run("run", "hi", environ={name: value})
    assert ran.code == 2
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1


async def test_two_processes_do_not_pass_a_shared_cap(tmp_path: Path) -> None:
    """Thirty-two sessions in each, all at once: together they make as many calls as fit, and no more."""
    fits = 20
    programs = [await _started(tmp_path, fits) for _ in range(2)]
    printed = [out.decode().split() for out, _ in await asyncio.gather(*(p.communicate() for p in programs))]
    assert [program.returncode for program in programs] == [0, 0]
    outcomes = [outcome for words in printed for outcome in words]
    assert (outcomes.count("done"), outcomes.count("refused")) == (fits, 64 - fits)
    assert spent(tmp_path) == fits


async def _started(home: Path, cap: float) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, PROGRAM, str(home), str(cap), stdout=asyncio.subprocess.PIPE
    )
