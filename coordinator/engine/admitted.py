"""Which members may connect, by the public key of the certificate the operator admitted for each."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from policies.errors import UserError

logger = logging.getLogger(__name__)


class CertificateRefused(UserError):
    """A certificate file that cannot admit a member."""


def public_key_pem(certificate: x509.Certificate) -> bytes:
    """Public key of a certificate as PEM SubjectPublicKeyInfo, the form Flower registers.

    Raises:
        CertificateRefused: The key is not an elliptic curve key.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateRefused(
            f"A member's certificate must carry an EC P-256 key, found {type(key).__name__}; "
            "make the node's key and certificate with `tallystick node init`."
        )
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate.

    Raises:
        CertificateRefused: The file is missing or is not a PEM certificate.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateRefused(f"Expected a PEM certificate in {path}, could not read one: {error}.") from error


class Admitted:
    """The folder of `<member>.crt` files, read again when it changes, so that admitting needs no restart.

    A connection is a member's if its certificate carries the very key of that member's file: a renewed certificate
    with the same key stays admitted, another member's or a new key is not.

    Args:
        members_dir: Folder of PEM certificates, one for each member, named by member id.
        on_change: Called with (added members and their keys, removed members) after each change, and once at the
            first reading.
    """

    def __init__(self, members_dir: Path, on_change: Callable[[dict[str, bytes], frozenset[str]], None]) -> None:
        self._members_dir = members_dir
        self._on_change = on_change
        self._lock = threading.Lock()
        self._stamp: tuple[tuple[str, int, int], ...] | None = None
        self._key_of: dict[str, bytes] = {}

    def refresh(self) -> None:
        """Read the folder again if it has changed."""
        with self._lock:
            stamp = self._read_stamp()
            if stamp == self._stamp:
                return
            keys = self._read_keys([name for name, _, _ in stamp])
            added = {member: key for member, key in keys.items() if self._key_of.get(member) != key}
            removed = frozenset(member for member, key in self._key_of.items() if keys.get(member) != key)
            self._stamp, self._key_of = stamp, keys
            self._on_change(added, removed)

    def members(self) -> frozenset[str]:
        """Ids of the admitted members."""
        self.refresh()
        return frozenset(self._key_of)

    def member_of(self, public_key: bytes) -> str | None:
        """Whose key this is, or None if nobody's.

        Args:
            public_key: PEM SubjectPublicKeyInfo.
        """
        self.refresh()
        return next((member for member, key in self._key_of.items() if key == public_key), None)

    def _read_stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Name, size and time of change of each certificate file; a new stamp means a changed folder."""
        stamp: list[tuple[str, int, int]] = []
        for path in sorted(self._members_dir.glob("*.crt")):
            with suppress(FileNotFoundError):  # removed since it was listed
                status = path.stat()
                stamp.append((path.name, status.st_size, status.st_mtime_ns))
        return tuple(stamp)

    def _read_keys(self, names: list[str]) -> dict[str, bytes]:
        keys: dict[str, bytes] = {}
        for name in names:
            try:
                key = public_key_pem(read_certificate(self._members_dir / name))
            except CertificateRefused as refused:
                # One bad file must not shut out the other members of a running consortium.
                logger.warning("%s is not admitted: %s", name, refused)
                continue
            if key in keys.values():
                logger.warning("%s is not admitted: another member's file carries the same key", name)
                continue
            keys[name.removesuffix(".crt")] = key
        return keys
