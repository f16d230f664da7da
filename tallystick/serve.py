"""`tallystick serve`: the scoring API of a released model."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import uvicorn

    from models.artefact import Model

app = typer.Typer(rich_markup_mode=None, add_completion=False)

MAX_CONCURRENT_REQUESTS = 512
KEEP_ALIVE_S = 5


@app.command(
    epilog="Example: tallystick serve --model runs/run-1 --port 8080, then "
    "curl -H 'Content-Type: application/json' -d '{\"features\": {\"age\": 45}}' http://127.0.0.1:8080/v1/scores"
)
def serve(
    model: Annotated[
        str,
        typer.Option(help="model.tallystick of a run, the folder of the run, or a registered name with --settings."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8080,
    settings: Annotated[
        Path | None, typer.Option(help="coordinator.toml: take the model from its registry, signatures checked.")
    ] = None,
    alias: Annotated[str, typer.Option(help="Alias in the registry.")] = "champion",
    version: Annotated[str | None, typer.Option(help="SHA-256 that the model file must have.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate chain, PEM; needs --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key of the certificate, PEM.")] = None,
) -> None:
    """Serve `POST /v1/scores` and `GET /healthz` until Ctrl-C; the API description is at /v1/openapi.json."""
    import uvicorn

    from coordinator.api.app import create_app

    if (certificate is None) != (key is None):
        raise typer.BadParameter("--certificate and --key go together")
    for name, path in (("--certificate", certificate), ("--key", key)):
        if path is not None and not path.is_file():
            raise typer.BadParameter(f"{name}: expected a PEM file, found none at {path}")

    def load() -> Model:
        from coordinator.api.model_source import model_from_path

        return model_from_path(Path(model), version) if settings is None else _registered(settings, model, alias)

    config = uvicorn.Config(
        create_app(load),
        host=host,
        port=port,
        log_level="info",
        server_header=False,
        limit_concurrency=MAX_CONCURRENT_REQUESTS,
        timeout_keep_alive=KEEP_ALIVE_S,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    check_tls(config)
    with listen(host, port) as listener:
        scheme = "http" if certificate is None else "https"
        shown_host = f"[{host}]" if ":" in host else host
        print(f"Serving on {scheme}://{shown_host}:{listener.getsockname()[1]} until Ctrl-C", flush=True)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has answered what was under way
            uvicorn.Server(config).run(sockets=[listener])


def check_tls(config: uvicorn.Config) -> None:
    """Load the certificate now, where a mistake can be told in one sentence.

    Raises:
        SettingsRefused: The files are not a certificate and its private key.
    """
    from policies.errors import SettingsRefused

    try:
        config.load()
    except (ssl.SSLError, OSError):
        raise SettingsRefused(
            f"Expected a PEM certificate and its own private key, found others in {config.ssl_certfile} and"
            f" {config.ssl_keyfile}; check both files."
        ) from None


def listen(host: str, port: int) -> socket.socket:
    """Bind the address.

    Raises:
        SettingsRefused: It is taken, or not an address of this machine.
    """
    from policies.closed_model import one_line
    from policies.errors import SettingsRefused

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "no host name"
        raise SettingsRefused(
            f"Expected to listen on {one_line(host)[:100]} port {port}, found: {reason}; choose another with --host"
            " or --port."
        ) from None


def _registered(settings_path: Path, name: str, alias: str) -> Model:
    """The model from the coordinator's registry, signed by enough members of its agreement."""
    from coordinator.api.model_source import model_from_registry
    from coordinator.registry import Registry
    from coordinator.settings import load_coordinator_settings
    from policies.agreement import load_agreement

    settings = load_coordinator_settings(settings_path)
    agreement = load_agreement(settings.agreement_path)
    return model_from_registry(
        Registry(settings.state_dir, settings.mlflow_tracking_uri),
        name,
        alias,
        identity_keys={member.id: member.identity_key_bytes for member in agreement.members},
        min_signers=agreement.privacy.min_survivors - agreement.privacy.max_colluders,
    )
