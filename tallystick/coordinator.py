"""`tallystick coordinator`: set up and run the side that never sees a row, and admit members to it."""

from __future__ import annotations

import datetime as dt
import socket
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from coordinator.certificates import (
    admit as admit_member,
)
from coordinator.certificates import (
    create_authority,
    create_client_certificate,
    create_server_certificate,
    load_authority,
    write_authority,
)
from coordinator.settings import check_coordinator_files, load_coordinator_settings
from coordinator.settings_template import coordinator_settings_toml
from policies.agreement import Agreement, MemberId, load_agreement
from policies.closed_model import read_bounded, shown, shown_path
from policies.errors import AgreementRefused, SettingsRefused
from policies.key_files import create_identity_key, identity_key_text, load_identity_key, make_private_folder
from policies.network_address import is_host
from policies.signatures import verify_signatures
from tallystick.supervisor import RESTART_OPTION, become_supervisor

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)
SettingsPath = Annotated[Path, typer.Option("--settings", help="The coordinator's settings.")]


@app.command()
def init(
    host: Annotated[
        list[str], typer.Option(help="Name or address at which members reach it; repeated.", show_default=False)
    ],
    folder: Annotated[Path, typer.Option(help="Where keys and settings go.")] = Path(),
    listen_host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104 - faces members
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8443,
    name: Annotated[str, typer.Option(help="Name of the consortium's authority.")] = "Tallystick consortium",
) -> None:
    """Make the operator's keys, the consortium's certificate authority and a commented coordinator.toml.

    Example: tallystick coordinator init --folder coordinator --host coordinator.example
    """
    for one in (*host, listen_host):
        if not is_host(one):
            raise typer.BadParameter(f"expected a host name or an IP address without a port, found {shown(one)}")
    keys, settings = folder / "keys", folder / "coordinator.toml"
    if settings.exists():
        raise SettingsRefused(
            f"{shown_path(settings)}: expected a folder without a coordinator, found one; choose another --folder."
        )
    for private in (keys, folder / "state"):
        make_private_folder(private)
    identity = create_identity_key(keys / "identity.pem")
    authority = create_authority(name, dt.datetime.now(dt.UTC))
    write_authority(authority, keys)
    create_server_certificate(authority, host, dt.datetime.now(dt.UTC), keys)
    (folder / "members").mkdir(exist_ok=True)
    settings.write_text(coordinator_settings_toml(listen_host=listen_host, fleet_port=port), encoding="utf-8")
    load_coordinator_settings(settings)
    print(f"wrote          {shown_path(settings)}")
    print(f"identity key   {identity_key_text(identity.public_key())}")
    print(f"Next: put this key into the agreement, and give every member {shown_path(keys / 'consortium-ca.crt')}.")


@app.command()
def admit(
    request: Annotated[Path, typer.Argument(help="A member's .csr file.", show_default=False)],
    settings: SettingsPath = Path("coordinator.toml"),
    authority_key: Annotated[
        Path | None, typer.Option(help="The authority's key; beside its certificate by default.", show_default=False)
    ] = None,
) -> None:
    """Issue a member's client certificate on the request that its `node init` wrote.

    Example: tallystick coordinator admit bank-a.csr --settings coordinator/coordinator.toml
    """
    coordinator_settings = load_coordinator_settings(settings)
    agreement = _signed_agreement(coordinator_settings.agreement_path)
    ca_path = coordinator_settings.tls.ca_certificate_path
    authority = load_authority(ca_path, authority_key or ca_path.with_suffix(".pem"))
    content = read_bounded(request, SettingsRefused)
    member_id, certificate = admit_member(authority, agreement, content, dt.datetime.now(dt.UTC))
    written = coordinator_settings.members_dir / f"{member_id}.crt"
    try:
        coordinator_settings.members_dir.mkdir(parents=True, exist_ok=True)
        written.write_bytes(certificate)
    except OSError as problem:
        raise SettingsRefused(
            f"{shown_path(written)}: cannot be written ({problem.strerror}); check members_dir."
        ) from None
    print(f"Admitted {member_id}: send it {shown_path(written)} and {shown_path(ca_path)}.")


@app.command()
def client(
    name: Annotated[str, typer.Argument(help="Its name, which the nodes' budgets count.", show_default=False)],
    settings: SettingsPath = Path("coordinator.toml"),
    out: Annotated[Path, typer.Option(help="Folder for its key and certificate, mode 0700.")] = Path("client"),
    authority_key: Annotated[
        Path | None, typer.Option(help="The authority's key; beside its certificate by default.", show_default=False)
    ] = None,
) -> None:
    """Make the key and certificate of a service that may ask the scoring gateway, and admit it.

    Example: tallystick coordinator client platform --settings coordinator/coordinator.toml --out platform
    """
    coordinator_settings = load_coordinator_settings(settings)
    if coordinator_settings.scoring is None:
        raise SettingsRefused(
            f"{shown_path(settings)}: expected a scoring table, found none; without it there is no gateway to ask."
        )
    try:
        TypeAdapter(MemberId).validate_python(name)
    except ValidationError:
        raise typer.BadParameter(
            f"expected a name of lower-case letters, digits and hyphens such as platform, found {shown(name)}"
        ) from None
    ca_path = coordinator_settings.tls.ca_certificate_path
    authority = load_authority(ca_path, authority_key or ca_path.with_suffix(".pem"))
    make_private_folder(out)
    create_client_certificate(authority, name, dt.datetime.now(dt.UTC), out)
    inbox = coordinator_settings.scoring.clients_dir
    try:
        inbox.mkdir(parents=True, exist_ok=True)
        (inbox / f"{name}.crt").write_bytes((out / f"{name}.crt").read_bytes())
    except OSError as problem:
        raise SettingsRefused(
            f"{shown_path(inbox)}: cannot be written to ({problem.strerror}); check clients_dir."
        ) from None
    print(f"Admitted {name}: give it {shown_path(out)} and {shown_path(ca_path)}.")


@app.command()
def run(
    settings: SettingsPath = Path("coordinator.toml"),
    fleet_port: Annotated[
        int | None,
        typer.Option(help="Listen here instead of on the settings' port.", min=0, max=65535, show_default=False),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option(
            RESTART_OPTION,
            help="Start the coordinator again when it is killed or crashes; a run goes on."
            " With fleet_port 0 a free port is chosen once and kept over restarts.",
        ),
    ] = False,
) -> None:
    """Run the coordinator until it is told to stop.

    Example: tallystick coordinator run --restart --settings coordinator/coordinator.toml
    """
    coordinator_settings = load_coordinator_settings(settings)
    if fleet_port is not None:
        coordinator_settings = coordinator_settings.model_copy(update={"fleet_port": fleet_port})
    if restart:
        kept_port = coordinator_settings.fleet_port or _free_port(coordinator_settings.listen_host)
        become_supervisor("--fleet-port", str(kept_port))
    check_coordinator_files(coordinator_settings)
    agreement = _signed_agreement(coordinator_settings.agreement_path)
    found = identity_key_text(load_identity_key(coordinator_settings.identity_key_path).public_key())
    if found != agreement.coordinator.identity_key:
        raise AgreementRefused(
            f"expected the coordinator's key {agreement.coordinator.identity_key} of the agreement, found {found};"
            " use the right identity_key_path, or have the agreement changed."
        )
    from coordinator.service import serve

    raise typer.Exit(serve(coordinator_settings, announce=_announce))


@app.command()
def migrate(
    settings: SettingsPath = Path("coordinator.toml"),
    database: Annotated[
        str | None, typer.Option(help="URL of the database instead of the settings' one.", show_default=False)
    ] = None,
) -> None:
    """Bring the decisions' database to the schema of this release; make a backup first.

    Example: tallystick coordinator migrate --settings coordinator/coordinator.toml
    """
    from coordinator.database.connection import parse_url, shown_url
    from coordinator.database.migrate import migrate as bring_up

    url = parse_url(database or load_coordinator_settings(settings).database_url)
    before, after = bring_up(url)
    where = shown_url(url)
    if before == after:
        print(f"{where} has schema {after} already.")
    else:
        print(f"{where}: schema {before or 'none'} -> {after}.")


def _signed_agreement(path: Path) -> Agreement:
    agreement = load_agreement(path)
    verify_signatures(agreement, path)
    return agreement


def _free_port(listen_host: str) -> int:
    """A port that is free now: members must find a restarted coordinator where it was."""
    family = socket.AF_INET6 if ":" in listen_host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((listen_host, 0))
        except OSError as problem:
            raise SettingsRefused(
                f"listen_host: {listen_host} cannot be listened on ({problem.strerror});"
                " use an address of this machine."
            ) from None
        return int(probe.getsockname()[1])


def _announce(line: str) -> None:
    print(line, flush=True)
