"""Loading settings: three layers, and every mistake said at once with its place."""

from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clew.config.errors import SettingsError
from clew.config.home import Home
from clew.config.lines import lines_of
from clew.config.load import Layer, Loaded, Source, load, read
from clew.config.schema import Leaf, dotted, places, values
from clew.config.schema import Path as SettingPath
from clew.config.settings import Settings
from clew.config.values import expected, shown

FILE = Path("/home/ariadne/.clew/config.toml")


def reading(text: str = "", **environ: str) -> Loaded:
    return read(text, FILE, environ)


def problems(text: str = "", **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(text, FILE, environ)
    return str(caught.value).replace(str(FILE), "FILE").splitlines()


def another(path: SettingPath, leaf: Leaf) -> object:
    """A value that fits the place and is not its default."""
    hint = expected(leaf.hint)
    match leaf.default:
        case bool():
            return not leaf.default
        case int():
            return leaf.default + 1
        case float():
            return 0.5
        case tuple():
            return ("one", "two")
        case _:
            pass
    if "timezone" in path[-1] or "timezones" in path:
        return "Europe/Athens"
    if " or " in hint and hint.startswith('"'):
        return hint.rpartition(' or "')[2].removesuffix('"')
    samples = {
        "an http": "http://127.0.0.1:1/v1",
        "a time": "23:59",
        "a provider": "openai",
        "the name": "MY_KEY",
    }
    for start, sample in samples.items():
        if hint.startswith(start):
            return sample
    return 3 if hint.startswith("a whole") else 1.5 if hint.startswith("a number") else "some text"


BY_NAME = {dotted(path): (path, leaf) for path, leaf in places() if "NAME" not in path}


def in_force(loaded: Loaded, key: str) -> object:
    return {dotted(path): value for path, _, value in values(loaded.settings)}[key]


def test_nothing_given_is_every_default() -> None:
    """Without a file and an environment everything is a default."""
    loaded = reading()
    assert loaded.settings == Settings()
    assert loaded.source(("turn", "busy")) == Source(Layer.DEFAULT)


def test_the_promised_defaults() -> None:
    """The defaults people were promised."""
    now = Settings()
    assert (now.turn.busy, now.turn.lease_seconds, now.turn.max_steps, now.turn.max_seconds) == (
        "queue",
        30,
        50,
        1800,
    )
    assert (now.approval.mode, now.approval.expires_seconds) == ("ask", 86400)
    assert (now.recovery.freshness_seconds, now.recovery.max_crashes) == (3600, 3)
    assert (now.compaction.enabled, now.compaction.trigger, now.compaction.target) == (True, 0.75, 0.25)
    assert (now.compaction.lease_seconds, now.compaction.cooldown_seconds) == (120, 60)
    assert (now.limits.usd_per_session, now.limits.usd_per_day, now.limits.tool_output_bytes) == (
        None,
        None,
        50_000,
    )
    assert (now.memory.enabled, now.retention.archive_days, now.retention.delete_days) == (True, 0, 0)
    assert (now.reset.mode, now.reset.at, now.reset.idle_minutes, now.reset.timezone) == (
        "none",
        "04:00",
        1440,
        "UTC",
    )
    assert (now.gateway.group_sessions_per_user, now.gateway.thread_sessions_per_user) == (True, False)
    assert (now.gateway.drain_seconds, now.gateway.edits) == (30, "retry")
    assert now.gateway.telegram.token_env == "TELEGRAM_BOT_TOKEN"
    assert (now.http.host, now.http.port) == ("127.0.0.1", 8787)
    assert (now.pool.enabled, now.pool.prewarm, now.pool.recycle_sessions) == (False, True, 200)
    assert (now.tools.allow_private_addresses, now.instructions.files) == (False, ("AGENTS.md", "CLAUDE.md"))


@pytest.mark.parametrize("key", BY_NAME)
def test_every_setting_can_be_set_by_file_and_by_environment(key: str) -> None:
    """Whatever the setting, both layers take it, and its source is known."""
    path, leaf = BY_NAME[key]
    value = another(path, leaf)
    assert value != leaf.default
    by_file = reading(f"{key} = {shown(value)}")
    assert in_force(by_file, key) == value
    assert by_file.source(path) == Source(Layer.FILE, str(FILE))
    name = "CLEW__" + "__".join(path).upper()
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    by_variable = reading(**{name: text})
    assert in_force(by_variable, key) == value
    assert by_variable.source(path) == Source(Layer.ENVIRONMENT, name)


def test_the_environment_wins_over_the_file_and_the_long_name_over_the_short() -> None:
    """Defaults, file, short name, long name: the later wins, and the rest of the file stays."""
    text = '[model]\nname = "file"\nsummary_model = "small"'
    assert reading(text).settings.model.name == "file"
    assert reading(text, CLEW_MODEL="short").settings.model.name == "short"
    loaded = reading(text, CLEW_MODEL="short", CLEW__MODEL__NAME="long")
    assert (loaded.settings.model.name, loaded.settings.model.summary_model) == ("long", "small")


def test_a_server_in_the_environment_is_not_the_files_provider() -> None:
    """It is spoken to as any other server, and not shown that provider's key; where none is named, the key stays."""
    named = '[model]\nprovider = "anthropic"\napi_key_env = "ANTHROPIC_API_KEY"'
    model = reading(named, CLEW_BASE_URL="http://127.0.0.1:1/v1").settings.model
    assert (model.provider, model.api_key_env, model.base_url) == ("", "", "http://127.0.0.1:1/v1")
    model = reading(
        named, CLEW_BASE_URL="http://127.0.0.1:1/v1", CLEW__MODEL__PROVIDER="openai", CLEW_API_KEY="k"
    ).settings.model
    assert (model.provider, model.api_key_env) == ("openai", "CLEW_API_KEY")
    model = reading('model.api_key_env = "MINE"', CLEW_BASE_URL="http://127.0.0.1:1/v1").settings.model
    assert model.api_key_env == "MINE"


def test_a_short_name_that_is_misspelt_is_said() -> None:
    """What only begins like ours belongs to something else."""
    assert problems(CLEW_MODLE="m") == ["CLEW_MODLE: Clew reads no such variable; did you mean CLEW_MODEL?"]
    assert reading(CLEW_MODE_OF_MINE="m").settings == Settings()


def test_an_empty_short_name_is_unset() -> None:
    """Container tools pass empty variables for what nobody set."""
    assert reading('model.name = "file"', CLEW_MODEL="", CLEW_API_KEY="").settings.model.name == "file"
    assert reading(CLEW_API_KEY="").settings.model.api_key_env == ""


def test_a_key_in_the_environment_becomes_no_setting() -> None:
    """Of a secret the settings hold only where it is."""
    loaded = reading(CLEW_API_KEY="sk-1234")
    assert loaded.settings.model.api_key_env == "CLEW_API_KEY"
    assert "sk-1234" not in repr(loaded)


def test_a_database_that_cannot_be_used_is_not_ignored() -> None:
    """Whoever names one would believe that conversations are kept there; its password is not repeated."""
    sentence = "no other database than clew.db in CLEW_HOME can be used yet"
    assert problems("", CLEW_DATABASE_URL="postgres://u:pw@h/d") == [f"CLEW_DATABASE_URL: {sentence}"]


def test_servers_are_named_as_in_the_file() -> None:
    """A variable finds the server of the file whatever its spelling, and makes a new one in small letters."""
    loaded = reading(
        '[mcp.My-Server]\ncommand = "serve"\nenv = {Keep = "1"}',
        CLEW__MCP__MY_SERVER__ARGS='["--flag", "a,b"]',
        CLEW__MCP__MY_SERVER__ENV__TOKEN="t",
        CLEW__MCP__OTHER__URL="http://127.0.0.1:1",
    )
    server = loaded.settings.mcp["My-Server"]
    assert (server.command, server.args, server.env) == (
        "serve",
        ("--flag", "a,b"),
        {"Keep": "1", "TOKEN": "t"},
    )
    assert loaded.settings.mcp["other"].url == "http://127.0.0.1:1"


def test_servers_do_not_show_what_they_are_given() -> None:
    """The environment and the headers of a server hold secrets, so no repr holds them."""
    loaded = reading('[mcp.a]\ncommand="c"\nenv.T="planted"\n[mcp.b]\nurl="http://x"\nheaders.A="planted"')
    assert "planted" not in repr(loaded)


def test_ids_of_people_may_be_numbers() -> None:
    """Telegram ids are numbers, and people write them so."""
    assert reading("gateway.telegram.allow = [42, '@a']").settings.gateway.telegram.allow == ("42", "@a")


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("1", True), ("OFF", False), ("false", False)])
def test_switches_in_the_environment(text: str, value: bool) -> None:
    """A switch is understood as people write it."""
    assert reading(CLEW__POOL__ENABLED=text).settings.pool.enabled is value


def test_a_cap_can_be_lifted_by_an_empty_variable() -> None:
    """What may be unset is unset by an empty text."""
    assert reading("limits.usd_per_day = 3", CLEW__LIMITS__USD_PER_DAY="").settings.limits.usd_per_day is None


def test_all_mistakes_are_said_at_once_with_their_places() -> None:
    """One run shows every problem: file and line, or the variable."""
    text = '# mine\n[turn]\nbusy = "que"\nmax_stepz = 3\n\n[modle]\nname = "x"\n[turn.x]\n'
    assert problems(text, CLEW__HTTP__PORT="many", CLEW__TRUN__BUSY="queue") == [
        'FILE, line 3: turn.busy is "que", but has to be "queue", "steer" or "interrupt"',
        "FILE, line 4: there is no setting turn.max_stepz; did you mean turn.max_steps?",
        "FILE, line 8: there is no setting turn.x; there are busy, lease_seconds, max_steps, max_seconds, max_repeats",
        "FILE, line 6: there is no setting modle; did you mean model?",
        'CLEW__HTTP__PORT: http.port is "many", but has to be a whole number from 0 to 65535',
        "CLEW__TRUN__BUSY: there is no setting trun; did you mean turn?",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("turn.max_steps = 0", "turn.max_steps is 0, but has to be a whole number of at least 1"),
        ("turn.max_steps = true", "turn.max_steps is true, but has to be a whole number of at least 1"),
        ("turn.max_steps = '3'", 'turn.max_steps is "3", but has to be a whole number of at least 1'),
        ("memory.enabled = 1", "memory.enabled is 1, but has to be true or false"),
        ("compaction.trigger = 1.1", "compaction.trigger is 1.1, but has to be a number above 0 and at most 1"),
        ("limits.usd_per_day = -1", "limits.usd_per_day is -1, but has to be a number of at least 0"),
        ("limits.usd_per_day = nan", "limits.usd_per_day is nan, but has to be a number of at least 0"),
        ("limits.usd_per_day = inf", "limits.usd_per_day is inf, but has to be a number of at least 0"),
        ("reset.at = 04:00:00", 'reset.at is 04:00:00, but has to be a time of day such as "04:00"'),
        ("reset.at = '24:00'", 'reset.at is "24:00", but has to be a time of day such as "04:00"'),
        ("instructions.files = 'A'", 'instructions.files is "A", but has to be a list of texts'),
        ("instructions.files = [1.5]", "instructions.files is [1.5], but has to be a list of texts"),
        ("model.name = {a = 1}", "model.name is a table, but has to be a text"),
        ("turn = 3", "turn is 3, but has to be a section, [turn]"),
        ("mcp.a = 'x'", 'mcp.a is "x", but has to be a section, [mcp.a]'),
        ("model.base_url = 'h:1'", 'model.base_url is "h:1", but has to be an http:// or https:// address, or empty'),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named_with_what_would(text: str, sentence: str) -> None:
    """One sentence: the key, what was given, what is expected."""
    assert problems(text) == [f"FILE, line 1: {sentence}"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("busy = 'queue'", "there is no setting busy; did you mean turn.busy?"),
        (
            "model.api_key = 'sk-planted'",
            "there is no setting model.api_key; did you mean model.api_key_env?",
        ),
        ("mcp.x.comand = 'y'", "there is no setting mcp.x.comand; did you mean mcp.x.command?"),
        ("reset.telegran.mode = 'idle'", "there is no setting reset.telegran; did you mean reset.telegram?"),
    ],
)
def test_an_unknown_key_names_the_one_that_was_meant(text: str, sentence: str) -> None:
    """A misspelt key is never ignored, and nothing that only follows from it is said."""
    assert problems(text) == [f"FILE, line 1: {sentence}"]


def test_a_contradiction_that_only_follows_from_another_mistake_is_not_said() -> None:
    """A server whose command is misspelt is not also said to have none."""
    assert problems("[mcp.x]\ncomand = 'y'\nargs = ['a']") == [
        "FILE, line 2: there is no setting mcp.x.comand; did you mean mcp.x.command?"
    ]


def test_a_pasted_secret_is_not_repeated() -> None:
    """Who puts the key where its name belongs does not find it in a log."""
    [line] = problems("model.api_key_env = 'sk-planted'")
    assert line.endswith("is not the name of a variable or secret (a secret itself belongs in secrets.toml)")
    assert "planted" not in line
    assert "planted" not in "".join(problems('[mcp.a]\ncommand = "c"\nenv = {T = ["planted"]}'))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("compaction.target = 0.8", "compaction.target (0.8) has to be below trigger (0.75)"),
        ("compaction.trigger = 0.25", "compaction.target (0.25) has to be below trigger (0.25)"),
        ("reset.timezone = 'Athens'", 'reset.timezone is "Athens", which is no time zone; did you mean Europe/Athens?'),
        ("reset.matrix.dm.timezone = '../x'", 'reset.matrix.dm.timezone is "../x", which is no time zone; it has to be a name such as Europe/Athens'),
        ("[mcp.x]", "mcp.x needs a command to start, or the url of a running server"),
        ("agents.mine.args = ['a']", "agents.mine needs a command to start"),
        ("mcp.x = {command = 'a', url = 'http://b'}", "mcp.x has both a command and a url; a server is one or the other"),
    ],
)  # fmt: skip
def test_settings_that_contradict_one_another_are_said(text: str, sentence: str) -> None:
    """What no single value shows is checked too, with the place of what was given."""
    assert problems(text) == [f"FILE, line 1: {sentence}"]


def test_a_contradiction_made_by_a_variable_blames_the_variable() -> None:
    """The place is where somebody can change it."""
    assert problems(CLEW__COMPACTION__TARGET="0.9") == [
        "CLEW__COMPACTION__TARGET: compaction.target (0.9) has to be below trigger (0.75)"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[turn]\nbusy queue",
            "FILE, line 2, column 6: this is not TOML: expected '=' after a key in a key/value pair",
        ),
        ("x = [1,", "FILE, end of document: this is not TOML: invalid value"),
    ],
)
def test_what_is_not_toml_is_said_with_line_and_column(text: str, line: str) -> None:
    """One sentence, and nothing else is guessed from the rest of the file."""
    assert problems(text, CLEW__TURN__BUSY="wrong") == [line]


def test_a_missing_file_is_no_problem_but_an_unreadable_one_is(tmp_path: Path) -> None:
    """No configuration is fine; one that cannot be read is never taken for none."""
    home = Home(tmp_path)
    assert load(home, {}).settings == Settings()
    home.config.write_bytes(b'[model]\nname = "\xff"')
    with pytest.raises(SettingsError, match=r"config.toml, line 2: this is not UTF-8 text"):
        load(home, {})
    home.config.unlink()
    home.config.mkdir()
    with pytest.raises(SettingsError, match=r"config.toml: the file cannot be read \(Is a directory\)"):
        load(home, {})


KEYS = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)
FILLERS = st.sampled_from(["", "\n", "# [no.table]\n# a = 1\n", "\n\n"])
VALUES = st.sampled_from(["1", "[\n  1,\n  2,\n]", '"""\n[x]\na = 1\n"""', "{ k = 1 }", "'''\n'''"])


@given(st.lists(st.tuples(FILLERS, st.sampled_from("stuvw"), KEYS, VALUES), unique_by=lambda block: block[1]))
def test_lines_are_found_whatever_stands_between(blocks: list[tuple[str, str, list[str], str]]) -> None:
    """The line of a key is where it was written, past comments and values of several lines that look like keys."""
    text, where = "", dict[SettingPath, int]()
    for filler, table, keys, value in blocks:
        text += filler
        where[table,] = text.count("\n") + 1
        text += f"[{table}]\n"
        for key in keys:
            where[table, key] = text.count("\n") + 1
            text += f"{key} = {value}\n"
    found = lines_of(text)
    assert {path: line for path, line in found.items() if path[-1] != "k"} == where


def test_a_section_written_in_pieces_stands_where_it_begins() -> None:
    """Dotted keys spell a section many times; the first is its place."""
    assert lines_of("a.x = 1\na.y = 2\n")["a",] == 1


def test_the_choices_of_a_setting_are_all_accepted() -> None:
    """Every choice a message offers is one that loads."""
    for path, leaf in BY_NAME.values():
        if get_origin(leaf.hint) is Literal:
            for choice in get_args(leaf.hint):
                assert in_force(reading(f"{dotted(path)} = '{choice}'"), dotted(path)) == choice
