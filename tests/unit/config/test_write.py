"""Changing config.toml: one setting at a time, checked first, with everything else as a person left it."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.config.errors import Misfit, SettingsError
from clew.config.home import Home
from clew.config.load import load
from clew.config.toml_edit import edited
from clew.config.write import erase_setting, path_of, write_setting

COMMENTED = """\
# what I use at home
[turn]
busy = "queue"   # others wait

[model]   # local
name = 'x'
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def configured(home: Home, text: str) -> Home:
    home.root.mkdir()
    home.config.write_text(text)
    return home


def test_a_setting_is_written_and_holds(home: Home) -> None:
    """The first setting makes the home, the file and the section."""
    assert write_setting(home, ("gateway", "telegram", "allow"), "1, 2")
    assert home.config.read_text() == '[gateway.telegram]\nallow = ["1", "2"]\n'
    assert load(home, {}).settings.gateway.telegram.allow == ("1", "2")


def test_comments_and_the_rest_stay(home: Home) -> None:
    """Only the one value is another."""
    configured(home, COMMENTED)
    write_setting(home, ("turn", "busy"), "steer")
    assert home.config.read_text() == COMMENTED.replace('"queue"', '"steer"')
    erase_setting(home, ("turn", "busy"))
    write_setting(home, ("http", "port"), "1")
    assert home.config.read_text() == (
        "# what I use at home\n[turn]\n\n[model]   # local\nname = 'x'\n\n[http]\nport = 1\n"
    )


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        (("turn", "busy"), "fast", 'turn.busy is "fast", but has to be "queue", "steer" or "interrupt"'),
        (("turn", "bussy"), "queue", "there is no setting turn.bussy; did you mean turn.busy?"),
        (("compaction", "target"), "0.9", "compaction.target (0.9) has to be below trigger (0.75)"),
        (("mcp", "x", "args"), "a", "mcp.x needs a command to start, or the url of a running server"),
    ],
)
def test_what_would_be_wrong_is_not_written(
    home: Home, path: tuple[str, ...], text: str, sentence: str
) -> None:
    """A refused change leaves the file byte for byte."""
    configured(home, COMMENTED)
    with pytest.raises(SettingsError) as caught:
        write_setting(home, path, text)
    assert sentence in str(caught.value)
    assert home.config.read_text() == COMMENTED


def test_a_wrong_file_can_be_mended_one_key_at_a_time(home: Home) -> None:
    """Each change may leave old problems, and adds none."""
    configured(home, '[modle]\nname = "x"\n[turn]\nbusy = "que"\n')
    assert write_setting(home, ("turn", "busy"), "queue")
    assert erase_setting(home, ("modle",))
    assert load(home, {}).settings.turn.busy == "queue"
    assert home.config.read_text() == '[turn]\nbusy = "queue"\n'


def test_a_change_that_changes_nothing_writes_nothing(home: Home) -> None:
    """Setting what is set, or taking out what is not there, says so and leaves the file alone."""
    configured(home, COMMENTED)
    before = home.config.stat().st_mtime_ns
    assert not write_setting(home, ("turn", "busy"), "queue")
    assert not erase_setting(home, ("turn", "max_steps"))
    assert not erase_setting(home, ("http", "port"))
    assert home.config.stat().st_mtime_ns == before


def test_a_file_that_is_not_toml_is_left_alone(home: Home) -> None:
    """Nothing is written over what could not be read."""
    configured(home, "[turn\n")
    with pytest.raises(SettingsError, match="line 1, column 6: this is not TOML"):
        write_setting(home, ("turn", "busy"), "steer")
    assert home.config.read_text() == "[turn\n"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("mcp = {a = {command = 'x'}}\n", ("mcp", "b", "env", "c")),
        ("turn = 3\n", ("turn", "busy")),
        ("b.x = 2\ny = 1\n", ("b", "a", "x")),
        ("b.y = 2\nx = 1\n", ("b", "a", "x")),
    ],
)
def test_what_cannot_be_changed_alone_is_left_to_a_person(text: str, path: tuple[str, ...]) -> None:
    """Where the file's own form is in the way, or the editor would break it, a person has to change it."""
    with pytest.raises(Misfit, match="by hand"):
        edited(text, path, "y")


def test_the_last_key_of_a_dotted_section_can_be_taken_out() -> None:
    """That the section goes with it changes nothing."""
    assert tomllib.loads(edited("a.x = 2\nb = 1\n", ("a", "x"), None)) == {"b": 1}


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("turn.busy", ("turn", "busy")),
        ('mcp."my.server".url', ("mcp", "my.server", "url")),
        (" turn . busy ", ("turn", "busy")),
    ],
)
def test_keys_are_written_as_in_toml(key: str, path: tuple[str, ...]) -> None:
    """A name with a dot is put in quotes."""
    assert path_of(key) == path


@pytest.mark.parametrize("key", ["", "turn.", "a b", "turn.busy = 1\nx", "[turn]\nbusy", "x = {}"])
def test_what_is_no_key_is_refused(key: str) -> None:
    """Nothing but a key gets into the file by way of one."""
    with pytest.raises(SettingsError, match="is no key"):
        path_of(key)


NAMES = st.sampled_from("abc")
LEAVES = st.one_of(st.integers(0, 9), st.text("xy'\"\\\n#[]", max_size=4), st.booleans())
TREES = st.dictionaries(NAMES, st.dictionaries(NAMES, LEAVES, max_size=3), max_size=3)


def written(tree: dict[str, dict[str, object]]) -> str:
    text = ""
    for table, keys in tree.items():
        for name, value in keys.items():
            text = edited(text, (table, name), value)
    return text


@given(TREES, NAMES, NAMES, st.one_of(st.none(), LEAVES))
def test_an_edit_changes_exactly_one_value(
    tree: dict[str, dict[str, object]], table: str, name: str, value: object
) -> None:
    """Whatever was there, only the one key differs afterwards."""
    before = written(tree)
    after = tomllib.loads(edited(before, (table, name), value))
    wanted = tomllib.loads(before)
    if value is None:
        wanted.get(table, {}).pop(name, None)
    else:
        wanted.setdefault(table, {})[name] = value
    assert after == wanted
