"""Reading, writing and editing files: real files, real bytes."""

from __future__ import annotations

import asyncio
import os
import stat
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clew.adapters.tools.declared import ToolFailed
from clew.adapters.tools.diffs import unified_diff
from clew.adapters.tools.replacing import replaced
from clew.adapters.tools.toolbox import ToolboxOptions
from clew.adapters.tools.writing import TextFile
from clew.domain.conversation.messages import Status
from tests.unit.tools.bench import Bench

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(ToolboxOptions(cwd=tmp_path, tool_output_bytes=2000))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# -- read ------------------------------------------------------------------------------------------------------------
async def test_lines_are_numbered_and_windows_ends_not_shown(bench: Bench, tmp_path: Path) -> None:
    """What is shown can be named by number."""
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n\nfour")
    result = await bench.run("read", path="a.txt")
    assert result.text == "     1\tone\n     2\ttwo\n     3\t\n     4\tfour"


async def test_a_long_file_is_shown_in_parts_that_join_without_gap(bench: Bench, tmp_path: Path) -> None:
    """Following the offset that each part names shows every line once."""
    (tmp_path / "long").write_text("".join(f"line {n}\n" for n in range(1, 501)))
    seen: list[str] = []
    offset = 1
    while offset:
        result = await bench.run("read", path="long", offset=offset)
        assert len(result.text.encode()) <= 2000 + 80
        *lines, last = result.text.split("\n")
        offset = int(last.rpartition("offset=")[2].rstrip("]")) if last.startswith("[") else 0
        seen += [line.split("\t")[1] for line in (lines if offset else [*lines, last])]
    assert seen == [f"line {n}" for n in range(1, 501)]


async def test_offset_and_limit_choose_lines(bench: Bench, tmp_path: Path) -> None:
    """And an offset past the end says how long the file is."""
    (tmp_path / "a").write_text("1\n2\n3\n4\n")
    assert (await bench.run("read", path="a", offset=2, limit=2)).text == (
        "     2\t2\n     3\t3\n[lines 2-3; there is more: go on with offset=4]"
    )
    assert (await bench.run("read", path="a", offset=3)).text == "     3\t3\n     4\t4"
    assert "has 4 lines" in (await bench.run("read", path="a", offset=9)).text
    (tmp_path / "empty").touch()
    assert (await bench.run("read", path="empty")).text == "[empty file]"


async def test_a_line_without_end_is_cut_and_it_is_said(bench: Bench, tmp_path: Path) -> None:
    """Minified code does not flood a conversation, and the next line is still found."""
    (tmp_path / "min.js").write_text("x" + "é" * 5000 + "\nsecond\n")
    result = await bench.run("read", path="min.js", limit=1)
    assert "[… 8,001 more bytes]" in result.text
    assert "\ufffd" not in result.text
    assert (await bench.run("read", path="min.js", offset=2)).text == "     2\tsecond"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%PDF-1.7\n%\xe2", "PDF document"),
        (b"\x7fELF\x02\x01\x01\0", "ELF program"),
        (b"abc\0def", "binary data"),
        (b"\x1f\x8b\x08stuff", "gzip data"),
        ("text".encode("utf-16"), "UTF-16 text"),
    ],
)
async def test_a_binary_file_is_refused_by_name(bench: Bench, tmp_path: Path, data: bytes, kind: str) -> None:
    """With its kind and size, so that the model knows what to do instead."""
    (tmp_path / "b").write_bytes(data)
    result = await bench.run("read", path="b")
    assert result.status is Status.ERROR
    assert result.text == f"{tmp_path}/b is not text: {kind}, {len(data)} bytes."


async def test_lines_far_into_a_huge_file_are_refused(bench: Bench, tmp_path: Path) -> None:
    """Looking for them would take minutes; its beginning is shown all the same."""
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.write(b"first\n")
        file.write((b"x" * 999 + b"\n") * 101_000)
    assert (await bench.run("read", path="huge", limit=1)).text.startswith(
        "     1\tfirst\n[lines 1-1; there is more"
    )
    result = await bench.run("read", path="huge", offset=100_990)
    assert result.text == "Lines beyond the first 100.0 MB of a file are not read: use grep or sed."


async def test_an_image_comes_as_a_file(bench: Bench, tmp_path: Path) -> None:
    """Bytes and media type, for a model that can look."""
    (tmp_path / "p.dat").write_bytes(PNG)
    result = await bench.run("read", path="p.dat")
    (file,) = result.files
    assert (file.media_type, file.bytes, file.name) == ("image/png", PNG, "p.dat")


async def test_a_directory_is_listed(bench: Bench, tmp_path: Path) -> None:
    """Names in order, directories marked."""
    (tmp_path / "d").mkdir()
    (tmp_path / "b").touch()
    assert (await bench.run("read", path=".")).text == f"{tmp_path}/\nb\nd/"


async def test_what_is_no_file_is_refused_without_waiting(bench: Bench, tmp_path: Path) -> None:
    """A pipe would block for ever, a device never end."""
    os.mkfifo(tmp_path / "pipe")
    for path in ("pipe", "/dev/zero"):
        assert "neither a file nor a directory" in (await bench.run("read", path=path)).text


async def test_a_missing_file_is_one_sentence_with_its_absolute_path(bench: Bench, tmp_path: Path) -> None:
    """Also when the name is none at all."""
    result = await bench.run("read", path="nope")
    assert (result.text, result.status) == (f"{tmp_path}/nope: No such file or directory.", Status.ERROR)
    assert (await bench.run("read", path="a\0b")).text == "A path cannot hold a NUL character."
    assert (await bench.run("read", path="\ud800")).text == "The path is not valid Unicode."
    assert "File name too long" in (await bench.run("read", path="x" * 300)).text


async def test_home_and_relative_paths(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home; a relative path is the context's, wherever this process runs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_text("here")
    assert "here" in (await bench.run("read", path="~/sub/x")).text
    assert "here" in (await bench.run_with("read", {"path": "../sub/x"}, tmp_path / "sub")).text
    assert bench.tool("read").describe({"path": "sub/../sub/x"}) == f"read {tmp_path}/sub/x"
    assert (await bench.run("read", path="~nobody-here/x")).status is Status.ERROR


# -- write -----------------------------------------------------------------------------------------------------------
async def test_a_new_file_is_made_with_its_parents(bench: Bench, tmp_path: Path) -> None:
    """The diff is against nothing."""
    result = await bench.run("write", path="a/b/c.txt", text="one\ntwo\n")
    assert (tmp_path / "a/b/c.txt").read_text() == "one\ntwo\n"
    assert result.text == f"Created {tmp_path}/a/b/c.txt (8 bytes, 2 lines)."
    assert result.diff == f"--- /dev/null\n+++ b{tmp_path}/a/b/c.txt\n@@ -0,0 +1,2 @@\n+one\n+two\n"


async def test_replacing_keeps_the_mode_and_leaves_nothing_beside(bench: Bench, tmp_path: Path) -> None:
    """A script stays executable; a new file has the mode the umask gives."""
    script = tmp_path / "run.sh"
    script.write_text("old\n")
    script.chmod(0o750)
    result = await bench.run("write", path="run.sh", text="new\n")
    assert stat.S_IMODE(script.stat().st_mode) == 0o750
    assert "-old\n+new\n" in result.diff
    assert names(tmp_path) == ["run.sh"]
    (tmp_path / "plain").touch()
    await bench.run("write", path="fresh", text="")
    assert (tmp_path / "fresh").stat().st_mode == (tmp_path / "plain").stat().st_mode


async def test_a_symbolic_link_stays_one(bench: Bench, tmp_path: Path) -> None:
    """What it points at changes, by `write` and by `edit`."""
    (tmp_path / "real").write_text("a")
    (tmp_path / "link").symlink_to("real")
    await bench.run("write", path="link", text="b")
    assert (tmp_path / "link").is_symlink()
    await bench.run("edit", path="link", old_text="b", new_text="c")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "c"


async def test_writing_the_same_again_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    """`write` is declared safe to repeat."""
    await bench.run("write", path="a", text="x\n")
    result = await bench.run("write", path="a", text="x\n")
    assert (result.text, result.diff) == (f"{tmp_path}/a already had this content.", "")


async def test_a_reader_never_sees_half_a_file(bench: Bench, tmp_path: Path) -> None:
    """Another process that reads all the time sees the old or the new content, never a part."""
    path = tmp_path / "whole"
    path.write_text("a" * 300_000)
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READER, str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdout is not None
    assert await reader.stdout.readline() == b"reading\n"
    for n in range(40):
        await bench.run("write", path="whole", text="ab"[n % 2] * 300_000)
    out, _ = await reader.communicate(b"stop\n")
    assert out == b"whole\n"


READER = """
import select, sys
print("reading", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    text = open(sys.argv[1]).read()
    if len(text) != 300_000 or len(set(text)) != 1:
        sys.exit(f"{len(text)} {set(text)}")
print("whole")
"""


async def test_a_directory_or_device_is_not_replaced(bench: Bench, tmp_path: Path) -> None:
    """The sentence says so, and the directory is still there."""
    result = await bench.run("write", path=".", text="x")
    assert (result.status, names(tmp_path)) == (Status.ERROR, [])
    assert (await bench.run("write", path="/dev/null", text="x")).text == (
        "/dev/null is not a regular file: it is not replaced."
    )
    assert (await bench.run("write", path="a/b", text="x")).status is Status.OK
    assert (await bench.run("write", path="a/b/c", text="x")).status is Status.ERROR


# -- edit ------------------------------------------------------------------------------------------------------------
async def test_an_edit_shows_what_it_changed(bench: Bench, tmp_path: Path) -> None:
    """As a unified diff a person can read."""
    (tmp_path / "a.py").write_text("def f():\n    return 1\n")
    result = await bench.run("edit", path="a.py", old_text="return 1", new_text="return 2")
    assert result.text == f"Edited {tmp_path}/a.py: 1 lines added, 1 removed."
    assert result.diff == (
        f"--- a{tmp_path}/a.py\n+++ b{tmp_path}/a.py\n@@ -1,2 +1,2 @@\n def f():\n-    return 1\n+    return 2\n"
    )


async def test_text_that_stands_there_several_times_needs_replace_all(bench: Bench, tmp_path: Path) -> None:
    """The sentence names the lines; nothing is changed until it is meant."""
    path = tmp_path / "a"
    path.write_text("x = 1\ny = 2\nx = 1\n")
    result = await bench.run("edit", path="a", old_text="x = 1", new_text="x = 3")
    assert result.status is Status.ERROR
    assert "2 times (lines 1, 3)" in result.text
    assert path.read_text() == "x = 1\ny = 2\nx = 1\n"
    await bench.run("edit", path="a", old_text="x = 1", new_text="x = 3", replace_all=True)
    assert path.read_text() == "x = 3\ny = 2\nx = 3\n"


@pytest.mark.parametrize(
    ("old", "hint"),
    [
        ("retrun value", "The nearest line is line 2: '    return value'."),
        ("\treturn value", "is like line 2, '    return value': compare white space"),
        ("zzzzzz", "No line is like its first one"),
    ],
)
async def test_text_that_is_not_there_gets_the_nearest_line(
    bench: Bench, tmp_path: Path, old: str, hint: str
) -> None:
    """So that the next try can be right."""
    (tmp_path / "a").write_text("def f():\n    return value\n")
    result = await bench.run("edit", path="a", old_text=old, new_text="x")
    assert result.status is Status.ERROR
    assert hint in result.text


async def test_line_ends_and_the_byte_order_mark_stay(bench: Bench, tmp_path: Path) -> None:
    """A Windows file stays one, in the lines that were replaced as well."""
    path = tmp_path / "w"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\nthree\r\n")
    await bench.run("edit", path="w", old_text="one\ntwo", new_text="1\n2\n2b")
    assert path.read_bytes() == b"\xef\xbb\xbf1\r\n2\r\n2b\r\nthree\r\n"
    await bench.run("edit", path="w", old_text="three", new_text="3\n4")
    assert path.read_bytes() == b"\xef\xbb\xbf1\r\n2\r\n2b\r\n3\r\n4\r\n"


async def test_bytes_that_are_no_utf8_survive_an_edit(bench: Bench, tmp_path: Path) -> None:
    """An old file in Latin-1 loses nothing, and the diff is still valid Unicode."""
    path = tmp_path / "latin"
    path.write_bytes(b"caf\xe9\nold\n")
    result = await bench.run("edit", path="latin", old_text="old", new_text="new")
    assert path.read_bytes() == b"caf\xe9\nnew\n"
    assert " caf\ufffd\n" in result.diff


async def test_two_edits_at_once_both_hold(bench: Bench, tmp_path: Path) -> None:
    """Calls of one step run together and lose nothing of each other."""
    (tmp_path / "a").write_text("".join(f"<{n}>\n" for n in range(30)))
    edits = (bench.run("edit", path="a", old_text=f"<{n}>", new_text=f"done {n}") for n in range(30))
    assert all(result.status is Status.OK for result in await asyncio.gather(*edits))
    assert (tmp_path / "a").read_text() == "".join(f"done {n}\n" for n in range(30))


def test_a_file_changed_by_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    """A change names what it saw, as every write of ours does."""
    path = tmp_path / "a"
    path.write_text("one")
    file = TextFile.read(path)
    path.write_text("somebody else's")
    with pytest.raises(ToolFailed, match="changed by somebody else"):
        file.replace("two")
    assert path.read_text() == "somebody else's"
    assert list(tmp_path.iterdir()) == [path]


async def test_a_change_is_finished_when_its_call_is_cancelled(bench: Bench, tmp_path: Path) -> None:
    """Cancelled or not, the file is whole and nothing is left beside it."""
    task = asyncio.create_task(bench.run("write", path="a", text="x" * 1_000_000))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(tmp_path) in ([], ["a"])
    assert not names(tmp_path) or (tmp_path / "a").stat().st_size == 1_000_000


@settings(max_examples=50, deadline=None)
@given(
    st.text(alphabet="ab\n\r", max_size=30),
    st.text(alphabet="ab\n", min_size=1, max_size=4),
    st.text(max_size=4),
)
def test_replacing_is_exact(text: str, old: str, new: str) -> None:
    """Once, everywhere, or refused: never something near."""
    windows_old, windows_new = old.replace("\n", "\r\n"), new.replace("\r\n", "\n").replace("\n", "\r\n")
    try:
        after = replaced(text, old, new, everywhere=True)
    except ToolFailed:
        assert windows_old not in text or windows_old == windows_new or old == new
    else:
        assert after in (text.replace(old, new), text.replace(windows_old, windows_new))


def test_a_diff_applies(tmp_path: Path) -> None:
    """`patch` makes the new text of the old one, also without a last newline."""
    for before, after in (("a\nb\nc\n", "a\nB\nc"), ("a\f\nb", "a\f\nc\n"), ("", "x\n")):
        (tmp_path / "f").write_text(before)
        diff = unified_diff(before, after, tmp_path / "f")
        done = subprocess.run(
            ["git", "apply", "--unsafe-paths", "-p0", "--no-index", "-"],
            input=diff.replace(f"a{tmp_path}/", "").replace(f"b{tmp_path}/", ""),
            cwd=tmp_path,
            text=True,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "f").read_text() == after
