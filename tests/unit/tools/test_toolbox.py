"""What a session is offered, and what it is told about each tool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clew.adapters.stores.memory import Disk, MemoryLedger
from clew.adapters.tools.toolbox import LocalToolbox, ToolboxOptions
from clew.adapters.tools.web_search import Provider, WebSearch
from clew.domain.conversation.messages import Status
from clew.domain.tools.spec import Effect, JsonObject, ToolFile
from clew.runtime.ports.tools import Tool, Toolbox
from tests.unit.tools.bench import Bench, started_groups

pytestmark = pytest.mark.anyio

DECLARED = {
    "edit": (Effect.EDIT, False),
    "glob": (Effect.READ, True),
    "grep": (Effect.READ, True),
    "plan": (Effect.READ, True),
    "process_output": (Effect.READ, True),
    "read": (Effect.READ, True),
    "send_file": (Effect.READ, True),
    "session_search": (Effect.READ, True),
    "shell": (Effect.EXECUTE, False),
    "web_fetch": (Effect.NETWORK, True),
    "web_search": (Effect.NETWORK, True),
    "write": (Effect.EDIT, True),
}


def everything(cwd: Path) -> ToolboxOptions:
    return ToolboxOptions(
        cwd=cwd,
        ledger=MemoryLedger(Disk()),
        web_search=WebSearch(provider=Provider.BRAVE, api_key="k"),
        sends_bytes_max=1,
    )


def test_tools_are_declared_by_name_with_what_they_change(tmp_path: Path) -> None:
    """In the same order always: a session is frozen with this list."""
    box: Toolbox = LocalToolbox(everything(tmp_path), started_groups(tmp_path))
    specs = [tool.spec for tool in box.tools()]
    assert [(spec.name, (spec.effect, spec.safe_to_repeat)) for spec in specs] == list(DECLARED.items())
    again = [
        tool.spec
        for tool in LocalToolbox(everything(tmp_path / "elsewhere"), started_groups(tmp_path)).tools()
    ]
    assert msgspec.json.encode(specs) == msgspec.json.encode(again)


def test_what_is_not_configured_is_not_offered(tmp_path: Path) -> None:
    """A tool that could only refuse would cost every request its words."""
    names = {
        tool.spec.name
        for tool in LocalToolbox(ToolboxOptions(cwd=tmp_path), started_groups(tmp_path)).tools()
    }
    assert names == DECLARED.keys() - {"web_search", "session_search", "send_file"}


async def test_a_file_is_taken_as_it_is_where_the_place_takes_files(tmp_path: Path) -> None:
    """Whole, under its name and type; a directory, an empty file, a larger one than the place takes and none are refused."""
    contents = {"a.csv": b"a,b\n", "big": b"x" * 11, "empty": b"", "pic": b"\x89PNG\r\n\x1a\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    bench = Bench(ToolboxOptions(cwd=tmp_path, sends_bytes_max=10))
    for name, kind in (("a.csv", "text/csv"), ("pic", "image/png")):
        result = await bench.run("send_file", path=name)
        assert result.files == (ToolFile(media_type=kind, bytes=contents[name], name=name, is_sent=True),)
    for name, why in (("big", "larger"), ("empty", "empty"), (".", "no file"), ("none", "No such file")):
        result = await bench.run("send_file", path=name)
        assert (result.status, result.files, why in result.text) == (Status.ERROR, (), True)
    await bench.box.close()


def test_no_declaration_holds_a_reference_or_the_directory(tmp_path: Path) -> None:
    """Not every provider follows `$ref`, and the prefix holds no state."""
    text = msgspec.json.encode(
        [tool.spec for tool in LocalToolbox(everything(tmp_path), started_groups(tmp_path)).tools()]
    ).decode()
    assert "$ref" not in text
    assert "$defs" not in text
    assert str(tmp_path) not in text
    assert text.count('"additionalProperties":false') == len(DECLARED)


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("read", {"path": "a"}, "read {cwd}/a"),
        ("write", {"path": "~/a", "text": "12345"}, "write 5 bytes to {home}/a"),
        (
            "edit",
            {"path": "/x/../a", "old_text": "1\n2", "new_text": "", "replace_all": True},
            "edit /a: replace 2 lines with nothing, everywhere",
        ),
        ("glob", {"pattern": "*.py", "path": "s"}, "find *.py in {cwd}/s"),
        ("grep", {"pattern": "a b"}, "search 'a b' in {cwd}"),
        ("shell", {"command": "make\n  all"}, "run in {cwd}: make all"),
        ("shell", {"command": "x", "background": True}, "start in the background in {cwd}: x"),
        ("process_output", {"process": 2}, "look at background process 2"),
        ("web_fetch", {"url": "http://h/"}, "fetch http://h/"),
        ("web_search", {"query": "q"}, "search the web for 'q'"),
        ("session_search", {"query": "q"}, "search earlier conversations for 'q'"),
        ("read", {}, "read: The arguments do not fit: object missing required field `path`."),
    ],
)
def test_a_call_is_described_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: JsonObject, line: str
) -> None:
    """With absolute paths: it is what a person approves."""
    monkeypatch.setenv("HOME", "/home/ann")
    tool = next(
        tool
        for tool in LocalToolbox(everything(tmp_path), started_groups(tmp_path)).tools()
        if tool.spec.name == name
    )
    assert tool.describe(arguments) == line.format(cwd=tmp_path, home="/home/ann")


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.text(max_size=2), max_size=2)
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(DECLARED)),
    arguments=st.dictionaries(st.sampled_from(["path", "command", "query", "url", "pattern", "x"]), VALUES),
)
def test_any_call_can_be_described(tmp_path: Path, name: str, arguments: JsonObject) -> None:
    """In one line of bounded length, whatever the model wrote."""
    tools: dict[str, Tool] = {
        tool.spec.name: tool for tool in LocalToolbox(everything(tmp_path), started_groups(tmp_path)).tools()
    }
    line = tools[name].describe(arguments)
    assert line
    assert len(line) <= 200
    assert "\n" not in line


@pytest.mark.parametrize("name", sorted(DECLARED))
async def test_arguments_that_do_not_fit_are_a_result(tmp_path: Path, name: str) -> None:
    """Not an exception: the model reads it and tries again."""
    result = await Bench(everything(tmp_path)).run(name, no_such_argument=1)
    assert result.status is Status.ERROR
    assert result.text.startswith("The arguments do not fit: ")


def test_the_tools_import_nothing_slow() -> None:
    """They are imported at every start of a chat: no HTML parser, no MCP, no pydantic."""
    program = "import sys, clew.adapters.tools.toolbox; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"mcp", "pydantic", "bs4", "lxml"}.isdisjoint(loaded)
