"""The API's composition root: from settings to something that a server can run."""

from __future__ import annotations

import gc
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from coordinator.api.model_source import model_from_path
from coordinator.api.platform import admission_of, create_platform, endpoints_of
from coordinator.api.services import Services
from coordinator.api.settings import ApiSettings
from coordinator.decisions.store import DecisionStore
from coordinator.financing.evidence_key import load_evidence_key
from coordinator.financing.released_scores import ReleasedScores
from coordinator.financing.service import Financing
from coordinator.identity.authenticator import Authenticator
from coordinator.identity.clients import ClientFolder
from coordinator.identity.issuer import TokenIssuer
from coordinator.identity.rate_limits import RateLimits
from coordinator.identity.signing_keys import SigningKeys
from coordinator.ledger.checkpoints import Checkpointer
from coordinator.settings import load_coordinator_settings
from policies.agreement import load_agreement
from policies.key_files import load_identity_key
from policies.ledger_keys import ledger_keys
from policies.lending.folder import PolicyFolder
from policies.lending.policy import DEFAULT_FOLDER as SHIPPED_POLICY
from policies.screening.lists import DEFAULT_FOLDER as SHIPPED_LISTS


@dataclass(frozen=True)
class ApiProcess:
    """An opened API.

    Attributes:
        app: What a server runs; its end closes the store.
        authenticator: Knows callers; for routes that a benchmark adds beside these.
        store: Decisions and their ledger.
    """

    app: ASGIApp
    authenticator: Authenticator
    store: DecisionStore


def open_api(settings: ApiSettings) -> ApiProcess:
    """Open everything that the settings name: whatever is wrong with it stops the start, not the first request.

    Raises:
        UserError: One sentence about the first thing that is absent, or not what it should be.
    """
    coordinator = load_coordinator_settings(settings.coordinator_settings_path)
    keys = ledger_keys(load_agreement(coordinator.agreement_path))
    identity = load_identity_key(coordinator.identity_key_path)
    evidence_key = load_evidence_key(settings.evidence_key_path)
    model = model_from_path(settings.model_path)
    policy = PolicyFolder(settings.policy_dir or SHIPPED_POLICY)
    clients, signing = ClientFolder(settings.identity_dir), SigningKeys(settings.identity_dir)
    clients.current()
    signing.signing()
    store = DecisionStore.open(coordinator.database_url, origin=keys.origin)
    try:
        checkpointer = Checkpointer(store, identity, coordinator.state_dir)
        financing = Financing(
            store,
            policy,
            ReleasedScores(model, horizon_months=settings.horizon_months),
            evidence_key=evidence_key,
            lists_folder=settings.lists_dir or SHIPPED_LISTS,
        )
        financing.check()
        limits = RateLimits()
        authenticator = Authenticator(settings.issuer_url, clients, signing, limits)
        issuer = TokenIssuer(settings.issuer_url, clients, signing, limits)

        def check() -> None:
            store.check()
            financing.check()
            signing.signing()

        async def close() -> None:
            await run_in_threadpool(store.close)

        app = create_platform(
            endpoints_of(model),
            Services(financing, store, checkpointer, issuer, check),
            admission_of(authenticator, store),
            close=close,
            max_in_flight=settings.max_in_flight,
        )
    except BaseException:
        store.close()
        raise
    gc.collect()
    gc.freeze()  # what was made so far lives as long as the process: no collection need look at it again
    return ApiProcess(app, authenticator, store)
