"""Whether a node has everything it needs before it connects: the checks of `node run`, listed by `node status`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from nodes.consent import check_consent
from nodes.identity import load_identity
from nodes.settings import NodeSettings, check_node_files
from policies.agreement import Agreement, load_agreement
from policies.closed_model import read_bounded, shown_path
from policies.errors import AgreementRefused, SettingsRefused, UserError
from policies.guard import load_policy
from policies.key_files import check_private
from policies.scoring_policy import load_scoring_policy
from policies.signatures import verify_signatures
from policies.token_key import load_token_key


@dataclass(frozen=True)
class Check:
    """One condition; `problem` is None where it holds, else the sentence that says what to do."""

    name: str
    problem: str | None


def readiness(settings: NodeSettings, now: dt.datetime) -> tuple[Check, ...]:
    """All checks, none of which changes anything or connects to anybody.

    Args:
        settings: The node's settings.
        now: The time, with a time zone.
    """
    checks: list[tuple[str, Callable[[], object]]] = [
        ("keys", lambda: check_node_files(settings)),
        ("certificate", lambda: _check_certificate(settings, now)),
        ("agreement", lambda: load_agreement(settings.agreement_path)),
        ("membership", lambda: _check_membership(settings, load_agreement(settings.agreement_path))),
        (
            "signatures",
            lambda: verify_signatures(load_agreement(settings.agreement_path), settings.agreement_path),
        ),
        ("policy", lambda: load_policy(settings.policy_path)),
        ("scoring", lambda: _check_scoring(settings)),
        ("consent", lambda: check_consent(settings, load_policy(settings.policy_path))),
        ("scores", lambda: _check_score_tables(settings)),
    ]
    return tuple(Check(name, _problem_of(check)) for name, check in checks)


def require_ready(settings: NodeSettings, now: dt.datetime) -> None:
    """Return if the node may connect.

    Raises:
        SettingsRefused: The first check that fails, in its own words.
    """
    for check in readiness(settings, now):
        if check.problem is not None:
            raise SettingsRefused(check.problem)


def certificate_valid_until(settings: NodeSettings) -> dt.datetime:
    """When this node's certificate ends.

    Raises:
        SettingsRefused: There is no certificate yet, or it is none.
    """
    return _load_certificate(settings.tls.certificate_path).not_valid_after_utc


def _problem_of(check: Callable[[], object]) -> str | None:
    try:
        check()
    except UserError as problem:
        return str(problem)
    return None


def _check_membership(settings: NodeSettings, agreement: Agreement) -> None:
    member = agreement.member(settings.member_id)
    identity = load_identity(settings.identity_key_path, settings.tls.key_path)
    if identity.public_text != member.identity_key:
        raise AgreementRefused(
            f"{shown_path(settings.identity_key_path)}: expected the key {member.identity_key} that the agreement"
            f" states for {member.id}, found {identity.public_text}; use the right key, or have the agreement changed."
        )


def _check_scoring(settings: NodeSettings) -> None:
    """What answering scores and telling of documents needs, where the settings ask for it."""
    if settings.scoring is not None:
        load_scoring_policy(settings.scoring.policy_path)
        if settings.token_key_path is not None:
            load_token_key(settings.token_key_path)
    elif settings.evidence is not None:
        raise SettingsRefused(
            "expected a scoring table in node.toml beside the one of evidence, found none; add it, since documents are"
            " asked about through the scoring gateway."
        )


def _check_certificate(settings: NodeSettings, now: dt.datetime) -> None:
    certificate = _load_certificate(settings.tls.certificate_path)
    authority = _load_certificate(settings.coordinator.ca_certificate_path)
    where = shown_path(settings.tls.certificate_path)
    identity = load_identity(settings.identity_key_path, settings.tls.key_path)
    if certificate.public_key() != identity.tls_key.public_key():
        raise SettingsRefused(
            f"{where}: expected a certificate for this node's TLS key, found one for another key;"
            " send the operator this node's own request and use what comes back."
        )
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise SettingsRefused(
            f"{where}: expected a certificate of the consortium's authority, found one of another;"
            " use the two files that the operator returned together."
        ) from None
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise SettingsRefused(
            f"{where}: expected a certificate valid now, found one valid from"
            f" {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d};"
            " check this machine's clock, or have the operator admit this node again."
        )


def _check_score_tables(settings: NodeSettings) -> None:
    """A training run writes tables of scores at its end: better to refuse the folder before it begins."""
    place = settings.scoring
    if place is not None and place.tables_dir.exists():
        check_private(place.tables_dir)


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read_bounded(path, SettingsRefused))
    except ValueError:
        raise SettingsRefused(
            f"{shown_path(path)}: expected a certificate in PEM, found something else;"
            " use the files that the operator returned."
        ) from None
