"""Settings of the coordinator, `coordinator.toml`: frozen, closed, and without a password in them.

```toml
format = "tallystick-coordinator/1"
agreement_path = "agreement.toml"      # relative paths are meant from the folder of this file
state_dir = "state"
identity_key_path = "keys/identity.pem"
listen_host = "0.0.0.0"
fleet_port = 8443                      # 0: any free port
members_dir = "members"                # <member>.crt, as `tallystick coordinator admit` writes them

[tls]
certificate_path = "keys/server.crt"
key_path = "keys/server.pem"
ca_certificate_path = "keys/consortium-ca.crt"
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from policies.closed_model import ClosedModel, ResolvedPath, parse_model, parse_toml, read_bounded, shown_path
from policies.errors import SettingsRefused
from policies.key_files import check_private, load_identity_key, load_tls_key
from policies.network_address import is_host, url_holds_password

_HINT = "`tallystick coordinator init` writes a complete example"


class CoordinatorTls(ClosedModel):
    """The server certificate, its EC P-256 key, and the consortium's authority that vouches for members."""

    certificate_path: ResolvedPath
    key_path: ResolvedPath
    ca_certificate_path: ResolvedPath


class ScoringTerms(ClosedModel):
    """Where the scoring gateway listens and who may ask; without this table the coordinator serves no scores."""

    port: Annotated[int, Field(ge=0, le=65535)]
    """Port for the nodes' scoring streams and the clients; 0 takes any free one."""
    clients_dir: ResolvedPath
    """Folder of `<client>.crt`: who may ask; the name is the requester that the nodes' budgets count."""
    window_s: Annotated[int, Field(ge=60)] = 86_400
    """Length of the answer window, as in the nodes' scoring policies."""
    match_window_s: Annotated[int, Field(ge=60)] = 900
    """The same for documents (three-way match)."""
    revocations_dir: ResolvedPath | None = None
    """Folder of `*.revocations`: what is put there is pushed to every node; `revocations` in `state_dir` by default."""


class CoordinatorSettings(ClosedModel):
    """Everything that the coordinator process is told at its start."""

    format: Literal["tallystick-coordinator/1"]
    agreement_path: ResolvedPath
    state_dir: ResolvedPath
    identity_key_path: ResolvedPath
    listen_host: Annotated[str, Field(max_length=253)]
    """Address of the one listener that faces the members."""
    fleet_port: Annotated[int, Field(ge=0, le=65535)]
    """Its port; 0 takes any free one."""
    stream_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the nodes' streams, which they learn from the fleet port; 0 takes any free one. Fix it where a firewall
    stands between."""
    tls: CoordinatorTls
    members_dir: ResolvedPath
    """Folder of `<member>.crt`, the client certificates of the members that were admitted."""
    step_deadline_s: Annotated[float, Field(gt=0, le=86400)] = 60.0
    """Time that members have to answer one step."""
    mlflow_tracking_uri: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Where MLflow keeps runs; an SQLite file in `state_dir` by default. MLflow reads passwords from its own
    environment variables."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    scoring: ScoringTerms | None = None
    decisions_database_url: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Where decisions and the ledger are kept: sqlite:///PATH or postgresql://USER@HOST/DATABASE; an SQLite file in
    `state_dir` by default. PostgreSQL's password comes from PGPASSWORD or PGPASSFILE."""

    @field_validator("listen_host")
    @classmethod
    def _host_is_one(cls, value: str) -> str:
        if not is_host(value):
            raise ValueError("expected an IP address or a host name without a port, found something else; correct it")
        return value

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _uri_holds_no_password(cls, value: str | None) -> str | None:
        if value is not None and url_holds_password(value):
            raise ValueError(
                "expected a uri without a password, found one with it;"
                " give MLflow its password in MLFLOW_TRACKING_PASSWORD"
            )
        return value

    @field_validator("decisions_database_url")
    @classmethod
    def _database_url_holds_no_password(cls, value: str | None) -> str | None:
        if value is not None and url_holds_password(value):
            raise ValueError(
                "expected a url without a password, found one with it; give PostgreSQL its password in PGPASSFILE"
            )
        return value

    @property
    def database_url(self) -> str:
        """The URL of the decisions' database, with the default filled in."""
        return self.decisions_database_url or f"sqlite:///{self.state_dir / 'decisions.sqlite'}"

    @property
    def tracking_uri(self) -> str:
        """The MLflow tracking URI, with the default filled in."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.state_dir / 'mlflow.sqlite'}"


def load_coordinator_settings(path: Path) -> CoordinatorSettings:
    """Read the coordinator's settings; relative paths are resolved against the folder of the file.

    Raises:
        SettingsRefused: One sentence about the first problem.
    """
    data = parse_toml(read_bounded(path, SettingsRefused), path, SettingsRefused)
    base = path.absolute().parent
    return parse_model(CoordinatorSettings, data, shown_path(path), SettingsRefused, _HINT, base=base)


def check_coordinator_files(settings: CoordinatorSettings) -> None:
    """Check what must be in place before the coordinator may start: keys only this user can read, certificates.

    Raises:
        SettingsRefused: The first file that is absent, of the wrong kind, or open to other users.
    """
    load_identity_key(settings.identity_key_path)
    load_tls_key(settings.tls.key_path)
    if settings.state_dir.exists():
        check_private(settings.state_dir)
    for name, certificate in (
        ("tls.certificate_path", settings.tls.certificate_path),
        ("tls.ca_certificate_path", settings.tls.ca_certificate_path),
    ):
        if not certificate.is_file():
            raise SettingsRefused(
                f"{name}: expected a certificate at {shown_path(certificate)}, found nothing;"
                " `tallystick coordinator init` makes one."
            )
