"""A consortium on disk that scores: roles, keys, certificates, policies, and each member's table of partial scores.

The partial scores come from a made-up additive tower for each role: what is measured and checked here is the
protocol, and the pooled computation to compare with is the plain sum over the very same tables.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.certificates import admit, create_authority, create_client_certificate, create_server_certificate
from models.score_slots import ScoreSlots, Slots, partial_scores
from nodes.entity_tokens import EntityTokens
from nodes.identity import certificate_request, create_or_load_identity
from nodes.scoring_tables import EntityTable
from policies.agreement import (
    Agreement,
    CoordinatorTerms,
    EntityTerms,
    Feature,
    Member,
    ModelTerms,
    ReleaseTerms,
    Task,
    format_identity_key,
)
from policies.grants import issue_grant
from policies.presets import smallest_privacy_terms
from policies.token_key import TokenKey, create_token_key

ROLES = ("bank", "payment", "logistics")
FEATURES_PER_ROLE = 4
TASK = "credit"
PURPOSE = "credit-decision"
CLIENT = "platform"
MODEL_VERSION = hashlib.sha256(b"made-up towers").hexdigest()
LAYOUT = ScoreSlots(tuple(f"{role.upper()}_{i}" for role in ROLES for i in range(FEATURES_PER_ROLE)))


@dataclass
class ScoringConsortium:
    """Where everything lies, and what only the test knows: all members' tables.

    Attributes:
        folder: All of it.
        agreement: Signed by nobody here: the processes of this module get it from each other.
        tokens: Every entity, known to somebody or not.
        tables: By member.
        issuer: Signs grants.
        token_key: Of members and issuer.
    """

    folder: Path
    agreement: Agreement
    tokens: tuple[bytes, ...] = field(repr=False)
    tables: dict[str, EntityTable] = field(repr=False)
    issuer: Ed25519PrivateKey = field(repr=False)
    token_key: TokenKey = field(repr=False)

    @property
    def members(self) -> tuple[str, ...]:
        """Member ids, sorted."""
        return tuple(sorted(member.id for member in self.agreement.members))

    def pooled(self, tokens: Sequence[bytes], survivors: Sequence[str] | None = None) -> Slots:
        """The computation on pooled data: each entity's slots summed in the clear, shape (n, width)."""
        total = np.zeros((len(tokens), LAYOUT.width), dtype=np.int64)
        for member in survivors if survivors is not None else self.members:
            table = self.tables[member]
            unknown = len(table.slots) - 1
            total += table.slots[[table.rows.get(token, unknown) for token in tokens]]
        return total

    def grant(
        self,
        tokens: Sequence[bytes],
        *,
        now_s: int | None = None,
        grant_id: str = "grant-1",
        lifetime_s: int = 86_400,
        roles: Sequence[str] = ROLES,
        purposes: Sequence[str] = (PURPOSE,),
        one_role_may_answer: bool = False,
        answering: Mapping[str, str] | None = None,
    ) -> bytes:
        """A grant for these entities."""
        now = int(time.time()) if now_s is None else now_s
        return issue_grant(
            self.issuer,
            grant_id=grant_id,
            purposes=purposes,
            roles=roles,
            not_before_s=now - 60,
            expires_s=now + lifetime_s,
            tokens=tokens,
            one_role_may_answer=one_role_may_answer,
            answering=answering,
            token_key=self.token_key,
        )

    def key_dir(self, member: str) -> Path:
        """Folder of a member's keys."""
        return self.folder / member / "keys"


def found(folder: Path, num_members: int, num_entities: int, *, answers_per_entity: int = 3) -> ScoringConsortium:
    """Found a consortium of three roles.

    Args:
        folder: Empty or absent.
        num_members: 3, 6, 9 ...: as many of each role.
        num_entities: Entities; each is known to about 80 % of the roles, one member a role, 2 % to nobody.
        answers_per_entity: Budget of every node's policy.
    """
    names = [f"{role}-{1 + number // 3}" for number, role in zip(range(num_members), ROLES * num_members, strict=False)]
    identities = {name: create_or_load_identity(folder / name / "keys") for name in names}
    operator = create_or_load_identity(folder / "coordinator" / "keys")
    agreement = Agreement(
        format="tallystick-agreement/1",
        name="scoring consortium",
        coordinator=CoordinatorTerms(identity_key=operator.public_text),
        entities=EntityTerms(id_column="entity_id", id_type="digits", holdout_key=bytes(range(32)).hex()),
        members=tuple(
            Member(id=name, role=name.rpartition("-")[0], identity_key=identities[name].public_text) for name in names
        ),
        features=tuple(
            Feature(
                role=role,
                name=f"{role}_{i}",
                type="number",
                unit="1",
                low=0.0,
                high=1.0,
                monotone="none",
                reason_code=f"{role.upper()}_{i}",
                missing_allowed=False,
            )
            for role in ROLES
            for i in range(FEATURES_PER_ROLE)
        ),
        tasks=(Task(name=TASK, label="default", label_role="bank", horizon_months=24, purposes=(PURPOSE,)),),
        model=ModelTerms(tower="additive", ridge=1.0, smoothness=0.5),
        privacy=smallest_privacy_terms(num_members),
        release=ReleaseTerms(policy="members"),
    )
    issuer = create_or_load_identity(folder / "issuer" / "keys").identity_key
    now = dt.datetime.now(dt.UTC)
    authority = create_authority(agreement.name, now)
    keys = folder / "coordinator" / "keys"
    (keys / "consortium-ca.crt").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    create_server_certificate(authority, ("localhost", "127.0.0.1"), now, keys)
    for inbox in ("members", "clients"):
        (folder / "coordinator" / inbox).mkdir()
    (folder / "client").mkdir(mode=0o700)
    create_client_certificate(authority, CLIENT, now, folder / "client")
    (folder / "coordinator" / "clients" / f"{CLIENT}.crt").write_bytes(
        (folder / "client" / f"{CLIENT}.crt").read_bytes()
    )
    for name in names:
        _, certificate = admit(authority, agreement, certificate_request(identities[name], name), now)
        (folder / name / "keys" / f"{name}.crt").write_bytes(certificate)
        (folder / "coordinator" / "members" / f"{name}.crt").write_bytes(certificate)
        policy = {
            "format": "tallystick-scoring-policy/1",
            "tasks": [TASK],
            "purposes": [PURPOSE],
            "grant_issuers": [format_identity_key(issuer.public_key().public_bytes_raw())],
            "answers_per_entity": answers_per_entity,
            "entities_per_requester": 10_000_000,
            "distinct_entities": 10_000_000,
        }
        (folder / name / "scoring.toml").write_text(tomli_w.dumps(policy))
        (folder / name / "scoring.toml").chmod(0o600)
    (folder / "agreement.toml").write_text(tomli_w.dumps(agreement.model_dump(mode="json")))
    token_key = create_token_key(folder / "token.key")
    made = EntityTokens(token_key, agreement.entities.id_type).of(str(number) for number in range(num_entities))
    tokens = tuple(token for token in made if token is not None)
    tables = _tables(agreement, tokens)
    for name, table in tables.items():
        table.save(folder / name / "scores.npz")
    return ScoringConsortium(folder, agreement, tokens, tables, issuer, token_key)


def _tables(agreement: Agreement, tokens: Sequence[bytes]) -> dict[str, EntityTable]:
    random = np.random.default_rng(7)  # made-up rows, nothing secret
    known_at_all = random.random(len(tokens)) >= 0.02
    tables = {}
    for role in ROLES:
        members = [member.id for member in agreement.members_of(role)]
        owner = np.where(
            known_at_all & (random.random(len(tokens)) < 0.8), random.integers(len(members), size=len(tokens)), -1
        )
        codes = tuple(feature.reason_code for feature in agreement.features_of(role))
        contributions = random.normal(0.0, 0.6, size=(len(tokens), len(codes)))
        for place, member in enumerate(members):
            rows = np.flatnonzero(owner == place)
            slots = partial_scores(contributions[rows], codes, LAYOUT)
            tables[member] = EntityTable.of(LAYOUT, [tokens[row] for row in rows.tolist()], slots)
    return tables
