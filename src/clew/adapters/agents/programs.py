"""The agents that are known, as data: how each is started, and how it is told which model to use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from clew.adapters.agents.errors import UnknownAgent

MODEL: Final = "{model}"
"""Stands for the model's name in arguments and environment; what names it is left out where no model was chosen."""


class AgentProgram(msgspec.Struct, frozen=True, kw_only=True):
    """A command that speaks the protocol over its standard input and output."""

    name: str
    command: str
    args: tuple[str, ...] = ()
    model_args: tuple[str, ...] = ()
    """More arguments where a model was chosen."""
    env: Mapping[str, str] = {}
    model_env: Mapping[str, str] = {}
    auth: str = ""
    """The method it is to authenticate by, if it does not by itself."""
    install: str = ""
    """How to get it."""
    context_window: int = 200_000

    def arguments(self, model: str) -> tuple[str, ...]:
        chosen = self.model_args if model else ()
        return (*self.args, *(argument.replace(MODEL, model) for argument in chosen))

    def environment(self, model: str) -> dict[str, str]:
        chosen = self.model_env if model else {}
        return {**self.env, **{name: value.replace(MODEL, model) for name, value in chosen.items()}}


# Options and variables: the programs' own help and source, gemini-cli 0.61, claude-agent-acp 0.100, codex-acp 0.16.
KNOWN_AGENTS: Final = (
    AgentProgram(
        name="gemini",
        command="gemini",
        args=("--acp",),
        model_args=("--model", MODEL),
        # Otherwise it starts itself a second time, and the first of the two outlives no signal properly.
        env={"GEMINI_CLI_NO_RELAUNCH": "true"},
        install="npm install -g @google/gemini-cli",
        context_window=1_000_000,
    ),
    AgentProgram(
        name="claude",
        command="claude-agent-acp",
        # Otherwise tools of MCP servers are not offered to the model.
        env={"ENABLE_TOOL_SEARCH": "false"},
        model_env={"ANTHROPIC_MODEL": MODEL},
        install="npm install -g @agentclientprotocol/claude-agent-acp",
    ),
    AgentProgram(
        name="codex",
        command="codex-acp",
        model_args=("-c", f'model="{MODEL}"'),
        install="npm install -g @zed-industries/codex-acp",
    ),
)


class AgentKey(NamedTuple):
    """What makes two uses of an agent the same process."""

    agent: str
    model: str
    cwd: Path


def known_program(name: str) -> AgentProgram | None:
    return next((known for known in KNOWN_AGENTS if known.name == name), None)


def find_program(name: str, own: Mapping[str, AgentProgram]) -> AgentProgram:
    """The agent of that name: one of the settings, or a known one. Raises UnknownAgent."""
    program = own.get(name) or known_program(name)
    if program is None:
        names = ", ".join(sorted({*own, *(known.name for known in KNOWN_AGENTS)}))
        raise UnknownAgent(
            f"There is no agent {name!r}: there is {names}, and what [agents.NAME] in config.toml names."
        )
    return program
