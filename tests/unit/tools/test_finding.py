"""Finding files and lines, checked against git where git has an opinion."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clew.adapters.tools.finder import Finder, Found, Search
from clew.adapters.tools.globs import path_pattern
from clew.adapters.tools.limits import TimeLimits
from clew.adapters.tools.toolbox import ToolboxOptions
from clew.domain.conversation.messages import Status
from tests.unit.tools.bench import Bench

pytestmark = pytest.mark.anyio

FOREVER = "(a+)+$"
"""On `aaaa…!` this takes time that doubles with each letter."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(ToolboxOptions(cwd=tmp_path, tool_output_bytes=3000))


def put(root: Path, **files: str) -> None:
    """Creates files; `__` in a name stands for a slash, `_dot_` for a dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# -- glob ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.py", ["a.py", "d/e/a.py"], ["a.pyc", "py"]),
        ("src/*.py", ["src/a.py"], ["src/d/a.py", "a.py", "x/src/a.py"]),
        ("src/**/*.py", ["src/a.py", "src/d/e/a.py"], ["a.py"]),
        ("**/test_?.py", ["test_1.py", "d/test_2.py"], ["test_12.py"]),
        ("*.{ts,tsx}", ["a.ts", "d/b.tsx"], ["a.js"]),
        ("[!a-c]x", ["dx", "e/zx"], ["ax"]),
        ("a[", ["a["], ["a"]),
        ("**", ["a", "d/e"], []),
        ("a**/b", ["ax/b"], ["a/c/b", "b"]),
        ("docs/**", ["docs/a", "docs/a/b"], ["docs", "x/docs/a"]),
    ],
)
def test_a_pattern_matches_what_people_mean_by_it(pattern: str, yes: list[str], no: list[str]) -> None:
    """Without a slash it is about the name, with one about the path."""
    compiled = path_pattern(pattern)
    assert [path for path in yes + no if compiled.fullmatch(path)] == yes


@given(st.text(alphabet="ab/*?[]{},!^-\\.\n", max_size=12), st.text(alphabet="ab/.", max_size=8))
def test_any_pattern_is_one_or_refused(pattern: str, path: str) -> None:
    """Nothing typed as a pattern is an accident."""
    with suppress(re.error):
        path_pattern(pattern).fullmatch(path)


async def test_files_are_found_in_order_and_what_git_ignores_is_not(bench: Bench, tmp_path: Path) -> None:
    """Rules of directories further down add to those above; `.git` itself is never shown."""
    put(
        tmp_path,
        a_dot_py="",
        sub__b_dot_py="",
        sub__build__c_dot_py="",
        sub__d_dot_log="",
        sub__keep_dot_log="",
    )
    put(tmp_path, _dot_gitignore="build/\n*.log\n", sub___dot_gitignore="!keep.log\n", _dot_git__x_dot_py="")
    assert (await bench.run("glob", pattern="*.*")).text.split("\n") == [
        ".gitignore",
        "a.py",
        "sub/.gitignore",
        "sub/b.py",
        "sub/keep.log",
    ]
    everything = await bench.run("glob", pattern="*.py", include_ignored=True)
    assert everything.text.split("\n") == ["a.py", "sub/b.py", "sub/build/c.py"]


async def test_a_directory_further_down_is_still_in_its_repository(bench: Bench, tmp_path: Path) -> None:
    """Rules of the repository's top hold when only a part of it is searched; those above it do not."""
    put(tmp_path, _dot_gitignore="*\n", repo___dot_git__HEAD="", repo___dot_gitignore="/src/out\n")
    put(tmp_path, repo__src__out__a="", repo__src__in__a="")
    assert (await bench.run("glob", pattern="a", path="repo/src")).text == "repo/src/in/a"


async def test_limits_are_said(bench: Bench, tmp_path: Path) -> None:
    """Both the number asked for and the size of a result."""
    put(tmp_path, **{f"name_{'x' * 60}_{n}": "" for n in range(100)})
    assert (await bench.run("glob", pattern="name*", limit=3)).text.endswith(
        "[limit of 3 reached, there are more]"
    )
    cut = await bench.run("glob", pattern="name*")
    assert len(cut.text.encode()) < 3100
    assert cut.text.endswith("more found than can be shown]")
    assert (await bench.run("glob", pattern="nothing")).text == "[no such files]"


async def test_what_cannot_be_searched_is_said(bench: Bench, tmp_path: Path) -> None:
    """In one sentence, as an error."""
    put(tmp_path, file="")
    for arguments, sentence in [
        ({"pattern": "*", "path": "nope"}, f"There is no {tmp_path}/nope."),
        ({"pattern": "*", "path": "file"}, f"{tmp_path}/file is not a directory."),
        ({"pattern": "[z-a]"}, "'[z-a]' is not a file pattern: bad character range z-a at position 14."),
    ]:
        result = await bench.run_with("glob", arguments)
        assert (result.text, result.status) == (sentence, Status.ERROR)


async def test_a_link_that_leads_in_a_circle_ends_nowhere(bench: Bench, tmp_path: Path) -> None:
    """Directories are not followed through links; files are found through them."""
    put(tmp_path, d__a="")
    (tmp_path / "d" / "loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to("d/a")
    assert (await bench.run("glob", pattern="*")).text == "d/a\nlink"


async def test_a_tree_deeper_than_pythons_stack_is_walked(tmp_path: Path) -> None:
    """Some build made it, and its files are files."""
    deep = f"{'d/' * 1500}f"
    make = f"mkdir -p {os.path.dirname(deep)} && touch {deep}"
    subprocess.run(make, shell=True, cwd=tmp_path, check=True)  # noqa: ASYNC221 - Python's own way recurses, too
    try:
        assert (await Bench(ToolboxOptions(cwd=tmp_path)).run("glob", pattern="f")).text == deep
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # noqa: ASYNC221


_NAMES = st.sampled_from(["a", "b", "ab", "a.b", ".a", "a b", "[a]", "*"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_RULES = st.lists(
    st.tuples(
        st.sampled_from(["", "", "!", "/"]),
        st.lists(
            st.sampled_from(
                ["a", "b", "*", "**", "a*", "?", "[ab]", "[!a]", "*.b", "a b", ".a", "\\*", "a?b"]
            ),
            min_size=1,
            max_size=3,
        ).map("/".join),
        st.sampled_from(["", "", "/", "  ", "/**"]),
    ).map("".join),
    max_size=4,
).map("\n".join)


@settings(max_examples=150, deadline=None)
@given(paths=st.lists(_PATHS, min_size=1, max_size=8, unique=True), top=_RULES, inner=_RULES)
def test_what_is_ignored_is_what_git_ignores(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], top: str, inner: str
) -> None:
    """Random trees under random rules: the files we show are the ones git would take."""
    root = tmp_path_factory.mktemp("repo")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    for path in paths:
        target = root / path
        if not any(parent.is_file() for parent in target.parents) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    (root / ".gitignore").write_text(top)
    if (root / "a").is_dir():
        (root / "a" / ".gitignore").write_text(inner)
    shown = subprocess.run(
        ["git", "-c", "core.excludesFile=/dev/null", "ls-files", "-zco", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    ours = [
        found.path
        for found in Finder(Search(root=str(root), limit=1000)).answers()
        if isinstance(found, Found)
    ]
    assert sorted(ours) == sorted(filter(None, shown.stdout.decode().split("\0")))


# -- grep ------------------------------------------------------------------------------------------------------------
async def test_lines_are_found_with_file_and_number(bench: Bench, tmp_path: Path) -> None:
    """As compilers say them; binary files are passed over."""
    put(tmp_path, a_dot_py="import os\n\nx = os.name\n", b_dot_txt="os\n", c_dot_bin="os\0os\n")
    assert (await bench.run("grep", pattern=r"\bos\b")).text == (
        "a.py:1: import os\na.py:3: x = os.name\nb.txt:1: os"
    )
    assert (
        await bench.run("grep", pattern="IMPORT", ignore_case=True, glob="*.py")
    ).text == "a.py:1: import os"
    assert (await bench.run("grep", pattern="os", path="b.txt")).text == "b.txt:1: os"
    assert (await bench.run("grep", pattern="nowhere")).text == "[no matches]"


async def test_a_long_line_shows_the_place_of_the_match(bench: Bench, tmp_path: Path) -> None:
    """And not the whole of a minified file."""
    put(tmp_path, min="x" * 5000 + "needle" + "y" * 5000)
    text = (await bench.run("grep", pattern="needle")).text
    assert "needle" in text
    assert len(text) < 450


async def test_a_bad_expression_is_one_sentence(bench: Bench) -> None:
    """Nothing is searched for."""
    result = await bench.run("grep", pattern="(")
    assert result.status is Status.ERROR
    assert result.text == "'(' is not a regular expression: missing ), unterminated subpattern at position 0."


async def test_an_expression_that_takes_for_ever_is_ended(tmp_path: Path) -> None:
    """The event loop goes on meanwhile, what was found before is shown, and no process stays."""
    put(tmp_path, a="aaa\n", b="a" * 60 + "!\n")
    bench = Bench(ToolboxOptions(cwd=tmp_path, limits=TimeLimits(search_seconds=1.5)))
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    beating = asyncio.create_task(beat())
    started = time.monotonic()
    result = await bench.run("grep", pattern=FOREVER)
    beating.cancel()
    assert 1.0 < time.monotonic() - started < 10
    assert result.text.startswith("a:1: aaa\n[stopped after 1.5 s, not everything was looked at")
    assert beats > 1000
    assert children() == []


async def test_cancelling_a_search_ends_it(bench: Bench, tmp_path: Path) -> None:
    """At once, and its process is gone."""
    put(tmp_path, b="a" * 60 + "!\n")
    searching = asyncio.create_task(bench.run("grep", pattern=FOREVER))
    while not children():  # noqa: ASYNC110 - nobody tells when a process has started
        await asyncio.sleep(0)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    assert children() == []


def children() -> list[str]:
    """Workers of this process that run now."""
    found: list[str] = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread of ours that ends while it is asked
            found += (task / "children").read_text().split()
    return [pid for pid in found if b"finder" in command_of(pid)]


def command_of(pid: str) -> bytes:
    """Nothing where it ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


async def test_a_project_cannot_put_its_modules_into_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory we were started in may hold anything, a `msgspec.py` of its own for one."""
    put(tmp_path, msgspec_dot_py="raise SystemExit('taken over')", re_dot_py="raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    result = await Bench(ToolboxOptions(cwd=tmp_path)).run("glob", pattern="*.py")
    assert result.text == "msgspec.py\nre.py"


async def test_what_cannot_be_read_is_counted(bench: Bench, tmp_path: Path) -> None:
    """A file that vanished or is somebody else's is no reason to fail, and no secret."""
    put(tmp_path, a="word")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 30_000_000)
    result = await bench.run("grep", pattern="word")
    assert result.text == "a:1: word\n[files over 20.0 MB passed over: 1]"
