"""`tallystick api`: set up and run the financing API; its clients, their secrets, the keys that sign tokens."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policies.closed_model import shown_path
from policies.errors import SettingsRefused

if TYPE_CHECKING:
    from coordinator.identity.clients import ClientFolder, ClientSecret

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)

KEEP_ALIVE_S = 30
GRACE_S = 30
"""How long requests that were accepted may take to end after SIGTERM."""
_A_DAY_S = 86_400

Settings = Annotated[Path, typer.Argument(help="The api.toml.", show_default=False)]
Name = Annotated[str, typer.Argument(help="The client's name.", show_default=False)]
SecretFile = Annotated[
    Path | None,
    typer.Option(help="New file of mode 0600 for the secret; by default it is printed, once.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]


@app.callback()
def _api() -> None:
    """The financing API: decisions, offers, reviews, events, and the proofs of what was decided.

    Example: tallystick api run platform/api.toml
    """


@app.command()
def init(
    coordinator: Annotated[Path, typer.Option(help="The coordinator.toml.", show_default=False)],
    model: Annotated[Path, typer.Option(help="A released model, or the folder of its run.", show_default=False)],
    folder: Annotated[Path, typer.Option(help="Where keys and settings go.")] = Path(),
    url: Annotated[str, typer.Option(help="The API's own URL as clients reach it.")] = "http://127.0.0.1:8080",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8080,
) -> None:
    """Write a commented api.toml, the key of evidence, and the first key that signs tokens.

    Example: tallystick api init --folder platform --coordinator coordinator/coordinator.toml --model runs/run-1
    """
    from coordinator.api.settings import load_api_settings
    from coordinator.api.settings_template import api_settings_toml
    from coordinator.financing.evidence_key import create_evidence_key
    from coordinator.identity.signing_keys import SigningKeys
    from policies.key_files import make_private_folder

    settings = folder / "api.toml"
    if settings.exists():
        raise SettingsRefused(
            f"{shown_path(settings)}: expected a folder without an API, found one; choose another --folder."
        )
    make_private_folder(folder / "keys")
    create_evidence_key(folder / "keys" / "evidence.key")
    SigningKeys(folder / "clients").add()
    text = api_settings_toml(
        coordinator_settings_path=os.path.relpath(coordinator, folder),
        model_path=os.path.relpath(model, folder),
        issuer_url=url,
        port=port,
    )
    settings.write_text(text, encoding="utf-8")
    load_api_settings(settings)
    print(f"wrote          {shown_path(settings)}")
    print(f"Next: tallystick api client-add {shown_path(settings)} platform-app --tenant acme --role platform")


@app.command()
def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; what was accepted is answered before the end.

    Example: tallystick api run platform/api.toml
    """
    import uvicorn

    from coordinator.api.service import open_api
    from coordinator.api.settings import load_api_settings
    from tallystick.serve import check_tls, listen

    found = load_api_settings(settings)
    process = open_api(found)
    tls = found.tls
    config = uvicorn.Config(
        process.app,
        host=found.listen_host,
        port=found.port,
        log_level=found.log_level,
        access_log=False,  # the ledger says what was done; a line a request would cost a tenth of it
        server_header=False,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=None if tls is None else tls.certificate_path,
        ssl_keyfile=None if tls is None else tls.key_path,
    )
    check_tls(config)
    with listen(found.listen_host, found.port) as listener:
        scheme = "http" if tls is None else "https"
        host = f"[{found.listen_host}]" if ":" in found.listen_host else found.listen_host
        print(f"Serving on {scheme}://{host}:{listener.getsockname()[1]} until Ctrl-C", flush=True)
        # uvicorn answers what is under way, then raises the signal again: that is the good end.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


@app.command("client-add")
def client_add(
    settings: Settings,
    name: Name,
    tenant: Annotated[str, typer.Option(help="Whose records it works with.", show_default=False)],
    role: Annotated[str, typer.Option(help="platform, bank, regulator or operator.", show_default=False)],
    per_minute: Annotated[int, typer.Option(help="Requests a minute.", min=1, max=1_000_000)] = 6000,
    secret_file: SecretFile = None,
    as_json: AsJson = False,
) -> None:
    """Add a client and make its secret, which is kept nowhere but with the client.

    Example: tallystick api client-add platform/api.toml platform-app --tenant acme --role platform
    """
    from coordinator.identity.principal import ROLES

    known = next((one for one in ROLES if one == role), None)
    if known is None:
        raise typer.BadParameter(f"expected one of {', '.join(ROLES)}", param_hint="--role")
    _require_new(secret_file)
    secret = _clients(settings).add(name, tenant=tenant, role=known, requests_per_minute=per_minute)
    _hand_over(name, secret, secret_file, as_json=as_json)


@app.command("client-list")
def client_list(settings: Settings, as_json: AsJson = False) -> None:
    """Show the clients; no secret is among what is kept of them.

    Example: tallystick api client-list platform/api.toml
    """
    found = [
        {
            "client": one.id,
            "tenant": one.tenant,
            "role": one.role,
            "requests_per_minute": one.requests_per_minute,
            "secrets": len(one.secrets),
            "disabled": one.disabled,
        }
        for one in _clients(settings).current().values()
    ]
    if as_json:
        print(json.dumps(found))
        return
    for line in found:
        state = "  disabled" if line["disabled"] else ""
        print(f"{line['client']:<24} {line['role']:<10} {line['tenant']}{state}")
    if not found:
        print("No client yet: `tallystick api client-add` adds one.")


@app.command("client-rotate")
def client_rotate(
    settings: Settings,
    name: Name,
    overlap_s: Annotated[int, typer.Option(help="Seconds that the old secret still counts.", min=0)] = _A_DAY_S,
    secret_file: SecretFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a client another secret; the old one counts until the overlap has ended.

    Example: tallystick api client-rotate platform/api.toml platform-app --overlap-s 3600
    """
    _require_new(secret_file)
    _hand_over(name, _clients(settings).rotate(name, overlap_s=overlap_s), secret_file, as_json=as_json)


@app.command("client-disable")
def client_disable(
    settings: Settings,
    name: Name,
    enable: Annotated[bool, typer.Option("--enable", help="Let it in again.")] = False,
) -> None:
    """Let a client in no more, within a second, whatever tokens it has; or again.

    Example: tallystick api client-disable platform/api.toml platform-app
    """
    _clients(settings).set_disabled(name, disabled=not enable)
    print(f"{name} is {'let in again' if enable else 'let in no more'}")


@app.command("rotate-key")
def rotate_key(settings: Settings) -> None:
    """Make a new key that signs tokens: published now, signing in five minutes; the old one then ends by itself.

    Example: tallystick api rotate-key platform/api.toml
    """
    from coordinator.api.settings import load_api_settings
    from coordinator.identity.signing_keys import SigningKeys

    print(f"new key        {SigningKeys(load_api_settings(settings).identity_dir).add()}")


def _clients(settings: Path) -> ClientFolder:
    from coordinator.api.settings import load_api_settings
    from coordinator.identity.clients import ClientFolder

    return ClientFolder(load_api_settings(settings).identity_dir)


def _require_new(secret_file: Path | None) -> None:
    if secret_file is not None and secret_file.exists():
        raise SettingsRefused(
            f"{shown_path(secret_file)}: expected no file here, found one; secrets are never overwritten, move it away."
        )


def _hand_over(name: str, secret: ClientSecret, secret_file: Path | None, *, as_json: bool) -> None:
    """The one time that a secret is seen."""
    from policies.key_files import write_private

    if secret_file is not None:
        write_private(secret_file, secret.text().encode() + b"\n")
    shown = {} if secret_file is not None else {"client_secret": secret.text()}
    if as_json:
        print(json.dumps({"client_id": name, **shown} | ({"secret_file": str(secret_file)} if secret_file else {})))
        return
    print(f"client         {name}")
    print(f"secret         {shown.get('client_secret') or shown_path(secret_file or Path())}")
    print("Next: give it to the client; it is kept nowhere else.")
