"""The agents that are known."""

from __future__ import annotations

from clew.adapters.agents.programs import KNOWN_AGENTS, AgentProgram
from clew.config.rules import KNOWN_AGENTS as NAMED


def test_the_settings_know_the_same_names() -> None:
    """An agent that is known needs no command in the settings, and any other does."""
    assert {program.name for program in KNOWN_AGENTS} == NAMED


def test_a_model_is_named_only_where_one_was_chosen() -> None:
    """Without a model the agent's own setting decides; nothing half-filled is passed."""
    program = AgentProgram(
        name="a", command="a", args=("--acp",), model_args=("-m", "{model}"), model_env={"MODEL": "{model}"}
    )
    assert (program.arguments(""), program.environment("")) == (("--acp",), {})
    assert program.arguments("x y") == ("--acp", "-m", "x y")
    assert program.environment("x y") == {"MODEL": "x y"}
