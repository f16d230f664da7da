"""Which of this member's rows may be used: those whose entity a grant in force covers, for this purpose and role.

`consent = "grants"` in policy.toml has every row looked up among the grants of a folder. `consent = "source"` states
that the owner's source holds entities that consented and no others; then nothing is looked up here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nodes.entity_tokens import EntityTokens
from nodes.membership import Membership
from nodes.revocations import read_folder, revocations_folder
from nodes.settings import ConsentPlace, NodeSettings
from policies.errors import GuardRefused
from policies.grant_files import grant_paths, read_grant, revocation_paths
from policies.grants import Grant, GrantRefused
from policies.guard import NodePolicy
from policies.token_key import load_token_key

log = logging.getLogger(__name__)


class ConsentFilter(Protocol):
    """Says which rows may be used."""

    def rows(self, ids: Sequence[object], purpose: str) -> NDArray[np.bool_]:
        """True for each row whose entity consented to the purpose, shape (len(ids),).

        Args:
            ids: One identifier a row, as the source writes it.
            purpose: Of the agreement.

        Raises:
            UserError: It cannot be told; then no row may be used.
        """
        ...


class ConsentAtSource:
    """Every row is used: the owner's policy states that its source holds consented entities alone."""

    def rows(self, ids: Sequence[object], purpose: str) -> NDArray[np.bool_]:  # noqa: ARG002 - as the protocol has it
        """True for each row."""
        return np.ones(len(ids), dtype=np.bool_)


@dataclass(frozen=True)
class ConsentByGrants:
    """Rows are looked up among signed grants, which are read anew each time: what was revoked since counts at once.

    Attributes:
        tokens: Makes this member's identifiers comparable with a grant's entities.
        role: This node's role; a grant must name it.
        grants_dir: `*.grant`.
        revocations_dirs: `*.revocations`: the owner's folder, and the one of lists that the gateway pushed.
        issuers: Whose grants count.
        now: Clock, Unix seconds.
    """

    tokens: EntityTokens = field(repr=False)
    role: str
    grants_dir: Path
    revocations_dirs: tuple[Path, ...]
    issuers: Collection[bytes] = field(repr=False)
    now: Callable[[], float] = time.time

    def rows(self, ids: Sequence[object], purpose: str) -> NDArray[np.bool_]:
        """True for each row with a grant in force, shape (len(ids),); rows with malformed ids are not used.

        Raises:
            GrantRefused: A grant or a revocation list is not what its issuer signed.
            SettingsRefused: A folder is absent, or a file cannot be read.
        """
        granted = self._granted(purpose)
        tokens = self.tokens.of(ids)
        found = np.fromiter((token is not None and token in granted for token in tokens), np.bool_, len(tokens))
        log.info(
            "consent to %s: %d of %d rows have a grant in force (%d with an identifier that is none)",
            purpose,
            int(found.sum()),
            len(tokens),
            tokens.count(None),
        )
        return found

    def _granted(self, purpose: str) -> set[bytes]:
        """Entities with a grant in force for a purpose and this node's role."""
        revoked: dict[bytes, set[str]] = {}
        for folder in self.revocations_dirs:
            for issuer, listed in read_folder(folder, self.issuers).items():
                revoked.setdefault(issuer, set()).update(listed.grant_ids)
        granted: set[bytes] = set()
        in_force = void = 0
        for path in grant_paths(self.grants_dir):
            grant = read_grant(path)
            if self._holds(grant, purpose) and grant.grant_id not in revoked.get(grant.issuer, ()):
                granted.update(grant.places)
                in_force += 1
            else:
                void += 1
        log.info("grants for %s: %d in force, %d expired, revoked or for others", purpose, in_force, void)
        return granted

    def _holds(self, grant: Grant, purpose: str) -> bool:
        if grant.issuer not in self.issuers or self.role not in grant.roles:
            return False
        try:
            grant.check(purpose=purpose, tokens=(), now_s=self.now(), skew_s=0.0)
        except GrantRefused:
            return False
        return True


def check_consent(settings: NodeSettings, policy: NodePolicy) -> None:
    """Return if it can be told which entities consented, or if nothing that this node takes part in needs it.

    Raises:
        GuardRefused: The policy asks for grants, and names no issuer of them, or the settings have no consent table.
        SettingsRefused: A folder is absent, or the token key cannot be used.
    """
    if policy.consent == "grants" and not {"alignment", "vertical"}.isdisjoint(policy.methods):
        place = _place(settings, policy)
        load_token_key(place.token_key_path)
        grant_paths(place.grants_dir)
        revocation_paths(place.revocations_dir)


def consent_filter(
    settings: NodeSettings, membership: Membership, *, now: Callable[[], float] = time.time
) -> ConsentFilter:
    """What this node's policy says about consent.

    Args:
        settings: With a consent table where the policy asks for grants.
        membership: Policy and agreement.
        now: Clock, Unix seconds.

    Raises:
        GuardRefused: The policy asks for grants, and names no issuer of them, or the settings have no consent table.
        SettingsRefused: The token key cannot be used.
    """
    if membership.policy.consent == "source":
        return ConsentAtSource()
    place, agreement = _place(settings, membership.policy), membership.agreement
    pushed = revocations_folder(settings.state_dir)
    return ConsentByGrants(
        tokens=EntityTokens(load_token_key(place.token_key_path), agreement.entities.id_type),
        role=agreement.member(membership.member).role,
        grants_dir=place.grants_dir,
        revocations_dirs=(place.revocations_dir, *((pushed,) if pushed.is_dir() else ())),
        issuers=membership.policy.issuer_keys,
        now=now,
    )


def _place(settings: NodeSettings, policy: NodePolicy) -> ConsentPlace:
    if settings.consent is None:
        raise GuardRefused(
            'expected a consent table in node.toml, since policy.toml says consent = "grants", found none; add it'
            ' (`tallystick node init` writes an example), or say consent = "source" if your source holds entities that'
            " consented and no others."
        )
    if not policy.grant_issuers:
        raise GuardRefused(
            'expected issuers whose grants count (grant_issuers), since policy.toml says consent = "grants", found'
            " none; add the issuer's key, as `tallystick grant new-key` printed it."
        )
    return settings.consent
