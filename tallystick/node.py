"""`tallystick node`: set up, run and look at one member's node."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from nodes.identity import certificate_request, create_or_load_identity
from nodes.readiness import certificate_valid_until, readiness, require_ready
from nodes.settings import load_node_settings
from nodes.settings_template import node_policy_toml, node_settings_toml, scoring_policy_toml, source_toml
from policies.agreement import MemberId, agreement_hash, load_agreement
from policies.closed_model import shown, shown_path
from policies.errors import SettingsRefused, UserError
from policies.key_files import identity_key_text, load_identity_key, make_private_folder
from policies.network_address import split_address
from tallystick.supervisor import RESTART_OPTION, become_supervisor

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)
SettingsPath = Annotated[Path, typer.Option("--settings", help="The node's settings.")]


class SourceKind(StrEnum):
    """Where a member's rows come from."""

    CSV = "csv"
    PARQUET = "parquet"
    SQL = "sql"


@app.command()
def init(
    member: Annotated[str, typer.Option(help="This node's id in the agreement.", show_default=False)],
    folder: Annotated[Path, typer.Option(help="Where keys and settings go.")] = Path(),
    coordinator: Annotated[str, typer.Option(help="host:port of the coordinator.")] = "coordinator.example:8443",
    agreement: Annotated[
        Path | None, typer.Option(help="The agreement, if it is there already.", show_default=False)
    ] = None,
    source: Annotated[SourceKind, typer.Option(help="Kind of data source.")] = SourceKind.CSV,
    path: Annotated[Path | None, typer.Option(help="The CSV or Parquet file.", show_default=False)] = None,
    url_env: Annotated[
        str, typer.Option(help="Environment variable with the database url.")
    ] = "TALLYSTICK_DATABASE_URL",
    query: Annotated[str, typer.Option(help="One SELECT, for sql.")] = "select * from loans",
) -> None:
    """Make a member's keys, its certificate request, and commented node.toml and policy.toml.

    Keys and files that are there already are kept.

    Example: tallystick node init --member bank-a --folder bank-a --coordinator coordinator.example:8443
    """
    _check_options(member, coordinator)
    terms = load_agreement(agreement) if agreement else None
    identity = create_or_load_identity(_made(folder) / "keys")
    make_private_folder(folder / "state")
    request = folder / f"{member}.csr"
    agreement_path = str(agreement.absolute()) if agreement else "agreement.toml"
    rows_path = str(path.absolute()) if path else f"rows.{source.value}"
    rows = source_toml(source.value, path=rows_path, url_env=url_env, query=query)
    settings = node_settings_toml(
        member_id=member, coordinator_address=coordinator, source=rows, agreement_path=agreement_path
    )
    _keep_or_write(request, certificate_request(identity, member).decode("ascii"))
    _keep_or_write(folder / "node.toml", settings)
    _keep_or_write(folder / "policy.toml", node_policy_toml(terms))
    _keep_or_write(folder / "scoring.toml", scoring_policy_toml(terms))
    load_node_settings(folder / "node.toml")
    print(f"identity key   {identity.public_text}")
    print("Next: send this key for the agreement, and the .csr file to the operator; then review policy.toml.")


@app.command()
def run(
    settings: SettingsPath = Path("node.toml"),
    restart: Annotated[
        bool,
        typer.Option(RESTART_OPTION, help="Start the node again when it is killed or crashes; a run goes on."),
    ] = False,
) -> None:
    """Run this node until it is told to stop: it dials out, and listens to nobody.

    Example: tallystick node run --restart --settings bank-a/node.toml
    """
    if restart:
        become_supervisor()
    node_settings = load_node_settings(settings)
    require_ready(node_settings, dt.datetime.now(dt.UTC))
    from nodes.service import serve

    raise typer.Exit(serve(node_settings, announce=_announce))


@app.command()
def status(
    settings: SettingsPath = Path("node.toml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")] = False,
) -> None:
    """Say whether this node could run, and what is missing; exit code 1 if it could not.

    Example: tallystick node status --settings bank-a/node.toml --json
    """
    node_settings = load_node_settings(settings)
    checks = readiness(node_settings, dt.datetime.now(dt.UTC))
    ready = all(check.problem is None for check in checks)
    facts = {
        "member": node_settings.member_id,
        "identity_key": _or_none(lambda: _identity_text(node_settings.identity_key_path)),
        "agreement_hash": _or_none(lambda: agreement_hash(load_agreement(node_settings.agreement_path)).hex()),
        "coordinator": node_settings.coordinator.address,
        "certificate_valid_until": _or_none(lambda: certificate_valid_until(node_settings).isoformat()),
    }
    if as_json:
        print(json.dumps(facts | {"ready": ready, "checks": {check.name: check.problem for check in checks}}))
    else:
        for name, fact in facts.items():
            print(f"{name.replace('_', ' '):24}{fact or '-'}")
        for check in checks:
            print(f"{check.name:24}{check.problem or 'ok'}")
    if not ready:
        raise SettingsRefused("expected a node that is ready to run, found the problems listed above; put them right.")


def _check_options(member: str, coordinator: str) -> None:
    try:
        TypeAdapter(MemberId).validate_python(member)
    except ValidationError:
        raise typer.BadParameter(
            f"--member: expected an id of lower-case letters, digits and hyphens such as bank-a, found {shown(member)}"
        ) from None
    try:
        split_address(coordinator)
    except ValueError as problem:
        raise typer.BadParameter(f"--coordinator: {problem}") from None


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise SettingsRefused(
            f"{shown_path(folder)}: cannot be made a folder ({problem.strerror}); choose another with --folder."
        ) from None
    return folder


def _keep_or_write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        print(f"kept           {shown_path(path)}")
    except OSError as problem:
        raise SettingsRefused(
            f"{shown_path(path)}: cannot be written ({problem.strerror}); check the folder's permissions."
        ) from None
    else:
        print(f"wrote          {shown_path(path)}")


def _identity_text(path: Path) -> str:
    return identity_key_text(load_identity_key(path).public_key())


def _or_none(fact: Callable[[], str]) -> str | None:
    try:
        return fact()
    except UserError:
        return None


def _announce(line: str) -> None:
    print(line, flush=True)
