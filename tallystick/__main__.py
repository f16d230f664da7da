"""The program `tallystick`: finds the verb, and turns every failure into one sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 usage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import click
import typer

from policies.closed_model import one_line
from policies.errors import UserError
from tallystick.crash_report import report_crash, report_crash_to_supervisor
from tallystick.supervisor import SUPERVISED
from tallystick.verbs import VerbGroup

_PRIVACY_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

app = typer.Typer(
    cls=VerbGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            number = version("tallystick")
        except PackageNotFoundError:  # run from a checkout that was not installed
            number = "0 (not installed)"
        print(f"tallystick {number}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Tallystick: one credit and fraud model across institutions that may not show each other a row.

    Example: tallystick demo --story horizontal
    """
    del show_version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; those of this process by default.

    Returns:
        The exit code: 0 done, 1 failed, 2 usage.
    """
    # Libraries read these at import, and would otherwise report to their makers.
    os.environ.update(_PRIVACY_ENVIRONMENT)
    sys.excepthook = report_crash_to_supervisor if SUPERVISED in os.environ else report_crash
    try:
        outcome = typer.main.get_command(app).main(
            args=None if arguments is None else list(arguments), prog_name="tallystick", standalone_mode=False
        )
    except (click.ClickException, click.Abort, UserError) as problem:
        return _report(problem)
    if outcome == 130:  # what typer makes of Ctrl-C
        return _fail("Stopped by Ctrl-C.", 1)
    return outcome if isinstance(outcome, int) else 0


def _report(problem: click.ClickException | click.Abort | UserError) -> int:
    match problem:
        case click.exceptions.NoArgsIsHelpError():
            problem.show()
            return 2
        case click.UsageError():
            where = problem.ctx.command_path if problem.ctx else "tallystick"
            return _fail(f"{problem.format_message().rstrip('.')}; see `{where} --help`.", 2)
        case click.ClickException():
            return _fail(problem.format_message(), problem.exit_code)
        case click.Abort():
            return _fail("Stopped before it was done.", 1)
        case _:
            return _fail(str(problem), 1)


def _fail(sentence: str, exit_code: int) -> int:
    sys.stderr.write(f"Error: {one_line(sentence)}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
