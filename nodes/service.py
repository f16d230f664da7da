"""The node process: checks what it was given, reads its rows once, and serves the coordinator until told to stop."""

from __future__ import annotations

import datetime as dt
import importlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from threadpoolctl import threadpool_limits

from nodes.checked_rows import CheckedData, CheckedVerticalRows, check_sources
from nodes.consent import consent_filter
from nodes.evidence import EvidenceReader
from nodes.fleet import FleetConnection, run_node
from nodes.identity import load_identity
from nodes.ledger_witness import LedgerWitness
from nodes.membership import Membership
from nodes.readiness import require_ready
from nodes.runtime import NodeRuntime
from nodes.scoring_service import ScoringService
from nodes.scoring_stream import GatewayConnection
from nodes.scoring_tables import ScoreTables
from nodes.settings import NodeSettings
from nodes.store import NodeStore
from nodes.tower_keeper import TowerKeeper
from nodes.vertical import VerticalSide
from policies.agreement import load_agreement
from policies.guard import load_policy
from policies.proposal import ACROSS_ROLES
from policies.scoring_policy import load_scoring_policy
from policies.state_lock import sole_process
from policies.token_key import load_token_key
from protos.sealed_sum.keys import SigningKey

log = logging.getLogger(__name__)


def build_membership(settings: NodeSettings) -> Membership:
    """Identity, agreement and policy of this node, all checked.

    Raises:
        UserError: Something is missing, unsigned or does not fit; see `nodes.readiness`.
    """
    require_ready(settings, dt.datetime.now(dt.UTC))
    identity = load_identity(settings.identity_key_path, settings.tls.key_path)
    return Membership(
        member=settings.member_id,
        identity=SigningKey(identity.identity_key),
        agreement=load_agreement(settings.agreement_path),
        policy=load_policy(settings.policy_path),
    )


def fleet_connection(settings: NodeSettings) -> FleetConnection:
    """Where to connect, and as whom."""
    return FleetConnection(
        address=settings.coordinator.address,
        ca_certificate_path=settings.coordinator.ca_certificate_path,
        certificate_path=settings.tls.certificate_path,
        key_path=settings.tls.key_path,
        state_dir=settings.state_dir,
    )


def serve(settings: NodeSettings, *, announce: Callable[[str], None]) -> int:
    """Run the node until SIGTERM or SIGINT.

    Args:
        settings: The node's settings.
        announce: Called with one line at each milestone.

    Returns:
        The process's exit code.

    Raises:
        UserError: The node cannot start, or the coordinator does not admit it.
    """
    with sole_process(settings.state_dir):
        return _serve(settings, announce)


def _serve(settings: NodeSettings, announce: Callable[[str], None]) -> int:
    _log_to(settings.state_dir, settings.log_level)
    # One thread a node: a bank's machine runs other things, and sums of floats stay the same from run to run.
    threadpool_limits(limits=1)
    membership = build_membership(settings)
    if not ACROSS_ROLES.issuperset(membership.policy.methods):
        importlib.import_module("nodes.participation")  # seconds that no step of a run should wait for
    data = CheckedData(membership, settings, announce)
    if "consent" not in membership.policy.model_fields_set:
        announce('policy.toml does not say where consent is known: taken as consent = "source"')
    rows = CheckedVerticalRows(membership, settings, lambda: consent_filter(settings, membership), announce)
    check_sources(membership, data, rows)
    store = NodeStore(settings.state_dir)
    vertical = VerticalSide(rows, TowerKeeper(settings, membership))
    runtime = NodeRuntime(
        membership,
        data,
        store,
        rng=os.urandom,
        now=_now,
        entities=rows.entities,
        vertical=vertical,
        witness=LedgerWitness(membership, store, now=_now, now_s=time.time),
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    scoring = _scoring(settings, membership)
    evidence = None if settings.evidence is None else EvidenceReader(settings, settings.evidence)
    if evidence is not None and (found := evidence.start()) is not None:
        announce(f"evidence of {found.num_documents} documents ({', '.join(found.kinds)})")
    if scoring is not None:
        scoring.start(on_online=lambda: announce("online for scores"))
    try:
        run_node(fleet_connection(settings), runtime.handle, stop, on_online=lambda: announce("online"))
    finally:
        if evidence is not None:
            evidence.stop()
        if scoring is not None:
            scoring.stop()
        store.close()
    announce("stopped")
    return 0


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat()


def _scoring(settings: NodeSettings, membership: Membership) -> ScoringService | None:
    """Answers to scores, if the settings ask for them.

    Raises:
        UserError: The scoring policy is missing or not acceptable, or a file among the tables is none.
    """
    place = settings.scoring
    if place is None:
        return None
    policy = load_scoring_policy(place.policy_path)
    connection = GatewayConnection(
        place.gateway,
        settings.coordinator.ca_certificate_path,
        settings.tls.certificate_path,
        settings.tls.key_path,
    )
    token_key = None if settings.token_key_path is None else load_token_key(settings.token_key_path)
    return ScoringService(
        membership, policy, ScoreTables(place.tables_dir), connection, settings.state_dir, token_key=token_key
    )


def _log_to(state_dir: Path, level: str) -> None:
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = logging.FileHandler(state_dir / "node.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
