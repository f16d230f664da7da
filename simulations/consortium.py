"""A complete consortium on disk: agreement, signatures, keys, certificates, settings, members' rows.

What the operator and the members each do with `tallystick agreement|node|coordinator` on machines of their own
is done here in one folder for demos, benchmarks and end-to-end tests. Keys are fresh every time, except the one
that picks the hold-out, so that a table can be compared with the one of the last run.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import tomli_w
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coordinator.certificates import Authority, admit, create_authority, create_server_certificate
from nodes.identity import NodeIdentity, certificate_request, create_or_load_identity
from policies.agreement import Agreement, ModelTerms, PrivacyTerms, Task
from policies.presets import example_agreement
from policies.signatures import sign_agreement
from simulations.datasets import DataSet
from simulations.dealing import DEMO_KINDS, write_rows

ROLE = "bank"
TASK = "credit"
PURPOSE = "credit-model-training"


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
        return self.folder / "coordinator" / "coordinator.toml"

    @property
    def coordinator_state(self) -> Path:
        """State folder of the coordinator."""
        return self.folder / "coordinator" / "state"

    def node_settings(self, member: str) -> Path:
        """`node.toml` of a member."""
        return self.folder / member / "node.toml"


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
    """Found a consortium of banks: one call does what its members and its operator would each do.

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
    members = tuple(sorted(rows))
    identities = {member: create_or_load_identity(folder / member / "keys") for member in members}
    operator = create_or_load_identity(folder / "coordinator" / "keys")
    agreement = example_agreement(
        {member: _public(identity) for member, identity in identities.items()},
        coordinator_key=_public(operator),
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
    consortium = Consortium(folder, agreement, members)
    consortium.agreement_path.write_text(tomli_w.dumps(agreement.model_dump(mode="json")))
    for signer, identity in {**identities, "coordinator": operator}.items():
        sign_agreement(agreement, consortium.agreement_path, signer, identity.identity_key)
    authority = set_up_coordinator(consortium, fleet_port, step_deadline_s)
    for number, member in enumerate(members):
        set_up_node(
            consortium,
            member,
            identities[member],
            authority,
            source=write_rows(rows[member], folder / member, "rows", kinds[number % len(kinds)]),
            fleet_port=fleet_port,
            methods=methods,
        )
    return consortium


def _public(identity: NodeIdentity) -> bytes:
    return identity.identity_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def set_up_coordinator(consortium: Consortium, fleet_port: int, step_deadline_s: float) -> Authority:
    """The operator's keys, certificates and settings; its identity key is there already."""
    now = dt.datetime.now(dt.UTC)
    keys = consortium.folder / "coordinator" / "keys"
    authority = create_authority(consortium.agreement.name, now)
    (keys / "consortium-ca.crt").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    create_server_certificate(authority, ("localhost", "127.0.0.1"), now, keys)
    (consortium.folder / "coordinator" / "members").mkdir(exist_ok=True)
    settings = {
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
    consortium.coordinator_settings.write_text(tomli_w.dumps(settings))
    return authority


def set_up_node(
    consortium: Consortium,
    member: str,
    identity: NodeIdentity,
    authority: Authority,
    *,
    source: Mapping[str, str],
    fleet_port: int,
    methods: Sequence[str],
) -> None:
    """A member's certificate, policy and settings; its identity key is there already."""
    folder = consortium.folder / member
    request = certificate_request(identity, member)
    _, certificate = admit(authority, consortium.agreement, request, dt.datetime.now(dt.UTC))
    (folder / "keys" / f"{member}.crt").write_bytes(certificate)
    (consortium.folder / "coordinator" / "members" / f"{member}.crt").write_bytes(certificate)
    policy = {
        "format": "tallystick-node-policy/1",
        "tasks": [TASK],
        "purposes": [PURPOSE],
        "methods": list(methods),
        "min_cohort": 3,
        "max_rounds": 200,
        "require_sealing": True,
        "auto_cosign": True,
        "consent": "source",  # what is dealt here consented, or never existed
    }
    (folder / "policy.toml").write_text(tomli_w.dumps(policy))
    (folder / "policy.toml").chmod(0o600)
    settings = {
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
    consortium.node_settings(member).write_text(tomli_w.dumps(settings))
