"""docs/settings.md says what the settings are, all of them, today."""

from pathlib import Path

from clew.config.documentation import meaning, render
from clew.config.schema import Leaf, Table, children
from clew.config.settings import Section, Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_document_is_fresh() -> None:
    """What the page says is what the code does: `python -m clew.config.documentation > docs/settings.md`."""
    assert DOCUMENT.read_text("utf-8") == render()


def test_every_setting_says_what_it_means_in_one_line() -> None:
    """No setting is promised without a line that says what it does."""
    silent = [
        f"{section.__name__}.{name}" for section, name in values_of(Settings) if not one_line(section, name)
    ]
    assert silent == []


def one_line(section: type[Section], name: str) -> bool:
    line = meaning(section, name)
    return bool(line) and "\n" not in line and line.endswith(".")


def values_of(section: type[Section]) -> list[tuple[type[Section], str]]:
    """Every field that takes a value, with the section it stands in."""
    found: list[tuple[type[Section], str]] = []
    for name, node in children(section).items():
        match node:
            case Leaf():
                found.append((section, name))
            case Table():
                found += values_of(node.section)
            case _:
                found += values_of(node.item.section) if isinstance(node.item, Table) else [(section, name)]
    return found
