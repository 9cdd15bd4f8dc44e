"""What `clew config` lists, gets, sets and unsets."""

from pathlib import Path

import pytest

from clew.config.commands import HIDDEN, Change, get_setting, list_settings, set_setting, unset_setting
from clew.config.errors import SettingsError
from clew.config.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_list_shows_each_value_and_where_it_comes_from(home: Home) -> None:
    """Default, file or variable: every setting says which."""
    home.config.write_text('[turn]\nbusy = "steer"\n')
    listed = {setting.key: setting for setting in list_settings(home, {"CLEW_MODEL": "m"})}
    assert (listed["turn.busy"].value, listed["turn.busy"].source) == ("steer", str(home.config))
    assert (listed["model.name"].value, listed["model.name"].source) == ("m", "CLEW_MODEL")
    assert (listed["turn.max_steps"].value, listed["turn.max_steps"].source) == (50, "default")
    assert listed["instructions.files"].value == ["AGENTS.md", "CLAUDE.md"]
    assert listed["limits.usd_per_day"].value is None
    assert not any(key.startswith("reset.telegram") for key in listed)


def test_a_list_shows_no_secret(home: Home) -> None:
    """What a server is given is named, and not shown."""
    home.config.write_text('[mcp.a]\ncommand = "c"\nenv = {TOKEN = "planted"}\n')
    assert get_setting(home, {}, "mcp.a.env.TOKEN").value == HIDDEN
    assert "planted" not in repr(list_settings(home, {}))


def test_get_knows_every_key(home: Home) -> None:
    """Also one that has only its default; what is no setting, or not set, is said."""
    assert get_setting(home, {}, "reset.telegram.group.mode").value is None
    assert get_setting(home, {}, "turn.busy").default == "queue"
    for key, sentence in (
        ("turn.bussy", "did you mean turn.busy"),
        ("turn", "is a section"),
        ("mcp.a.url", "is not set"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            get_setting(home, {}, key)


def test_set_and_unset_say_what_they_did(home: Home) -> None:
    """Whether the file changed, and whether a variable wins over it."""
    assert set_setting(home, {}, "turn.busy", "steer") == Change(key="turn.busy", changed=True)
    assert get_setting(home, {}, "turn.busy").value == "steer"
    assert not set_setting(home, {}, "turn.busy", "steer").changed
    environ = {"CLEW__TURN__BUSY": "interrupt"}
    assert unset_setting(home, environ, "turn.busy") == Change(
        key="turn.busy", changed=True, overridden_by="CLEW__TURN__BUSY"
    )
    assert get_setting(home, {}, "turn.busy").value == "queue"


def test_a_key_that_is_no_setting_can_be_taken_out_but_not_put_in(home: Home) -> None:
    """A misspelt key is mended with unset."""
    home.config.write_text('[turn]\nbussy = "steer"\n')
    with pytest.raises(SettingsError, match=r"did you mean turn\.busy\?"):
        set_setting(home, {}, "turn.bussy", "steer")
    assert unset_setting(home, {}, "turn.bussy").changed
