"""Private key files: created once with mode 0600, refused when anybody else could read them.

Both ends use this: a member's identity and TLS keys, and the operator's.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from policies.agreement import format_identity_key
from policies.closed_model import HEX_32_BYTES, read_bounded, shown_path
from policies.errors import SettingsRefused


def make_private_folder(path: Path) -> None:
    """Create a folder of mode 0700, or check one that is there.

    Raises:
        SettingsRefused: It cannot be made, or others have access to it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise SettingsRefused(
            f"{shown_path(path)}: cannot be made a folder ({problem.strerror}); choose another place."
        ) from None
    check_private(path)


def check_private(path: Path) -> None:
    """Refuse a key file or folder to which group or others have any access.

    Raises:
        SettingsRefused: Absent, or its mode is wider than 0600 (file) or 0700 (folder).
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        raise SettingsRefused(
            f"{shown_path(path)}: expected a private key or folder here, found nothing readable;"
            " create it with `tallystick node init` or `tallystick coordinator init`, or correct the path."
        ) from None
    allowed = 0o700 if stat.S_ISDIR(mode) else 0o600
    if stat.S_IMODE(mode) & 0o077:
        raise SettingsRefused(
            f"{shown_path(path)}: expected mode {allowed:04o}, found {stat.S_IMODE(mode):04o}, which lets other"
            f" users in; run chmod {allowed:04o} on it, and replace the key if somebody may have read it."
        )


def write_private(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600; an existing one is never overwritten.

    Raises:
        SettingsRefused: There is a file already, or it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        raise SettingsRefused(
            f"{shown_path(path)}: expected no file here, found one; keys are never overwritten, move it away first."
        ) from None
    except OSError as problem:
        raise SettingsRefused(
            f"{shown_path(path)}: cannot be written ({problem.strerror}); choose another folder."
        ) from None


def load_secret(path: Path, what: str, hint: str) -> bytes:
    """Read 32 bytes from a private file that holds them as 64 hexadecimal digits.

    Args:
        path: The file.
        what: What it should hold, in words.
        hint: How to come by one.

    Raises:
        SettingsRefused: Absent, readable by others, or something else.
    """
    if not path.exists():
        raise SettingsRefused(f"{shown_path(path)}: expected {what}, found nothing; {hint}.")
    check_private(path)
    text = read_bounded(path, SettingsRefused).strip().decode("ascii", errors="replace")
    if not re.fullmatch(HEX_32_BYTES, text):
        raise SettingsRefused(
            f"{shown_path(path)}: expected {what} as 64 hexadecimal digits, found something else; {hint}."
        )
    return bytes.fromhex(text)


def private_pem(key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> bytes:
    """The unencrypted PKCS #8 PEM of a key; its protection is the mode of the file."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def create_identity_key(path: Path) -> Ed25519PrivateKey:
    """Make a new Ed25519 identity key (RFC 8032) and write it to a new file of mode 0600.

    Raises:
        SettingsRefused: There is a file already.
    """
    key = Ed25519PrivateKey.generate()
    write_private(path, private_pem(key))
    return key


def load_identity_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 identity key.

    Raises:
        SettingsRefused: Absent, readable by others, or not an Ed25519 key.
    """
    key = _load(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsRefused(
            f"{shown_path(path)}: expected an Ed25519 identity key, found a key of another kind;"
            " is this the TLS key? Correct identity_key_path."
        )
    return key


def load_tls_key(path: Path) -> EllipticCurvePrivateKey:
    """Read an EC P-256 key for TLS.

    Raises:
        SettingsRefused: Absent, readable by others, or not a P-256 key.
    """
    key = _load(path)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise SettingsRefused(
            f"{shown_path(path)}: expected an EC P-256 key for TLS, found a key of another kind;"
            " correct the key_path under [tls]."
        )
    return key


def identity_key_text(key: Ed25519PublicKey) -> str:
    """The public key as the agreement writes it, `ed25519:<base64>`."""
    return format_identity_key(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


def _load(path: Path) -> PrivateKeyTypes:
    check_private(path)
    content = read_bounded(path, SettingsRefused)
    try:
        return load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingsRefused(
            f"{shown_path(path)}: expected an unencrypted private key in PEM, found something else;"
            " give the path of the key that `init` created."
        ) from None
