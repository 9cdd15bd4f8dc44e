"""`clew`: the command line. Each subcommand is a module of its own, imported when it is asked for."""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from typing import Final

import click

from clew.surfaces.cli.codes import Exit, code_of, sentence_of
from clew.surfaces.cli.host import Host

_COMMANDS: Final = {
    "acp": ("clew.surfaces.cli.acp", "acp"),
    "run": ("clew.surfaces.cli.run", "run"),
    "serve": ("clew.surfaces.cli.serve", "serve"),
    "pair": ("clew.surfaces.cli.pair", "pair"),
    "sessions": ("clew.surfaces.cli.sessions", "sessions"),
    "reminders": ("clew.surfaces.cli.reminders", "reminders"),
    "memory": ("clew.surfaces.cli.memory", "memory"),
    "db": ("clew.surfaces.cli.db", "db"),
    "model": ("clew.surfaces.cli.model", "model"),
    "stats": ("clew.surfaces.cli.stats", "stats"),
    "setup": ("clew.surfaces.cli.setup", "setup"),
    "config": ("clew.surfaces.cli.config", "config"),
    "doctor": ("clew.surfaces.cli.doctor", "doctor"),
}

_EPILOG: Final = """\b
Examples:
  clew                                     chat in this directory
  clew run "What is in this folder?"       one message, one answer
  clew run --continue "And the one above?"
  clew setup                               choose the model that answers

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused, 75 updated (start it again), 130 interrupted.
"""


class LazyGroup(click.Group):
    """Knows every subcommand by name, and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as unknown:
            if " " in unknown.command_name:
                raise click.UsageError(
                    "That is no command; to say something: clew run TEXT.", ctx=ctx
                ) from None
            raise click.exceptions.NoSuchCommand(
                unknown.command_name, possibilities=_COMMANDS, ctx=ctx
            ) from None


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.option("--session", "-s", "session", metavar="ID", help="Chat: go on with this session.")
@click.option("--continue", "-c", "go_on", is_flag=True, help="Chat: go on with the last session.")
@click.option("--resume", "-r", "pick", is_flag=True, help="Chat: pick the session to go on with.")
@click.version_option(package_name="clew", message="clew %(version)s")
@click.pass_context
def cli(ctx: click.Context, debug: bool, session: str | None, go_on: bool, pick: bool) -> None:
    """An agent that never loses the thread. Without a command: chat."""
    if ctx.invoked_subcommand is None:
        from clew.surfaces.cli.chat import chat  # noqa: PLC0415  prompt_toolkit and rich: 0.2 s

        ctx.exit(chat(ctx.obj, session, go_on, pick=pick, debug=debug))


def main(host: Host, arguments: list[str]) -> int:
    """Runs the command line. Every expected error is one sentence on standard error and an exit code."""
    prepare_streams()
    code = _main(host, arguments)
    return code if _all_printed() else code or Exit.FAILED


def _main(host: Host, arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        result = cli.main(args=arguments, prog_name="clew", standalone_mode=False, obj=host)
        return int(result) if isinstance(result, int) else Exit.DONE
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.Abort:
        return Exit.INTERRUPTED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as help_:
        help_.show()
        return Exit.USAGE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "clew"
        click.echo(f"clew: {error.format_message()} `{command} --help` says more.", err=True)
        return Exit.USAGE
    except click.ClickException as error:
        click.echo(f"clew: {error.format_message()}", err=True)
        return Exit.USAGE
    except BrokenPipeError:
        return Exit.FAILED  # whoever read our output is gone: nothing more can be said
    except Exception as error:  # noqa: BLE001 - the last supervisor: a person sees one sentence, --debug shows all
        if debug:
            traceback.print_exc()
        click.echo(f"clew: {sentence_of(error)}", err=True)
        return code_of(error)


def prepare_streams() -> None:
    """Closed standard streams are open on nothing, and no character is too odd to be printed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for the life of the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _all_printed() -> bool:
    """Whether standard output took everything. If not, what is left goes nowhere, and the interpreter says nothing more."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            click.echo(f"clew: standard output: {sentence_of(error)}", err=True)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return False
    return True
