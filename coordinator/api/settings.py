"""Settings of the financing API, `api.toml`: frozen, closed, and without a password in them.

```toml
format = "tallystick-api/1"
coordinator_settings_path = "coordinator.toml"  # identity key, agreement, and the database of decisions
issuer_url = "https://api.platform.example"     # as clients reach it
identity_dir = "clients"
evidence_key_path = "keys/evidence.key"
model_path = "runs/run-1"
listen_host = "127.0.0.1"
port = 8080
```
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from policies.closed_model import ClosedModel, ResolvedPath, parse_model, parse_toml, read_bounded, shown_path
from policies.errors import SettingsRefused
from policies.network_address import is_host

_HINT = "`tallystick api init` writes a complete example"


class ApiTls(ClosedModel):
    """The server's certificate chain and its key, PEM."""

    certificate_path: ResolvedPath
    key_path: ResolvedPath


class ApiSettings(ClosedModel):
    """Everything that the API process is told at its start."""

    format: Literal["tallystick-api/1"]
    coordinator_settings_path: ResolvedPath
    """Whose ledger, database and identity key these are."""
    issuer_url: Annotated[str, Field(min_length=8, max_length=300)]
    """The API's own URL as clients reach it, without a slash at the end: issuer and audience of its tokens."""
    identity_dir: ResolvedPath
    """Folder of clients and of the keys that sign tokens, mode 0700."""
    evidence_key_path: ResolvedPath
    """Keys the fingerprints by which a document is found twice; the same for the database's life."""
    model_path: ResolvedPath
    """A released model, or the folder of its run."""
    horizon_months: Annotated[int, Field(ge=1, le=120)] = 12
    """Horizon of the model's task."""
    listen_host: Annotated[str, Field(max_length=253)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 takes any free one."""
    policy_dir: ResolvedPath | None = None
    """The lending policy's folder; the shipped one by default."""
    lists_dir: ResolvedPath | None = None
    """Screening lists; the shipped samples by default."""
    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Requests that may be under way; beyond, callers get 429."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    tls: ApiTls | None = None
    """Left out only behind a proxy on the same machine: without it the API listens on loopback addresses alone."""

    @field_validator("listen_host")
    @classmethod
    def _host_is_one(cls, value: str) -> str:
        if not is_host(value):
            raise ValueError("expected an IP address or a host name without a port, found something else; correct it")
        return value

    @field_validator("issuer_url")
    @classmethod
    def _issuer_is_a_url(cls, value: str) -> str:
        parts = urlsplit(value)
        local = parts.scheme == "http" and _is_loopback(parts.hostname or "")
        if not (parts.scheme == "https" or local) or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("expected an https URL (http on loopback alone), found something else; correct it")
        if value.endswith("/") or parts.username is not None:
            raise ValueError("expected a URL without a name and without a slash at its end, found one; remove it")
        return value

    @model_validator(mode="after")
    def _plain_only_on_loopback(self) -> Self:
        if self.tls is None and not _is_loopback(self.listen_host):
            raise ValueError(
                "expected [tls], or a loopback address in listen_host, found neither; tokens do not travel in plain"
            )
        return self


def load_api_settings(path: Path) -> ApiSettings:
    """Read the API's settings; relative paths are resolved against the folder of the file.

    Raises:
        SettingsRefused: One sentence about the first problem.
    """
    data = parse_toml(read_bounded(path, SettingsRefused), path, SettingsRefused)
    base = path.absolute().parent
    return parse_model(ApiSettings, data, shown_path(path), SettingsRefused, _HINT, base=base)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
