"""`clew stats`: what this Clew measured of itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Final

import click
import msgspec

from clew.surfaces.cli.host import Host
from clew.surfaces.cli.output import json_line

PHASES: Final = ("spawn", "bridge", "session_new", "first_tool", "generation")
COLOURS: Final = ("#c0392b", "#8e44ad", "#2980b9", "#f39c12", "#27ae60")
BAR_COLUMNS: Final = 40
_WIDTH, _ROW, _LEFT = 640, 34, 120


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the file, in milliseconds."""

    agent: str
    transport: str
    spawn: float = 0.0
    bridge: float = 0.0
    session_new: float = 0.0
    first_tool: float | None = None
    generation: float = 0.0

    @property
    def times(self) -> dict[str, float | None]:
        taken = (self.spawn, self.bridge, self.session_new, self.first_tool, self.generation)
        return dict(zip(PHASES, taken, strict=True))


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The prompts of one agent over one transport. Medians in milliseconds."""

    agent: str
    transport: str
    prompts: int
    medians: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.medians[phase] for phase in PHASES if phase != "first_tool")


@click.group()
def stats() -> None:
    """Show what was measured."""


@stats.command("cold-start")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Write a plot to this file.")
@click.pass_obj
def cold_start(host: Host, as_json: bool, svg: Path | None) -> None:
    """Where the time of turns with other agents went.

    Only turns whose model is another agent (acp:NAME) are measured.
    """
    groups = grouped(_read(host.home.logs / "cold-start.jsonl"))
    if as_json:
        click.echo(json_line(groups))
    elif not groups:
        click.echo("No turn with another agent was measured yet.")
    else:
        click.echo(table(groups))
    if svg is not None:
        svg.write_text(plot(groups), encoding="utf-8")


def _read(path: Path) -> list[Prompt]:
    """Every line that is one; the last may be half written."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found.append(msgspec.json.decode(line, type=Prompt))
        except msgspec.DecodeError:
            continue  # of another version, or cut by a crash
    return found


def grouped(prompts: Sequence[Prompt]) -> list[Group]:
    """By agent and transport, in their order."""
    groups = []
    for agent, transport in sorted({(prompt.agent, prompt.transport) for prompt in prompts}):
        own = [prompt for prompt in prompts if (prompt.agent, prompt.transport) == (agent, transport)]
        medians = {
            phase: median([taken for prompt in own if (taken := prompt.times[phase]) is not None] or [0.0])
            for phase in PHASES
        }
        groups.append(Group(agent=agent, transport=transport, prompts=len(own), medians=medians))
    return groups


def table(groups: Sequence[Group]) -> str:
    """Medians in milliseconds, and a bar of each group's phases."""
    head = f"{'agent':<12} {'transport':<9} {'prompts':>7}" + "".join(f" {phase:>12}" for phase in PHASES)
    rows = [
        f"{group.agent[:12]:<12} {group.transport:<9} {group.prompts:>7}"
        + "".join(f" {group.medians[phase]:>12.1f}" for phase in PHASES)
        for group in groups
    ]
    longest = max(group.total for group in groups) or 1.0
    bars = [
        f"{group.agent[:12]:<12} {group.transport:<9} "
        + "".join(
            mark * round(BAR_COLUMNS * group.medians[phase] / longest)
            for mark, phase in zip("█▓▒░", ("spawn", "bridge", "session_new", "generation"), strict=True)
        )
        for group in groups
    ]
    note = "Medians in ms; first_tool counts from the prompt, inside generation.   █ spawn ▓ bridge ▒ session_new ░ generation"
    return "\n".join([head, *rows, "", *bars, "", note])


def plot(groups: Sequence[Group]) -> str:
    """The bars as an SVG."""
    longest = max((group.total for group in groups), default=0.0) or 1.0
    height = _ROW * (len(groups) + 2)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + _LEFT + 100}" height="{height}" '
        'font-family="sans-serif" font-size="12">'
    ]
    for number, group in enumerate(groups):
        x, y = float(_LEFT), _ROW * number + 8
        label = escape(f"{group.agent} {group.transport}")
        drawn.append(f'<text x="4" y="{y + 15}">{label}</text>')
        for phase, colour in zip(PHASES, COLOURS, strict=True):
            width = 0.0 if phase == "first_tool" else _WIDTH * group.medians[phase] / longest
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="22" fill="{colour}">'
                f"<title>{phase} {group.medians[phase]:.1f} ms</title></rect>"
            )
            x += width
        drawn.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{group.total:.0f} ms</text>')
    y = _ROW * len(groups) + 12
    shown = [pair for pair in zip(PHASES, COLOURS, strict=True) if pair[0] != "first_tool"]
    for number, (phase, colour) in enumerate(shown):
        drawn.append(f'<rect x="{_LEFT + 120 * number}" y="{y}" width="12" height="12" fill="{colour}"/>')
        drawn.append(f'<text x="{_LEFT + 120 * number + 18}" y="{y + 11}">{phase}</text>')
    return "\n".join([*drawn, "</svg>\n"])
