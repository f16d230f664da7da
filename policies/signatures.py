"""Signatures under an agreement: one file beside it, one entry a signer.

`agreement.toml` has its signatures in `agreement.signatures.json`: `{"bank-a": "<base64>", ..., "coordinator": ...}`.
Each is Ed25519 (RFC 8032) over a domain and the agreement's hash, so it can be taken for nothing else.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from policies.agreement import COORDINATOR, Agreement, agreement_hash
from policies.closed_model import one_line, read_bounded, shown_path
from policies.errors import AgreementRefused
from policies.key_files import identity_key_text

_DOMAIN = b"tallystick/v1/agreement"


@dataclass(frozen=True)
class SignatureReport:
    """Who signed an agreement, by name and in the order of the agreement; empty tuples mean that all is well."""

    valid: tuple[str, ...]
    missing: tuple[str, ...]
    wrong: tuple[str, ...]
    """Signers whose entry does not verify: damaged, or made for another version of the agreement."""
    foreign: tuple[str, ...]
    """Names in the file that the agreement does not know."""

    @property
    def complete(self) -> bool:
        """Whether all members and the coordinator signed, and nobody else did."""
        return not (self.missing or self.wrong or self.foreign)


def signatures_path(agreement_path: Path) -> Path:
    """`x/agreement.toml` -> `x/agreement.signatures.json`."""
    return agreement_path.with_name(f"{agreement_path.stem}.signatures.json")


def sign_agreement(agreement: Agreement, agreement_path: Path, signer: str, key: Ed25519PrivateKey) -> Path:
    """Add one signature to the file beside the agreement (replacing an earlier one of the same signer).

    Args:
        agreement: What is signed.
        agreement_path: Its file; only names the signature file.
        signer: A member's id, or "coordinator".
        key: The signer's identity key.

    Returns:
        The signature file.

    Raises:
        AgreementRefused: The key is not the one that the agreement states for the signer.
    """
    if key.public_key().public_bytes_raw() != _public_key(agreement, signer):
        raise AgreementRefused(
            f"expected the identity key that the agreement states for {signer!r}, found"
            f" {identity_key_text(key.public_key())}; give --key of that signer, or correct the agreement."
        )
    path = signatures_path(agreement_path)
    entries = dict(_read(path)) if path.exists() else {}
    entries[signer] = base64.b64encode(key.sign(_DOMAIN + agreement_hash(agreement))).decode("ascii")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        temporary.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as problem:
        raise AgreementRefused(
            f"{shown_path(path)}: cannot be written ({problem.strerror}); check the folder's permissions."
        ) from None
    return path


def signature_report(agreement: Agreement, agreement_path: Path) -> SignatureReport:
    """Compare the signature file with the agreement.

    Raises:
        AgreementRefused: There is a signature file, and it is unreadable.
    """
    path = signatures_path(agreement_path)
    entries = _read(path) if path.exists() else {}
    message = _DOMAIN + agreement_hash(agreement)
    signers = (*(member.id for member in agreement.members), COORDINATOR)
    valid = tuple(s for s in signers if s in entries and _verifies(agreement, s, entries[s], message))
    return SignatureReport(
        valid=valid,
        missing=tuple(signer for signer in signers if signer not in entries),
        wrong=tuple(signer for signer in signers if signer in entries and signer not in valid),
        foreign=tuple(sorted(one_line(name) for name in entries if name not in signers)),
    )


def verify_signatures(agreement: Agreement, agreement_path: Path) -> None:
    """Return if every member and the coordinator signed exactly this agreement.

    Raises:
        AgreementRefused: Names who has not signed, whose signature is wrong, and who is foreign.
    """
    report = signature_report(agreement, agreement_path)
    if report.complete:
        return
    problems = [
        f"{label} {', '.join(names[:10])}{' and others' if len(names) > 10 else ''}"
        for label, names in (
            ("no signature of", report.missing),
            ("a wrong signature of", report.wrong),
            ("a signature of the unknown", report.foreign),
        )
        if names
    ]
    advice = (
        "remove the entries of strangers"
        if report.foreign and not (report.missing or report.wrong)
        else ("have them run `tallystick agreement sign`")
    )
    raise AgreementRefused(
        f"{shown_path(signatures_path(agreement_path))}: expected valid signatures of all"
        f" {len(agreement.members)} members and the coordinator, found {'; '.join(problems)}; {advice}."
    )


def _public_key(agreement: Agreement, signer: str) -> bytes:
    if signer == COORDINATOR:
        return agreement.coordinator.identity_key_bytes
    return agreement.member(signer).identity_key_bytes


def _verifies(agreement: Agreement, signer: str, entry: str, message: bytes) -> bool:
    try:
        signature = base64.b64decode(entry, validate=True)
        Ed25519PublicKey.from_public_bytes(_public_key(agreement, signer)).verify(signature, message)
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True


def _read(path: Path) -> Mapping[str, str]:
    content = read_bounded(path, AgreementRefused)
    try:
        entries = json.loads(content.decode("utf-8"), object_pairs_hook=_once_each)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        raise AgreementRefused(
            f"{shown_path(path)}: expected a JSON object with one base64 signature per signer, found something else;"
            " remove the file and sign again."
        )
    return entries


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object whose keys must differ: of two entries of one signer, only one would have been looked at."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("duplicate key")
    return dict(pairs)
