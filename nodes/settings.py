"""Settings of one node, `node.toml`: frozen, closed, and without a password in them.

```toml
format = "tallystick-node/1"
member_id = "bank-a"
agreement_path = "agreement.toml"      # relative paths are meant from the folder of this file
policy_path = "policy.toml"
state_dir = "state"
identity_key_path = "keys/identity.pem"

[coordinator]
address = "coordinator.example:8443"
ca_certificate_path = "consortium-ca.crt"

[tls]
certificate_path = "keys/bank-a.crt"
key_path = "keys/tls.pem"

[source]
kind = "sql"
url_env = "BANK_A_DATABASE_URL"        # or url_file, or url (which must not hold a password)
query = "select * from loans"

[consent]                              # needed by `consent = "grants"` in policy.toml
grants_dir = "grants"
revocations_dir = "revocations"
token_key_path = "keys/token.key"
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from policies.agreement import MemberId
from policies.closed_model import VARIABLE, ClosedModel, ResolvedPath, parse_model, parse_toml, read_bounded, shown_path
from policies.errors import SettingsRefused
from policies.key_files import check_private, load_identity_key, load_tls_key
from policies.network_address import split_address, url_holds_password

_HINT = "`tallystick node init` writes a complete example"
_MAX_URL_CHARACTERS = 4096


class CoordinatorAddress(ClosedModel):
    """Where the coordinator listens, and who vouches for it."""

    address: Annotated[str, Field(max_length=300)]
    """host:port; IPv6 as [::1]:8443."""
    ca_certificate_path: ResolvedPath

    @field_validator("address")
    @classmethod
    def _address_is_host_and_port(cls, value: str) -> str:
        split_address(value)
        return value


class NodeTls(ClosedModel):
    """This node's client certificate and its EC P-256 key."""

    certificate_path: ResolvedPath
    key_path: ResolvedPath


class CsvSource(ClosedModel):
    """Rows in a CSV file with a header line."""

    kind: Literal["csv"]
    path: ResolvedPath


class ParquetSource(ClosedModel):
    """Rows in a Parquet file."""

    kind: Literal["parquet"]
    path: ResolvedPath


@dataclass(frozen=True)
class OpenedSqlSource:
    """An SQL source whose URL is at hand; neither `repr` nor `str` shows it."""

    url: SecretStr
    query: str = field(repr=False)
    kind: Literal["sql"] = "sql"


class SqlSource(ClosedModel):
    """Rows of one SELECT; the URL stands in exactly one of three places."""

    kind: Literal["sql"]
    query: Annotated[str, Field(min_length=1, max_length=65536)]
    url: Annotated[SecretStr, Field(max_length=_MAX_URL_CHARACTERS)] | None = None
    """SQLAlchemy URL without a password."""
    url_env: Annotated[str, Field(pattern=VARIABLE)] | None = None
    """Environment variable that holds the URL."""
    url_file: ResolvedPath | None = None
    """File of mode 0600 that holds the URL on its first line."""

    @model_validator(mode="after")
    def _url_stands_in_one_place(self) -> Self:
        num_places = sum(place is not None for place in (self.url, self.url_env, self.url_file))
        if num_places != 1:
            raise ValueError(f"expected exactly one of url, url_env and url_file, found {num_places}; keep one")
        if self.url is not None and url_holds_password(self.url.get_secret_value()):
            raise ValueError(
                "expected a url without a password, found one with it;"
                " move the url into an environment variable (url_env) or a file of mode 0600 (url_file)"
            )
        return self

    def opened(self, environ: Mapping[str, str]) -> OpenedSqlSource:
        """Fetch the URL from where it stands.

        Args:
            environ: The process environment.

        Raises:
            SettingsRefused: The variable is not set, or the file is absent, empty or readable by others.
        """
        if self.url is not None:
            return OpenedSqlSource(self.url, self.query)
        if self.url_env is not None:
            url, place = environ.get(self.url_env, ""), f"environment variable {self.url_env}"
        else:
            path = self.url_file or Path()
            check_private(path)
            content = read_bounded(path, SettingsRefused).decode("utf-8", errors="replace")
            url, place = content.partition("\n")[0].strip(), f"first line of {shown_path(path)}"
        if not 0 < len(url) <= _MAX_URL_CHARACTERS or not url.isprintable():
            raise SettingsRefused(
                f"source: expected a database url in the {place}, found nothing usable; put the url there."
            )
        return OpenedSqlSource(SecretStr(url), self.query)


class ScoringPlace(ClosedModel):
    """Where this node answers scores, and under which rules; without this table it answers none."""

    gateway: Annotated[str, Field(min_length=3, max_length=260)]
    """`host:port` of the coordinator's scoring gateway."""
    policy_path: ResolvedPath
    """`scoring.toml`, the owner's rules."""
    tables_dir: ResolvedPath
    """`<task>.<model version>.npz`: this member's partial scores, one file for each model version it serves."""
    token_key_path: ResolvedPath | None = None
    """The members' token key; that of the consent table by default."""


class ConsentPlace(ClosedModel):
    """Where the signed consent of entities lies."""

    grants_dir: ResolvedPath
    """`*.grant`, as `tallystick grant issue` writes them."""
    revocations_dir: ResolvedPath
    """`*.revocations`, as `tallystick grant revoke` writes them; lists that the scoring gateway pushed count too."""
    token_key_path: ResolvedPath
    """The key that members and issuers share, mode 0600."""


class EvidencePlace(ClosedModel):
    """Where this node's books say what became of orders and invoices; without this table it says nothing of them."""

    source: Annotated[CsvSource | ParquetSource | SqlSource, Field(discriminator="kind")]
    """Columns seller_tax_id, buyer_tax_id, number, date, amount, currency, and any of paid_amount (a number), shipped,
    delivered, pledged (0 or 1)."""
    amount_tolerance_percent: Annotated[float, Field(ge=0, le=50)] = 2.0
    """How far what was paid may be from a document's amount."""
    refresh_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """How often the source is read again."""

    def opened_source(self, environ: Mapping[str, str]) -> CsvSource | ParquetSource | OpenedSqlSource:
        """The source with its URL fetched; see `NodeSettings.opened_source`."""
        return self.source.opened(environ) if isinstance(self.source, SqlSource) else self.source


class NodeSettings(ClosedModel):
    """Everything that one node process is told at its start."""

    format: Literal["tallystick-node/1"]
    member_id: MemberId
    agreement_path: ResolvedPath
    policy_path: ResolvedPath
    state_dir: ResolvedPath
    identity_key_path: ResolvedPath
    coordinator: CoordinatorAddress
    tls: NodeTls
    source: Annotated[CsvSource | ParquetSource | SqlSource, Field(discriminator="kind")]
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    scoring: ScoringPlace | None = None
    consent: ConsentPlace | None = None
    evidence: EvidencePlace | None = None

    @property
    def token_key_path(self) -> Path | None:
        """The members' token key, if the settings say where it is."""
        if self.scoring is not None and self.scoring.token_key_path is not None:
            return self.scoring.token_key_path
        return None if self.consent is None else self.consent.token_key_path

    def opened_source(self, environ: Mapping[str, str]) -> CsvSource | ParquetSource | OpenedSqlSource:
        """The data source with its URL fetched, as `nodes.sources.load_rows` takes it.

        Args:
            environ: The process environment.

        Raises:
            SettingsRefused: The URL of an SQL source is not where the settings say.
        """
        return self.source.opened(environ) if isinstance(self.source, SqlSource) else self.source


def load_node_settings(path: Path) -> NodeSettings:
    """Read a node's settings; relative paths are resolved against the folder of the file.

    Raises:
        SettingsRefused: One sentence about the first problem.
    """
    data = parse_toml(read_bounded(path, SettingsRefused), path, SettingsRefused)
    base = path.absolute().parent
    return parse_model(NodeSettings, data, shown_path(path), SettingsRefused, _HINT, base=base)


def check_node_files(settings: NodeSettings) -> None:
    """Check what must be in place before a node may start: private keys that only this user can read, certificates.

    Raises:
        SettingsRefused: The first file that is absent, of the wrong kind, or open to other users.
    """
    load_identity_key(settings.identity_key_path)
    load_tls_key(settings.tls.key_path)
    if settings.state_dir.exists():
        check_private(settings.state_dir)
    for name, certificate in (
        ("tls.certificate_path", settings.tls.certificate_path),
        ("coordinator.ca_certificate_path", settings.coordinator.ca_certificate_path),
    ):
        if not certificate.is_file():
            raise SettingsRefused(
                f"{name}: expected a certificate at {shown_path(certificate)}, found nothing; put there what the"
                " operator returned for this node's request (`tallystick coordinator admit`)."
            )
