"""The clients of the API: `clients.json` in a private folder; secrets are there as hashes alone.

A secret is 32 random bytes that we make: a plain salted SHA-256 of it cannot be guessed back, while a slow hash would
let anybody who sends wrong secrets use up the processor.
"""

from __future__ import annotations

import base64
import datetime as dt
import fcntl
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from coordinator.identity.principal import Role
from policies.closed_json import parse_json_object
from policies.closed_model import HEX_32_BYTES, ClosedModel, parse_model, read_bounded, shown_path
from policies.errors import SettingsRefused
from policies.grant_files import write_replacing
from policies.key_files import check_private, make_private_folder
from protos.sealed_sum.secret import SecretBytes

FILE_NAME: Final = "clients.json"
MAX_FILE_BYTES: Final = 4 << 20
LOOK_EVERY_S: Final = 0.5
"""A client that was disabled is refused after this at the latest."""
_HINT: Final = "`tallystick client add` writes it"

ClientId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,62}$")]
TenantId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,62}$")]


class ClientSecret(SecretBytes):
    """What a client proves itself with."""

    @classmethod
    def new(cls) -> ClientSecret:
        """A fresh one."""
        return cls(secrets.token_bytes(cls.LENGTH))

    @classmethod
    def read(cls, text: str) -> ClientSecret | None:
        """From its text; None when that is not the text of any secret."""
        try:
            raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
        except ValueError:
            return None
        return cls(raw) if len(raw) == cls.LENGTH else None

    def text(self) -> str:
        """43 characters; for the one time that it is shown or written."""
        return base64.urlsafe_b64encode(self.raw).decode().rstrip("=")


class SecretHash(ClosedModel):
    """One secret that a client may use."""

    salt: Annotated[str, Field(pattern=HEX_32_BYTES)]
    sha256: Annotated[str, Field(pattern=HEX_32_BYTES)]
    ends_s: Annotated[int, Field(ge=0)] | None = None
    """Unix seconds until when it counts; after a rotation the old one has an end."""

    @classmethod
    def of(cls, secret: ClientSecret) -> SecretHash:
        """Hash a secret under a new salt."""
        salt = secrets.token_bytes(32)
        return cls(salt=salt.hex(), sha256=_hash(salt, secret))

    def is_of(self, secret: ClientSecret, now_s: float) -> bool:
        """Whether it is this secret, and counts now; in constant time for every secret."""
        same = hmac.compare_digest(_hash(bytes.fromhex(self.salt), secret), self.sha256)
        return same and (self.ends_s is None or now_s < self.ends_s)


class Client(ClosedModel):
    """One client of the API."""

    id: ClientId
    tenant: TenantId
    role: Role
    secrets: Annotated[tuple[SecretHash, ...], Field(min_length=1, max_length=2)]
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)]
    disabled: bool = False


class _ClientsFile(ClosedModel):
    format: Literal["tallystick-clients/1"]
    clients: tuple[Client, ...] = ()


class ClientFolder:
    """Reads the clients, again when the file has changed, and changes them.

    Args:
        folder: Of mode 0700.
        now: Unix seconds.
        monotonic: Seconds that only grow.
    """

    def __init__(
        self,
        folder: Path,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._path = folder / FILE_NAME
        self._now = now
        self._monotonic = monotonic
        self._stamp: tuple[int, ...] = ()
        self._clients: Mapping[str, Client] = {}
        self._look_at = float("-inf")

    def current(self) -> Mapping[str, Client]:
        """The clients by id, at most `LOOK_EVERY_S` old.

        Raises:
            SettingsRefused: The file is not readable as one of clients; then nobody is let in.
        """
        if self._monotonic() >= self._look_at:
            stamp = self._look()
            if stamp != self._stamp:
                self._clients = self._read()
                self._stamp = stamp
            self._look_at = self._monotonic() + LOOK_EVERY_S
        return self._clients

    def is_secret_of(self, client_id: str, text: str) -> Client | None:
        """The client, if that is its secret now; wrong name and wrong secret take the same steps."""
        secret = ClientSecret.read(text) or _NO_SECRET
        client = self.current().get(client_id, _NOBODY)
        right = [one.is_of(secret, self._now()) for one in client.secrets]
        return client if any(right) and not client.disabled and client is not _NOBODY else None

    def add(self, client_id: str, *, tenant: str, role: Role, requests_per_minute: int) -> ClientSecret:
        """Add a client; its secret, which is kept nowhere.

        Raises:
            SettingsRefused: There is one of that name, or the folder cannot be written.
        """
        secret = ClientSecret.new()
        with self._changing() as clients:
            if client_id in clients:
                raise SettingsRefused(
                    f"Expected a new name for a client, found {client_id!r} among them; rotate its secret instead."
                )
            clients[client_id] = parse_model(
                Client,
                {
                    "id": client_id,
                    "tenant": tenant,
                    "role": role,
                    "secrets": (SecretHash.of(secret).model_dump(),),
                    "requests_per_minute": requests_per_minute,
                },
                "The client",
                SettingsRefused,
                "see `tallystick client add --help`",
            )
        return secret

    def rotate(self, client_id: str, *, overlap_s: int) -> ClientSecret:
        """Give a client another secret; the old one counts for `overlap_s` seconds more.

        Raises:
            SettingsRefused: There is no such client, or the folder cannot be written.
        """
        secret = ClientSecret.new()
        with self._changing() as clients:
            client = _known(clients, client_id)
            ends_s = int(self._now()) + overlap_s
            newest = client.secrets[0].model_copy(update={"ends_s": ends_s})
            clients[client_id] = client.model_copy(update={"secrets": (SecretHash.of(secret), newest)})
        return secret

    def set_disabled(self, client_id: str, *, disabled: bool) -> None:
        """Let a client in no more, or again.

        Raises:
            SettingsRefused: There is no such client, or the folder cannot be written.
        """
        with self._changing() as clients:
            clients[client_id] = _known(clients, client_id).model_copy(update={"disabled": disabled})

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Client]]:
        """The clients, to be changed; written when the block ends well, by one process at a time."""
        make_private_folder(self.folder)
        lock = os.open(self.folder / "clients.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            clients = dict(self._read())
            yield clients
            whole = _ClientsFile(
                format="tallystick-clients/1", clients=tuple(clients[name] for name in sorted(clients))
            )
            write_replacing(self._path, whole.model_dump_json(indent=1).encode() + b"\n")
        finally:
            os.close(lock)
        self._look_at = float("-inf")

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def _read(self) -> Mapping[str, Client]:
        if not self._path.exists():
            return {}
        check_private(self._path)
        content = read_bounded(self._path, SettingsRefused, MAX_FILE_BYTES)
        where = shown_path(self._path)
        file = parse_model(
            _ClientsFile, parse_json_object(content, where, SettingsRefused), where, SettingsRefused, _HINT
        )
        found = {client.id: client for client in file.clients}
        if len(found) != len(file.clients):
            raise SettingsRefused(f"{where}: expected every client once, found one twice; remove one of them.")
        return found


def _known(clients: Mapping[str, Client], client_id: str) -> Client:
    client = clients.get(client_id)
    if client is None:
        raise SettingsRefused(
            f"Expected the name of a client, found {client_id[:64]!r}, which is none; `tallystick client list` shows"
            " them."
        )
    return client


def _hash(salt: bytes, secret: ClientSecret) -> str:
    return hashlib.sha256(b"tallystick/client-secret/1\x00" + salt + secret.raw).hexdigest()


_NO_SECRET: Final = ClientSecret(bytes(ClientSecret.LENGTH))
_NOBODY: Final = Client(
    id="nobody",
    tenant="nobody",
    role="operator",
    secrets=(SecretHash.of(ClientSecret.new()),),
    requests_per_minute=1,
    disabled=True,
)


def utc(seconds: float) -> dt.datetime:
    """Unix seconds as a time that people read."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
