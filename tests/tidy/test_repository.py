"""What the house promises about itself, held by tests because no linter knows these rules.

Each rule is a function from a file to the lines that break it, so that the last tests can show every rule at
work on a sample that breaks it: a rule that finds nothing anywhere would otherwise look like a rule that is kept.
"""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FUNCTION_LINES_MAX = 90
FILE_LINES_MAX = 600
AGENTS_LINES_MAX = 60
BROAD = {"Exception", "BaseException"}
MOCKS = {"mock", "unittest.mock", "pytest_mock", "asynctest", "mockito", "flexmock"}

Rule = Callable[[ast.Module], Iterator[int]]


def python_files(*folders: str) -> list[Path]:
    """The Python files below some folders of the repository, in a stable order."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def broken() -> dict[Rule, list[str]]:
    """`path:line` wherever a rule is broken, by rule. Each file is read once."""
    found: dict[Rule, list[str]] = {rule: [] for rule in RULES}
    for path in python_files("src", "tests"):
        place = path.relative_to(ROOT)
        module = ast.parse(path.read_text("utf-8"), str(path))
        for rule, folders in RULES.items():
            if place.parts[0] in folders:
                found[rule] += [f"{place}:{line}" for line in rule(module)]
    return found


@lru_cache(maxsize=1)
def nodes(module: ast.Module) -> tuple[ast.AST, ...]:
    """All that a file is made of: every rule looks at it, one file after the other."""
    return tuple(ast.walk(module))


def dotted(node: ast.expr) -> str:
    """`a.b.c` as text; empty for anything that is not a chain of names."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            front = dotted(value)
            return f"{front}.{attr}" if front else ""
        case _:
            return ""


def missing_docstring(module: ast.Module) -> Iterator[int]:
    """A module that does not say why it exists."""
    if not ast.get_docstring(module):
        yield 1


def long_functions(module: ast.Module) -> Iterator[int]:
    """Functions in which there is a concept without a name."""
    for node in nodes(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if (node.end_lineno or first) - first + 1 > FUNCTION_LINES_MAX:
                yield node.lineno


def silent_excepts(module: ast.Module) -> Iterator[int]:
    """Handlers that catch everything and do nothing about it; `suppress(Exception)` is one too."""
    for node in nodes(module):
        match node:
            case ast.ExceptHandler() if catches_everything(node.type) and all(map(says_nothing, node.body)):
                yield node.lineno
            case ast.Call() if dotted(node.func).split(".")[-1] == "suppress" and any(
                map(catches_everything, node.args)
            ):
                yield node.lineno
            case _:
                pass


def catches_everything(caught: ast.expr | None) -> bool:
    """Whether an except clause has no type, or a type every error is of."""
    match caught:
        case None:
            return True
        case ast.Tuple(elts=several):
            return any(map(catches_everything, several))
        case _:
            return dotted(caught).split(".")[-1] in BROAD


def says_nothing(statement: ast.stmt) -> bool:
    """Whether a statement neither records an outcome nor raises: pass, continue, break, a bare or constant return."""
    match statement:
        case ast.Pass() | ast.Continue() | ast.Break():
            return True
        case ast.Return(value=None | ast.Constant()) | ast.Expr(value=ast.Constant()):
            return True
        case ast.Return(value=ast.Tuple(elts=[]) | ast.List(elts=[]) | ast.Dict(keys=[])):
            return True
        case _:
            return False


def mock_imports(module: ast.Module) -> Iterator[int]:
    """Imports of anything that pretends to be an object of ours."""
    for node in nodes(module):
        match node:
            case ast.Import(names=names) if any(is_mock(name.name) for name in names):
                yield node.lineno
            case ast.ImportFrom(module=str(source), names=names) if is_mock(source) or any(
                is_mock(f"{source}.{name.name}") for name in names
            ):
                yield node.lineno
            case _:
                pass


def is_mock(name: str) -> bool:
    """Whether an imported name is a mocking library, or lies in one."""
    return any(name == mock or name.startswith(f"{mock}.") for mock in MOCKS)


def patched_attributes(module: ast.Module) -> Iterator[int]:
    """`monkeypatch.setattr` and its kin: a mock by another name. The environment and the cwd may be set."""
    refused = {"setattr", "delattr", "setitem", "delitem"}
    for node in nodes(module):
        if isinstance(node, ast.Call):
            front, _, method = dotted(node.func).rpartition(".")
            if front.split(".")[-1] in {"monkeypatch", "mp"} and method in refused:
                yield node.lineno


def naps(module: ast.Module) -> Iterator[int]:
    """Sleeps of a fixed positive length: too short on a slow machine, wasted on a fast one."""
    direct = {
        alias.asname or alias.name
        for node in nodes(module)
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "asyncio", "anyio", "trio"}
        for alias in node.names
        if alias.name == "sleep"
    }
    sleeps = direct | {"time.sleep", "asyncio.sleep", "anyio.sleep", "trio.sleep"}
    for node in nodes(module):
        match node:
            case ast.Call(args=[ast.Constant(value=int(length) | float(length)), *_]) if length > 0:
                if dotted(node.func) in sleeps:
                    yield node.lineno
            case _:
                pass


def hosts(text: str) -> Iterator[int]:
    """Lines that name a host by its address."""
    for number, line in enumerate(text.splitlines(), 1):
        if "http://" in line or "https://" in line:
            yield number


def test_nothing_that_installs_names_a_package_index() -> None:
    """Packages come from whatever index pip is configured for, and only their hashes are ours to say."""
    locks = sorted((ROOT / "requirements").iterdir())
    assert {"run.lock", "dev.lock"} <= {path.name for path in locks}
    packaging = ROOT / "packaging" / "Containerfile"
    files = [*locks, ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run", packaging]
    found = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in hosts(path.read_text("utf-8"))]
    assert found == []
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    assert {"index", "index-url", "extra-index-url", "pip", "sources"}.isdisjoint(tool.get("uv", {}))


def requirements(lock: str) -> dict[str, str]:
    """The requirement lines of a lock, marker included, by package; each must carry a hash."""
    found: dict[str, str] = {}
    text = (ROOT / "requirements" / lock).read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if "==" in line and not line.lstrip().startswith("#"):
            requirement, hashed, _ = line.partition("--hash=sha256:")
            assert hashed, f"{lock}: {requirement} has no hash"
            found[requirement.partition("==")[0]] = requirement.strip()
    return found


def test_the_two_locks_agree() -> None:
    """What is needed to run has the same version in both locks, so that one setup never undoes the other."""
    run, dev = requirements("run.lock"), requirements("dev.lock")
    assert {"apsw", "hatchling", "httpx", "xllamacpp"} <= run.keys()
    assert {name: dev.get(name) for name in run} == run


def test_what_is_imported_is_declared() -> None:
    """Nothing is used that is here only because another package needs it; `clew.testing` may use the tools of development."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    run, dev = (
        {re.split(r"[\[>;]", line)[0] for line in lines}
        for lines in (project["dependencies"] + extras["local"], extras["dev"])
    )
    distributions = importlib.metadata.packages_distributions()
    missing = set()
    for path in python_files("src"):
        declared = run | dev if "testing" in path.parts else run
        for name in imported(ast.parse(path.read_text("utf-8"))) - sys.stdlib_module_names - {"clew"}:
            if declared.isdisjoint(found.lower().replace("_", "-") for found in distributions.get(name, [])):
                missing.add(f"{path.relative_to(ROOT)}: {name}")
    assert missing == set()


def imported(module: ast.Module) -> set[str]:
    """The top-level packages that a file imports."""
    found = set[str]()
    for node in nodes(module):
        match node:
            case ast.Import(names=names):
                found |= {name.name.partition(".")[0] for name in names}
            case ast.ImportFrom(module=str(source), level=0):
                found.add(source.partition(".")[0])
            case _:
                pass
    return found


def test_agents_md_is_short() -> None:
    """Whoever picks the project up reads all of AGENTS.md."""
    assert len((ROOT / "AGENTS.md").read_text("utf-8").splitlines()) <= AGENTS_LINES_MAX


def test_no_file_is_long() -> None:
    """A file can be read in a sitting; one that a program has written is not for reading."""
    long = [
        f"{path.relative_to(ROOT)}: {len(lines)}"
        for path in python_files("src")
        if len(lines := path.read_text("utf-8").splitlines()) > FILE_LINES_MAX
        and "not edited by hand" not in lines[0]
    ]
    assert long == []


RULES: dict[Rule, tuple[str, ...]] = {
    missing_docstring: ("src",),
    long_functions: ("src",),
    silent_excepts: ("src",),
    mock_imports: ("src", "tests"),
    patched_attributes: ("tests",),
    naps: ("tests",),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_is_kept(rule: Rule) -> None:
    """The rules of the house hold in every file; a failure lists the lines that break one."""
    assert broken()[rule] == []


@pytest.mark.parametrize(
    ("rule", "sample", "lines"),
    [
        (missing_docstring, "x = 1", [1]),
        (missing_docstring, '"""Why."""', []),
        (long_functions, "def f():\n" + "    x = 1\n" * 90, [1]),
        (long_functions, "def f():\n" + "    x = 1\n" * 89, []),
        (silent_excepts, "try:\n    f()\nexcept:\n    pass", [3]),
        (silent_excepts, "try:\n    f()\nexcept (ValueError, Exception):\n    return []", [3]),
        (silent_excepts, "with contextlib.suppress(BaseException):\n    f()", [1]),
        (silent_excepts, "try:\n    f()\nexcept ValueError:\n    pass", []),
        (silent_excepts, "try:\n    f()\nexcept Exception as error:\n    record(error)", []),
        (mock_imports, "import unittest.mock", [1]),
        (mock_imports, "from unittest import mock", [1]),
        (mock_imports, "from unittest.mock import patch", [1]),
        (mock_imports, "import mockery\nfrom . import mock_free", []),
        (patched_attributes, "monkeypatch.setattr(a, 'b', 1)", [1]),
        (patched_attributes, "monkeypatch.setenv('A', 'b')\nmonkeypatch.chdir(p)", []),
        (naps, "import time\ntime.sleep(0.1)", [2]),
        (naps, "from asyncio import sleep as nap\nawait nap(1)", [2]),
        (naps, "await asyncio.sleep(0)\ntime.sleep(delay)", []),
    ],
)
def test_the_rule_finds_what_it_is_for(rule: Rule, sample: str, lines: list[int]) -> None:
    """Each rule sees a sample that breaks it, and leaves alone one that comes close."""
    assert list(rule(ast.parse(sample))) == lines
