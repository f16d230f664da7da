"""A platform to run the financing API on: keys, an agreement, a released model, clients; for demo, benchmark and tests.

The model is trained here, on made-up applicants, by the code that trains real ones: who has a real model passes it in.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.api.settings_template import api_settings_toml
from coordinator.financing.evidence_key import create_evidence_key
from coordinator.identity.clients import ClientFolder
from coordinator.identity.principal import Role
from coordinator.identity.signing_keys import SigningKeys
from coordinator.registry import MODEL_FILE
from coordinator.settings_template import coordinator_settings_toml
from models.features import InputFeature, TrainingData
from models.horizontal import HorizontalProgram, HorizontalSettings
from models.program import run_locally
from policies.key_files import create_identity_key, make_private_folder
from policies.presets import example_agreement

FEATURES: Final = (
    InputFeature("utilization", "number", 0.0, 100.0, "none", "UTILIZATION", missing_allowed=False),
    InputFeature("age", "integer", 0.0, 120.0, "none", "AGE", missing_allowed=False),
    InputFeature("income", "number", 0.0, 1e7, "none", "INCOME", missing_allowed=True),
)
CLIENTS: Final[Mapping[str, tuple[str, Role]]] = {
    "platform-app": ("acme", "platform"),
    "bank-maker": ("acme", "bank"),
    "bank-checker": ("acme", "bank"),
    "other-app": ("globex", "platform"),
    "authority": ("authority", "regulator"),
    "operations": ("operator", "operator"),
}
REQUESTS_PER_MINUTE: Final = 1_000_000
_MEMBERS: Final = ("bank-a", "bank-b", "bank-c")


@dataclass(frozen=True)
class PlatformFolder:
    """Where everything is.

    Attributes:
        settings: The api.toml.
        coordinator: The coordinator.toml.
        members: Identity keys of the consortium's members, who witness the ledger.
        secrets: Client to its secret.
    """

    settings: Path
    coordinator: Path
    members: Mapping[str, Ed25519PrivateKey] = field(repr=False)
    secrets: Mapping[str, str] = field(repr=False)


def made_up_model(rows: int = 4000, seed: int = 7) -> bytes:
    """A model of three features, trained on made-up applicants; its artefact."""
    rng = np.random.default_rng(seed)
    utilization = rng.gamma(1.0, 0.5, rows)
    age = rng.integers(20, 90, rows).astype(np.float64)
    income = np.where(rng.random(rows) < 0.1, np.nan, rng.lognormal(8, 0.5, rows))
    chance = 1 / (1 + np.exp(4.5 - 1.8 * utilization + 0.03 * (age - 50)))
    data = TrainingData(
        columns={"utilization": utilization, "age": age, "income": income},
        label=(rng.random(rows) < chance).astype(np.int8),
        holdout=rng.random(rows) < 0.3,
    )
    program = HorizontalProgram(data, FEATURES, "credit", HorizontalSettings(), member_number=0, weights=[1])
    return run_locally(program).artefact


def found_platform(
    folder: Path,
    artefact: bytes,
    *,
    clients: Mapping[str, tuple[str, Role]] = CLIENTS,
    database_url: str | None = None,
    policy: Path | None = None,
) -> PlatformFolder:
    """Make a platform's folder.

    Args:
        folder: Made here.
        artefact: The released model.
        clients: Name -> tenant and role.
        database_url: Where decisions go; an SQLite file by default.
        policy: A lending policy to copy, so that it may be edited; the shipped one, in its place, by default.
    """
    for private in (folder, folder / "keys", folder / "state", folder / "api", folder / "api" / "keys"):
        make_private_folder(private)
    operator = create_identity_key(folder / "keys" / "identity.pem")
    members = {name: Ed25519PrivateKey.generate() for name in _MEMBERS}
    agreement = example_agreement(
        {name: key.public_key().public_bytes_raw() for name, key in members.items()},
        coordinator_key=operator.public_key().public_bytes_raw(),
    )
    (folder / "agreement.toml").write_text(tomli_w.dumps(agreement.model_dump(mode="json")), encoding="utf-8")
    coordinator = folder / "coordinator.toml"
    text = coordinator_settings_toml(listen_host="127.0.0.1", fleet_port=0)
    if database_url is not None:
        text = f"decisions_database_url = {_quoted(database_url)}\n{text}"
    coordinator.write_text(text, encoding="utf-8")
    (folder / MODEL_FILE).write_bytes(artefact)
    settings = folder / "api" / "api.toml"
    text = api_settings_toml(
        coordinator_settings_path="../coordinator.toml",
        model_path=f"../{MODEL_FILE}",
        issuer_url="http://127.0.0.1:8080",
        port=0,
    )
    if policy is not None:
        shutil.copytree(policy, folder / "lending")
        text = (
            text.replace("\n[tls]", "").replace("# policy_dir =", "policy_dir =").replace('"lending"', '"../lending"')
        )
    settings.write_text(text, encoding="utf-8")
    create_evidence_key(folder / "api" / "keys" / "evidence.key")
    SigningKeys(folder / "api" / "clients").add()
    known = ClientFolder(folder / "api" / "clients")
    secrets = {
        name: known.add(name, tenant=tenant, role=role, requests_per_minute=REQUESTS_PER_MINUTE).text()
        for name, (tenant, role) in clients.items()
    }
    return PlatformFolder(settings, coordinator, members, secrets)


def decision_request(number: int, **changes: Any) -> dict[str, Any]:
    """An application of a made-up applicant, another one and other documents for every number."""
    request = {
        "applicant": {
            "id": f"seller-{number}",
            "name": f"Lantern Goods {number} Ltd",
            "country": "CN",
            "history_months": 26,
            "features": {"utilization": 0.3, "age": 45, "income": 5400.0},
        },
        "product": "order",
        "amount": "40000.00",
        "currency": "CNY",
        "tenor_days": 90,
        "industry": "home",
        "evidence": [
            {
                "kind": "purchase_order",
                "reference": f"PO-{number}",
                "value": {"amount": "50000.00", "currency": "CNY"},
            }
        ],
    }
    return request | changes


def _quoted(text: str) -> str:
    return tomli_w.dumps({"x": text}).removeprefix("x = ").strip()
