"""What the documentation points at is there: pages, headings, commands, options and settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from clew.config.schema import TOP, Leaf, Node, child, children
from clew.config.settings import Settings
from clew.surfaces.cli.main import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def anchors(page: Path) -> set[str]:
    """The headings of a page, as they are linked to."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the repository, and to a heading of it where one is named."""
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not link.startswith("https://") and (
            not target.exists() or (anchor and anchor not in anchors(target))
        ):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_list() -> None:
    """docs/README.md names each page, and no decision has the number of another."""
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text("utf-8")))
    assert listed == {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    decisions = sorted(path.name for path in (DOCS / "decisions").iterdir())
    assert [name[:4] for name in decisions] == [f"{number:04}" for number in range(1, len(decisions) + 1)]
    for name in decisions:
        assert (DOCS / "decisions" / name).read_text("utf-8").startswith(f"# {name[:4]}: ")


def folders(below: Path) -> set[str]:
    """What `ls` shows of a folder that is kept, without what tools leave."""
    there = [path for path in below.iterdir() if path.is_dir() and path.name[0] not in "._"]
    return {path.name for path in there if any(path.glob("*.py")) or any(path.glob("*/test_*.py"))}


def test_the_layout_is_what_is_there() -> None:
    """AGENTS.md names each folder and each target of the Makefile, docs/architecture.md each package; and nothing else."""
    agents, built = (ROOT / "AGENTS.md").read_text("utf-8"), (DOCS / "architecture.md").read_text("utf-8")
    assert {f"{name}/" for name in folders(ROOT)} <= set(re.findall(r"`([a-z]+/)", agents))
    assert {name for name in re.findall(r"`((?:[a-z]+/)+)`", agents) if not (ROOT / name).is_dir()} == set()
    assert folders(ROOT / "tests") - {"data"} == set(
        re.findall(r"\| `tests/` \| `([a-z ]+)`", agents)[0].split()
    )
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(targets) - {"help", "setup", "clean"} == set(
        re.findall(r"^\| `make ([a-z-]+)", agents, re.MULTILINE)
    )
    diagram = built.split("```")[1]
    rings = dict(re.findall(r"^([a-z]+)/ +([a-z ]+?)(?:   .*)?$", diagram, re.MULTILINE))
    assert rings.keys() | {"wire", "config"} == folders(ROOT / "src" / "clew")
    for ring in ("surfaces", "adapters", "runtime", "domain"):
        assert set(rings[ring].split()) == folders(ROOT / "src" / "clew" / ring), ring


def typed(text: str) -> list[str]:
    """The command lines of `clew` that a page shows: in blocks, and between backticks."""
    return re.findall(r"(?:^|[`|$] ?|bin/)clew ([^`\n#;&<>]*)", text, re.MULTILINE)


def wrong_word(line: str) -> str | None:
    """The first word of a command line that names no command or option."""
    command: click.Command = cli
    words = iter(line.split())
    for word in words:
        if command.name == "pair" and word.startswith("-"):
            return None  # `clew pair --me` is `clew pair code --me`
        if word.startswith("-") and len(word) > 1:
            option = next((o for o in command.params if isinstance(o, click.Option) and word in o.opts), None)
            if option is None and word not in {"-h", "--help"}:
                return word
            if option is not None and not option.is_flag:
                next(words, None)
        elif isinstance(command, click.Group):
            context = click.Context(command)
            below = [command.get_command(context, one) for one in word.split("|")]
            if command.name == "pair" and below == [None]:
                return None
            if None in below:
                return word
            command = below[0] or command
    return None


def settings_named(text: str) -> Iterator[str]:
    """What stands between backticks and looks like a setting, or like the head of a section."""
    for name in re.findall(r"`(?:CLEW__)?([a-z]+(?:\.[a-z_]+)+)(?: = [^`]*)?`", text):
        if name.partition(".")[0] in children(Settings) and not name.endswith((".py", ".md")):
            yield name
    yield from re.findall(r"(?:`|^)\[([a-z]+(?:\.[a-z_]+)*)\](?:`|$)", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_what_a_page_names_is_there(page: Path) -> None:
    """Every command, option and setting that a page of the documentation shows."""
    text = page.read_text("utf-8")
    assert [line for line in typed(text) if wrong_word(line)] == []
    assert [
        name for name in settings_named(text) if "decisions" not in str(page) and not is_setting(name)
    ] == []


def is_setting(name: str) -> bool:
    """Whether it is a setting, or a section of them."""
    node: Node | None = TOP
    for part in name.split("."):
        node = None if node is None or isinstance(node, Leaf) else child(node, part)
    return node is not None


def test_what_is_not_there_is_found() -> None:
    """The tests above can fail."""
    text = "`clew sesions list`, `clew run --jsn x`, `clew db check|chek`, `clew pair NAME --me`"
    assert [wrong_word(line) for line in typed(text)] == ["sesions", "--jsn", "check|chek", None]
    assert [
        is_setting(name) for name in settings_named("`turn.busy`, `turn.bsy = 1`, `[reset.telegram.dm]`")
    ] == [True, False, True]
