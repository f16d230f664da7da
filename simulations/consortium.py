"""A complete consortium on disk: agreement, signatures, keys, certificates, settings, policies.

What the operator and the members each do with `tallystick agreement|node|coordinator` on machines of their own
is done here in one folder for demos, benchmarks and end-to-end tests, by one function for all kinds of consortia.
Keys are fresh every time, except the one that picks the hold-out, so that a table can be compared with the one of the
last run.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import pandas as pd
import tomli_w
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coordinator.certificates import (
    Authority,
    admit,
    create_authority,
    create_client_certificate,
    create_server_certificate,
)
from nodes.identity import NodeIdentity, certificate_request, create_or_load_identity
from policies.agreement import Agreement, ModelTerms, PrivacyTerms, Task
from policies.key_files import write_private
from policies.presets import example_agreement
from policies.signatures import sign_agreement
from simulations.datasets import DataSet
from simulations.dealing import DEMO_KINDS, write_rows

ROLE = "bank"
TASK = "credit"
PURPOSE = "credit-model-training"
SCORING_PURPOSE = "credit-decision"
HOLDOUT_KEY: Final = bytes(range(32))
"""Not fresh, so that every consortium holds out the same entities."""
OPERATOR: Final = "coordinator"

Draft: TypeAlias = Callable[[Mapping[str, bytes], bytes], Agreement]
"""(raw identity key by member, the operator's) -> what they are to sign."""


@dataclass(frozen=True)
class ScoringPlan:
    """What a consortium needs to answer scores, beside what it needs to train.

    Attributes:
        port: Where the gateway listens.
        purposes: What scores may be used for; the agreement's tasks name them too.
        client: Who may ask.
        answers_per_entity: Budget of every node's policy in one window.
        entities_per_requester: Budget of a day.
        distinct_entities: Budget of a day and purpose.
    """

    port: int
    purposes: tuple[str, ...] = (SCORING_PURPOSE,)
    client: str = "platform"
    answers_per_entity: int = 3
    entities_per_requester: int = 10_000_000
    distinct_entities: int = 10_000_000


@dataclass(frozen=True)
class Consortium:
    """Where everything of one consortium lies."""

    folder: Path
    agreement: Agreement
    members: tuple[str, ...]

    @property
    def agreement_path(self) -> Path:
        """The signed agreement."""
        return self.folder / "agreement.toml"

    @property
    def coordinator_settings(self) -> Path:
        """`coordinator.toml`."""
        return self.folder / OPERATOR / "coordinator.toml"

    @property
    def coordinator_state(self) -> Path:
        """State folder of the coordinator."""
        return self.folder / OPERATOR / "state"

    @property
    def authority_certificate(self) -> Path:
        """The consortium's authority."""
        return self.key_dir(OPERATOR) / "consortium-ca.crt"

    def node_settings(self, member: str) -> Path:
        """`node.toml` of a member."""
        return self.folder / member / "node.toml"

    def node_state(self, member: str) -> Path:
        """State folder of a member's node."""
        return self.folder / member / "state"

    def key_dir(self, party: str) -> Path:
        """Folder of a party's keys: a member's, the operator's, or those of `issuer`, who signs grants."""
        return self.folder / party / "keys"

    def tables_dir(self, member: str) -> Path:
        """Where a member's scoring tables lie, `<task>.<model version>.npz`."""
        return self.folder / member / "tables"

    @property
    def client_dir(self) -> Path:
        """Certificate and key of whoever asks for scores."""
        return self.folder / "client"

    @property
    def token_key_path(self) -> Path:
        """The issuer's copy of the members' token key, 64 hexadecimal digits; each member has its own."""
        return self.key_dir("issuer") / "token.key"

    def identity(self, party: str) -> NodeIdentity:
        """Private keys of a party; no party has another's outside a simulation."""
        return create_or_load_identity(self.key_dir(party))


def found_consortium(
    folder: Path,
    members: Sequence[str],
    draft: Draft,
    *,
    fleet_port: int,
    methods: Sequence[str],
    sources: Mapping[str, Mapping[str, str]] | None = None,
    node_policy: Mapping[str, Any] | None = None,
    step_deadline_s: float = 60.0,
    scoring: ScoringPlan | None = None,
) -> Consortium:
    """Found a consortium: one call does what its members and its operator would each do.

    Args:
        folder: Empty or absent.
        members: Their ids.
        draft: Writes the agreement once the keys are there.
        fleet_port: Where the coordinator listens.
        methods: What every node's policy allows.
        sources: `[source]` of each member's settings; `rows.csv` in its own folder for members that are not in it.
        node_policy: More of every node's policy.
        step_deadline_s: How long a step waits for silent members.
        scoring: How scores are answered; not at all when None. The nodes' tables are the caller's.
    """
    identities = {member: create_or_load_identity(folder / member / "keys") for member in members}
    operator = create_or_load_identity(folder / OPERATOR / "keys")
    agreement = draft({member: _public(identity) for member, identity in identities.items()}, _public(operator))
    consortium = Consortium(folder, agreement, tuple(sorted(members)))
    consortium.agreement_path.write_text(tomli_w.dumps(agreement.model_dump(mode="json")))
    for signer, identity in {**identities, OPERATOR: operator}.items():
        sign_agreement(agreement, consortium.agreement_path, signer, identity.identity_key)
    authority = _set_up_coordinator(consortium, fleet_port, step_deadline_s, scoring)
    for member, identity in identities.items():
        _set_up_node(
            consortium,
            member,
            identity,
            authority,
            source=(sources or {}).get(member, {"kind": "csv", "path": "rows.csv"}),
            fleet_port=fleet_port,
            policy={**_training_policy(agreement, methods, scoring), **(node_policy or {})},
            scoring=scoring,
        )
    if scoring is not None:
        _set_up_scoring(consortium, authority, scoring)
    return consortium


def found(
    folder: Path,
    data_set: DataSet,
    rows: Mapping[str, pd.DataFrame],
    *,
    model: ModelTerms,
    privacy: PrivacyTerms | None = None,
    release: Literal["members", "platform"] = "platform",
    horizon_months: int = 24,
    fleet_port: int,
    step_deadline_s: float = 60.0,
    kinds: Sequence[Literal["csv", "parquet", "sql"]] = DEMO_KINDS,
    methods: Sequence[str] = ("newton", "fedavg", "fedprox", "fedadam"),
) -> Consortium:
    """Found a consortium of banks with other customers each.

    Args:
        folder: Empty or absent.
        data_set: Gives the feature contract and the label.
        rows: Each member's rows.
        model: Tower and penalties of the agreement.
        privacy: Bounds; the smallest safe ones for the number of members when None.
        release: Who gets the opened model.
        horizon_months: Over which the label speaks.
        fleet_port: Where the coordinator listens.
        step_deadline_s: How long a step waits for silent members.
        kinds: Data source of each member in turn.
        methods: What every node's policy allows.
    """

    def draft(keys: Mapping[str, bytes], operator: bytes) -> Agreement:
        return example_agreement(
            keys,
            coordinator_key=operator,
            holdout_key=HOLDOUT_KEY,
            name=f"{data_set.name} consortium",
            role=ROLE,
            features=data_set.features_of_one_role(ROLE),
            tasks=(
                Task(
                    name=TASK,
                    label=data_set.label,
                    label_role=ROLE,
                    horizon_months=horizon_months,
                    purposes=(PURPOSE,),
                ),
            ),
            model=model,
            privacy=privacy,
            release=release,
            id_column=data_set.id_column,
        )

    members = tuple(sorted(rows))
    return found_consortium(
        folder,
        members,
        draft,
        fleet_port=fleet_port,
        methods=methods,
        sources={
            member: write_rows(rows[member], folder / member, "rows", kinds[number % len(kinds)])
            for number, member in enumerate(members)
        },
        step_deadline_s=step_deadline_s,
    )


def _public(identity: NodeIdentity) -> bytes:
    return identity.identity_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _training_policy(agreement: Agreement, methods: Sequence[str], scoring: ScoringPlan | None) -> dict[str, Any]:
    decisions = set() if scoring is None else set(scoring.purposes)
    return {
        "format": "tallystick-node-policy/1",
        "tasks": [task.name for task in agreement.tasks],
        "purposes": sorted({purpose for task in agreement.tasks for purpose in task.purposes} - decisions),
        "methods": list(methods),
        "min_cohort": 3,
        "max_rounds": 200,
        "require_sealing": True,
        "auto_cosign": True,
        "consent": "source",  # what is dealt here consented, or never existed
    }


def _set_up_coordinator(
    consortium: Consortium, fleet_port: int, step_deadline_s: float, scoring: ScoringPlan | None
) -> Authority:
    """The operator's keys, certificates and settings; its identity key is there already."""
    now = dt.datetime.now(dt.UTC)
    authority = create_authority(consortium.agreement.name, now)
    consortium.authority_certificate.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    create_server_certificate(authority, ("localhost", "127.0.0.1"), now, consortium.key_dir(OPERATOR))
    (consortium.folder / OPERATOR / "members").mkdir(exist_ok=True)
    settings: dict[str, Any] = {
        "format": "tallystick-coordinator/1",
        "agreement_path": "../agreement.toml",
        "state_dir": "state",
        "identity_key_path": "keys/identity.pem",
        "listen_host": "127.0.0.1",
        "fleet_port": fleet_port,
        "members_dir": "members",
        "step_deadline_s": step_deadline_s,
        "tls": {
            "certificate_path": "keys/server.crt",
            "key_path": "keys/server.pem",
            "ca_certificate_path": "keys/consortium-ca.crt",
        },
    }
    if scoring is not None:
        settings["scoring"] = {"port": scoring.port, "clients_dir": "clients"}
    consortium.coordinator_settings.write_text(tomli_w.dumps(settings))
    return authority


def _set_up_node(
    consortium: Consortium,
    member: str,
    identity: NodeIdentity,
    authority: Authority,
    *,
    source: Mapping[str, str],
    fleet_port: int,
    policy: Mapping[str, Any],
    scoring: ScoringPlan | None,
) -> None:
    """A member's certificate, policy and settings; its identity key is there already."""
    folder = consortium.folder / member
    request = certificate_request(identity, member)
    _, certificate = admit(authority, consortium.agreement, request, dt.datetime.now(dt.UTC))
    (folder / "keys" / f"{member}.crt").write_bytes(certificate)
    (consortium.folder / OPERATOR / "members" / f"{member}.crt").write_bytes(certificate)
    _write_policy(folder / "policy.toml", policy)
    settings: dict[str, Any] = {
        "format": "tallystick-node/1",
        "member_id": member,
        "agreement_path": "../agreement.toml",
        "policy_path": "policy.toml",
        "state_dir": "state",
        "identity_key_path": "keys/identity.pem",
        "coordinator": {
            "address": f"127.0.0.1:{fleet_port}",
            "ca_certificate_path": "../coordinator/keys/consortium-ca.crt",
        },
        "tls": {"certificate_path": f"keys/{member}.crt", "key_path": "keys/tls.pem"},
        "source": dict(source),
    }
    if scoring is not None:
        settings["scoring"] = {
            "gateway": f"127.0.0.1:{scoring.port}",
            "policy_path": "scoring.toml",
            "tables_dir": "tables",
            "token_key_path": "keys/token.key",
        }
    consortium.node_settings(member).write_text(tomli_w.dumps(settings))


def _set_up_scoring(consortium: Consortium, authority: Authority, scoring: ScoringPlan) -> None:
    """The issuer of grants, the client's certificate, the members' token key, and each node's scoring policy."""
    issuer = consortium.identity("issuer")
    token_key = secrets.token_bytes(32).hex().encode() + b"\n"
    write_private(consortium.token_key_path, token_key)
    consortium.client_dir.mkdir(mode=0o700)
    create_client_certificate(authority, scoring.client, dt.datetime.now(dt.UTC), consortium.client_dir)
    clients = consortium.folder / OPERATOR / "clients"
    clients.mkdir()
    (clients / f"{scoring.client}.crt").write_bytes((consortium.client_dir / f"{scoring.client}.crt").read_bytes())
    policy = {
        "format": "tallystick-scoring-policy/1",
        "tasks": [task.name for task in consortium.agreement.tasks],
        "purposes": list(scoring.purposes),
        "grant_issuers": [issuer.public_text],
        "answers_per_entity": scoring.answers_per_entity,
        "entities_per_requester": scoring.entities_per_requester,
        "distinct_entities": scoring.distinct_entities,
    }
    for member in consortium.members:
        write_private(consortium.key_dir(member) / "token.key", token_key)
        consortium.tables_dir(member).mkdir(mode=0o700)
        _write_policy(consortium.folder / member / "scoring.toml", policy)


def _write_policy(path: Path, policy: Mapping[str, Any]) -> None:
    path.write_text(tomli_w.dumps(policy))
    path.chmod(0o600)
