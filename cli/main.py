"""Entry point: finds the group, prints errors without a traceback, sets the exit code."""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback

import click

import conch
from cli.output import echo
from conch import log, loopback
from conch.errors import ConchError

# name -> (module:attribute, short help). Loaded lazily: torch must not load for `conch control`.
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": (
        "cli.doctor:doctor",
        "Show what is here, what is missing, and how to mend it.",
    ),
    "demo": ("cli.demo:demo", "The main job, end to end, on this machine."),
    "export": ("cli.export:export", "Optimize, verify and publish a model."),
    "repo": ("cli.repo:repo", "Look into a model repository; undo a change."),
    "serve": ("cli.serve:serve", "Run a local Triton on a model repository."),
    "control": ("cli.control:control", "Keep Triton tuned to its load."),
    "perf": ("cli.perf:perf", "Measure: perf_analyzer, open-loop replay, benchmarks."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of a first day's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command table, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(conch.__version__, prog_name="conch")
@click.option("-v", "--verbose", count=True, help="More log lines; -vv for all of them.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def root(ctx: click.Context, verbose: int, debug: bool) -> None:
    """Shrink a PyTorch model, serve it with Triton, keep Triton tuned to its load.

    \b
    Example:
      conch doctor
      conch demo
    """
    ctx.obj = {"debug": debug}
    log.configure(2 if debug else verbose)


def main() -> None:
    """Run the command line; never returns."""
    code: object = None
    # For whatever this process and its children ask on this machine, whichever library they use.
    os.environ.update(loopback.no_proxy_environment(os.environ))
    try:
        code = root.main(standalone_mode=False, prog_name="conch")  # an Exit's code is returned
    except click.ClickException as error:
        page = io.StringIO()
        error.show(page)
        echo(page.getvalue(), err=True, nl=False)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        echo("Interrupted.", err=True)
        sys.exit(130)
    except ConchError as error:
        if "--debug" in sys.argv:
            echo(traceback.format_exc(), err=True, nl=False)
            sys.exit(error.exit_code)
        echo(f"Error: {error.message}", err=True)
        if error.hint:
            echo(f"  {error.hint}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if "--debug" in sys.argv:
            echo(traceback.format_exc(), err=True, nl=False)
            sys.exit(1)
        kind = type(error).__name__
        echo(f"Error: unexpected {kind}: {error}", err=True)
        echo(
            "  Run it again with --debug for the traceback, and file an issue.",
            err=True,
        )
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
