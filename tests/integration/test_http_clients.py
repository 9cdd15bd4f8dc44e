"""Programs that are not ours, unmodified: `openai`, `llm`, `aider` and `schemathesis` talk to a real `clew serve`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clew.testing.model_server import ModelServer, Served, echo
from tests.acceptance.serving_http import SECONDS_MAX, Api, api
from tests.integration.fuzz_http import INSTALLED, UNHURRIED, fuzzed

AIDER = INSTALLED.parent / "aider" / "bin" / "aider"
"""Too large to be installed for every run of the tests: `python3 -m venv .counterparts/aider`, and pip's `aider-chat` in it."""
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (INSTALLED / ".ready").exists(),
        reason=f"openai and llm are not installed: {INSTALLED}.log says why",
    ),
]


def answer(body: Any) -> Served:
    """An echo; what aider asks for is a new file, as it wants files to be written."""
    if "BREAK" in str(body["messages"][-1]):
        return Served(status=401, message="no such key")
    if "say goodbye" in str(body["messages"][-1]):
        return Served(text="It says goodbye.\n\nhello.py\n```\nprint('goodbye')\n```\n")
    return echo(body)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path, ModelServer(answer)) as served:
        served.clew.environ |= UNHURRIED
        served.show(await served.key())
        await served.start()
        yield served


def key_of(served: Api) -> str:
    return str(served.client.headers["Authorization"]).removeprefix("Bearer ")


async def ran(served: Api, *command: object, **environ: str) -> str:
    """What a program of theirs printed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, cwd=served.clew.cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(served.clew.cwd), **environ},
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS_MAX):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, out.decode() + err.decode()
    return out.decode()


async def test_the_openai_client_holds_a_talk(served: Api) -> None:
    """Models, an answer, a session by id, a stream with its usage, tools of its own, responses that carry on, errors it knows,
    and nothing twice that is kept."""
    base_url = f"http://127.0.0.1:{served.port}/v1"
    program = Path(__file__).with_name("openai_program.py")
    python = INSTALLED / "bin" / "python"
    seen: Any = msgspec.json.decode(
        await ran(served, python, program, OPENAI_BASE_URL=base_url, OPENAI_API_KEY=key_of(served))
    )
    assert seen["models"] == ["clew", "scripted-model"]
    assert (seen["text"], seen["streamed"], seen["usage"]) == ("echo: hi", "echo: two", 15)
    assert seen["tools"] == "the tool said: blue sky"
    assert (seen["response"], seen["carried_on"]) == ("echo: three", "echo: four")
    assert seen["kinds"][:2] == ["response.completed", "response.content_part.added"]
    assert seen["errors"] == ["invalid_api_key", "model_not_found"]
    kept = (await served.client.get(f"/v1/clew/sessions/{seen['session']}/messages")).json()["data"]
    assert [m["text"] for m in kept] == ["one", "echo: one", "two", "echo: two"]
    kept = (await served.client.get(f"/v1/clew/sessions/{seen['broken']}/messages")).json()["data"]
    assert [m["text"] for m in kept if m["role"] == "user"] == ["BREAK"], "repeated by itself"


async def test_llm_asks_and_goes_on(served: Api) -> None:
    """With the model as its settings name it; a second question brings the first along, and no session is made."""
    home = served.clew.cwd / "llm"
    home.mkdir()
    (home / "extra-openai-models.yaml").write_text(
        f"- model_id: clew\n  model_name: clew\n  api_base: http://127.0.0.1:{served.port}/v1\n"
        "  api_key_name: clew\n"
    )
    llm = INSTALLED / "bin" / "llm"
    more, key = {"LLM_USER_PATH": str(home)}, ("--key", key_of(served))
    assert await ran(served, llm, "-m", "clew", *key, "hi there", **more) == "echo: hi there\n"
    assert await ran(served, llm, "-c", "--no-stream", *key, "and more", **more) == "echo: and more\n"
    assert (await served.client.get("/v1/clew/sessions")).json()["data"] == []


@pytest.mark.skipif(not AIDER.exists(), reason=f"aider is not installed: {AIDER} is not there")
async def test_aider_edits_a_file(served: Api) -> None:
    """As docs/http.md has it set up, streamed and not; and no session is made."""
    edited = served.clew.cwd / "hello.py"
    environ = {"OPENAI_API_BASE": f"http://127.0.0.1:{served.port}/v1", "OPENAI_API_KEY": key_of(served)}
    for how in ("--stream", "--no-stream"):
        edited.write_text("print('hello')\n")
        await ran(
            served, AIDER, "--model", "openai/clew", "--no-git", "--yes-always", "--analytics-disable", "--no-check-update",
            "--no-show-model-warnings", how, "--message", "say goodbye", edited.name,
            **environ, LITELLM_LOCAL_MODEL_COST_MAP="True",
        )  # fmt: skip
        assert edited.read_text() == "print('goodbye')\n"
    assert (await served.client.get("/v1/clew/sessions")).json()["data"] == []


async def test_what_the_document_allows_is_answered_as_it_says(served: Api) -> None:
    """A fixed few hundred requests; `make fuzz-http` tries more. No error of ours, no answer of another shape."""
    options = ("--seed", "1", "--max-examples", "2", "--phases", "fuzzing", "--no-shrink")
    code, report = await fuzzed(served, key_of(served), *options, seconds_max=4 * SECONDS_MAX)
    assert code == 0, report
