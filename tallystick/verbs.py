"""The table of verbs, and a command group that imports a verb's module only when the verb is used.

`node run` must never load `coordinator`, and `--help` must not load torch; so nothing here imports a verb.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import click
import typer
from typer.core import TyperGroup


class VerbUnavailable(click.ClickException):
    """This installation lacks a verb, or a package that the verb needs."""

    exit_code = 2


@dataclass(frozen=True)
class Verb:
    """One verb: `module` exposes `app` (a typer application) or `command` (a function)."""

    module: str
    help: str


VERBS: dict[str, Verb] = {
    "demo": Verb("tallystick.demo", "Run a whole consortium on this machine, on real loans."),
    "agreement": Verb("tallystick.agreement", "Write, sign, check and show an agreement."),
    "coordinator": Verb("tallystick.coordinator", "Set up and run the coordinator, which never sees a row."),
    "node": Verb("tallystick.node", "Set up and run a member's node, where its rows stay."),
    "grant": Verb("tallystick.grant", "Let data of entities be used, and take that back."),
    "train": Verb("tallystick.train", "Propose a training run to the members."),
    "score": Verb("tallystick.score", "Score rows, or entities with all members."),
    "match": Verb("tallystick.match", "Match documents with what members know."),
    "policy": Verb("tallystick.policy", "Check, show and explain the lending policy."),
    "card": Verb("tallystick.card", "Show the card of a model."),
    "ledger": Verb("tallystick.ledger", "Verify, show and export the ledger, and prove what it says."),
    "api": Verb("tallystick.api", "Set up and run the financing API, and name its clients."),
    "serve": Verb("tallystick.serve", "Serve scores of a released model over HTTP."),
    "simulate": Verb("tallystick.simulate", "Run the protocol with all members in one process."),
    "bench": Verb("tallystick.bench", "Measure, and write the figures as JSON."),
}


class VerbGroup(TyperGroup):
    """Lists verbs from the table, and imports the module of the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The verbs, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """A stand-in with the verb's help line: enough to list it."""
        verb = VERBS.get(cmd_name)
        return None if verb is None else click.Command(cmd_name, help=verb.help)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb itself, imported now."""
        if args and args[0] in VERBS:
            return args[0], load_verb(args[0]), args[1:]
        return super().resolve_command(ctx, args)


def load_verb(name: str) -> click.Command:
    """Import a verb's module and build its command.

    Raises:
        VerbUnavailable: This installation lacks the verb, or a package that it needs.
    """
    verb = VERBS[name]
    try:
        module = importlib.import_module(verb.module)
    except ModuleNotFoundError as problem:
        if problem.name == verb.module:
            raise VerbUnavailable(
                f"The verb '{name}' is not part of this installation; install a version that has it."
            ) from None
        raise VerbUnavailable(
            f"The verb '{name}' needs the Python package '{problem.name}', which is not installed; install Tallystick"
            " again with all its dependencies."
        ) from None
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(help=module.command.__doc__ or verb.help)(module.command)
    command = typer.main.get_command(app)
    command.name = name
    if not command.help:
        command.help = verb.help
    return command
