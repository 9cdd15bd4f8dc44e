"""Settings come from three layers: defaults, then config.toml, then the environment. The later one wins.

Rule: everything that is wrong is said at once, each with the file and line or the variable it stands in, and
then nothing is loaded. No setting is silently ignored.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path as FilePath
from typing import TypeVar

import msgspec

from clew.config.environment import DATABASE, PREFIX, SHORT_NAMES, variables
from clew.config.errors import Misfit, Problem, SettingsError
from clew.config.home import Home
from clew.config.lines import lines_of, toml_problem
from clew.config.rules import broken_rules
from clew.config.schema import TOP, Leaf, Node, Path, build, child, dotted
from clew.config.settings import Settings
from clew.config.values import fit, fit_text, shown

_Raw = TypeVar("_Raw")


class Layer(StrEnum):
    """Where a value comes from; the later wins."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"


class Source(msgspec.Struct, frozen=True):
    """Where one value comes from: the layer, and the file or variable."""

    layer: Layer = Layer.DEFAULT
    name: str = ""


class Given(msgspec.Struct, frozen=True):
    """A value that fits its place."""

    path: Path
    value: object
    source: Source


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """Settings, and where each value comes from that is not a default."""

    settings: Settings
    sources: Mapping[Path, Source]

    def source(self, path: Path) -> Source:
        """Where the value at a path comes from."""
        return self.sources.get(path, Source())


def load(home: Home, environ: Mapping[str, str]) -> Loaded:
    """Reads the settings of a home. Raises SettingsError with every problem."""
    return read(read_text(home.config), home.config, environ)


def read_text(file: FilePath) -> str:
    """The text of config.toml; empty where there is none. Raises SettingsError."""
    try:
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        place = f"{file}, line {error.object.count(bytes([10]), 0, error.start) + 1}"
        raise SettingsError(Problem(place=place, sentence="this is not UTF-8 text")) from error
    except OSError as error:
        sentence = f"the file cannot be read ({error.strerror or error})"
        raise SettingsError(Problem(place=str(file), sentence=sentence)) from error


def read(text: str, file: FilePath, environ: Mapping[str, str]) -> Loaded:
    """The settings a text and an environment make, without a look at the disk. Raises SettingsError."""
    found = list(_in_file(parse(text, file), (), TOP, Source(Layer.FILE, str(file))))
    found += _in_environment(environ, [item.path for item in found if isinstance(item, Given)])
    given = {item.path: item for item in found if isinstance(item, Given)}
    problems = [item for item in found if isinstance(item, Problem)]
    settings = build({path: item.value for path, item in given.items()})
    problems += _contradictions(settings, given.values(), tuple(problems))
    if problems:
        raise SettingsError(*_with_lines(problems, text, file))
    return Loaded(settings=settings, sources={path: item.source for path, item in given.items()})


def parse(text: str, file: FilePath) -> Mapping[str, object]:
    """What a TOML text says. Raises SettingsError with the place where it stops being TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(toml_problem(error, file)) from error


def _in_file(value: object, path: Path, node: Node | None, source: Source) -> Iterator[Given | Problem]:
    if node is None or isinstance(node, Leaf):
        yield _fitted(path, value, source, fit)
    elif not isinstance(value, Mapping):
        sentence = f"{dotted(path)} is {shown(value)}, but has to be a section, [{dotted(path)}]"
        yield Problem(path=path, sentence=sentence, place=source.name)
    elif not value and path:
        yield Given(path, {}, source)
    else:
        for name, below in value.items():
            yield from _in_file(below, (*path, name), child(node, name), source)


def _in_environment(environ: Mapping[str, str], known: Iterable[Path]) -> Iterator[Given | Problem]:
    for name, path, text in variables(environ, known):
        yield _fitted(path, text, Source(Layer.ENVIRONMENT, name), fit_text)
    for name in environ:
        if name.startswith("CLEW_") and not name.startswith(PREFIX) and name not in SHORT_NAMES:
            from clew.config.suggestions import variable_like  # noqa: PLC0415  slow to import, only for what is odd

            if like := variable_like(name):
                yield Problem(place=name, sentence=f"Clew reads no such variable; did you mean {like}?")
    if environ.get(DATABASE):
        yield Problem(place=DATABASE, sentence="no other database than clew.db in CLEW_HOME can be used yet")


def _fitted(path: Path, value: _Raw, source: Source, fits: Callable[[Path, _Raw], object]) -> Given | Problem:
    try:
        return Given(path, fits(path, value), source)
    except Misfit as error:
        return Problem(path=path, sentence=str(error), place=source.name)


def _contradictions(
    settings: Settings, given: Collection[Given], problems: Collection[Problem]
) -> Iterator[Problem]:
    """What is wrong with the settings as a whole, and does not follow from another problem."""
    for rule in broken_rules(settings):
        if not any(problem.path[: len(rule.scope)] == rule.scope for problem in problems):
            cause = _cause(rule.path, given)
            yield Problem(path=cause.path, sentence=rule.sentence, place=cause.source.name)


def _cause(path: Path, given: Iterable[Given]) -> Given:
    """What to change: the value itself, or one below it, or one beside it. Defaults contradict nothing."""
    for start in (path, path[:-1]):
        for item in given:
            if item.path[: len(start)] == start:
                return item
    raise AssertionError(f"the defaults contradict themselves at {dotted(path)}")


def _with_lines(problems: Iterable[Problem], text: str, file: FilePath) -> Iterator[Problem]:
    lines = lines_of(text)
    for problem in problems:
        if problem.place == str(file) and problem.path in lines:
            yield msgspec.structs.replace(problem, place=f"{file}, line {lines[problem.path]}")
        else:
            yield problem
