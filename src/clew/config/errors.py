"""What can be wrong with the configuration.

ConfigError
├── HomeError        CLEW_HOME cannot be used: the sentence says why and what to do
├── SettingsError    settings are wrong: every problem at once, each with its place
├── SecretsError     secrets.toml cannot be used, or may be read by somebody else
└── Misfit           one key or value does not fit; becomes a Problem before it leaves this package
"""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with one setting. `place` is a file and line, or a variable of the environment."""

    sentence: str
    path: tuple[str, ...] = ()
    place: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.sentence}" if self.place else self.sentence


class ConfigError(Exception):
    """The configuration cannot be used."""


class HomeError(ConfigError):
    """The home directory cannot be used."""


class SettingsError(ConfigError):
    """Some settings are wrong; `problems` holds all of them, and the message has one line for each."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class SecretsError(ConfigError):
    """The secrets cannot be used. The sentence never holds one."""


class Misfit(ConfigError):
    """One key names no setting, or one value does not fit its setting. The message is a sentence."""
