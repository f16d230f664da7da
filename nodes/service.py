"""The node process: checks what it was given, reads its rows once, and serves the coordinator until told to stop."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from models.features import TrainingData
from nodes.contract import aligned_entities, check_rows, prepare_rows
from nodes.fleet import FleetConnection, run_node
from nodes.identity import load_identity
from nodes.ledger_witness import LedgerWitness
from nodes.membership import Membership
from nodes.readiness import require_ready
from nodes.runtime import NodeRuntime
from nodes.scoring_service import ScoringService
from nodes.scoring_stream import GatewayConnection
from nodes.scoring_tables import load_tables
from nodes.settings import NodeSettings
from nodes.sources import load_rows
from nodes.store import NodeStore
from nodes.vertical import VerticalHandlers
from nodes.vertical_rows import align_by_id
from nodes.vertical_run import AlignedRows
from policies.agreement import load_agreement
from policies.guard import load_policy
from policies.scoring_policy import load_scoring_policy
from policies.state_lock import sole_process
from policies.vertical_proposal import VerticalProposal
from protos.sealed_sum.keys import SigningKey

log = logging.getLogger(__name__)


class CheckedData:
    """This member's rows, read and checked when a task first asks for them, then kept for the life of the process."""

    def __init__(self, membership: Membership, settings: NodeSettings, announce: Callable[[str], None]) -> None:
        self._membership = membership
        self._settings = settings
        self._announce = announce
        self._rows: dict[str, TrainingData] = {}

    def __call__(self, task: str) -> TrainingData:
        """The rows for a task.

        Raises:
            UserError: The source cannot be read, or breaks the agreement's contract.
        """
        if task not in self._rows:
            frame = load_rows(self._settings.opened_source(os.environ))
            data, report = prepare_rows(
                frame, self._membership.agreement, member_id=self._membership.member, task_name=task
            )
            for line in report.lines():
                log.info("%s", line)
            self._announce(
                f"{task}: {report.rows_kept} of {report.rows_read} rows in use, {report.rows_set_aside} set aside"
            )
            self._rows[task] = data
        return self._rows[task]


class CheckedEntities:
    """This member's entities, read and checked when a run aligns them; the run keeps keyed hashes, not the ids."""

    def __init__(self, membership: Membership, settings: NodeSettings, announce: Callable[[str], None]) -> None:
        self._membership = membership
        self._settings = settings
        self._announce = announce

    def __call__(self, task: str) -> tuple[str, ...]:
        """One id a row.

        Raises:
            UserError: The source cannot be read, or breaks the agreement's contract.
        """
        frame = load_rows(self._settings.opened_source(os.environ))
        entities, report = aligned_entities(
            frame, self._membership.agreement, member_id=self._membership.member, task_name=task
        )
        for line in report.lines():
            log.info("%s", line)
        self._announce(f"{task}: {report.rows_kept} of {report.rows_read} entities to align")
        return entities


class CheckedAlignedRows:
    """This member's rows of a vertical run: its role's columns, and the label where its role holds it."""

    def __init__(self, membership: Membership, settings: NodeSettings) -> None:
        self._membership = membership
        self._settings = settings

    def __call__(self, proposal: VerticalProposal) -> AlignedRows:
        """The training rows in the order of their ids.

        Raises:
            UserError: The source cannot be read, or breaks the agreement's contract.
        """
        agreement, member = self._membership.agreement, self._membership.member
        label = agreement.task(proposal.task).label if member == proposal.label_holder else None
        rows, report = check_rows(
            load_rows(self._settings.opened_source(os.environ)),
            agreement.features_of(agreement.member(member).role),
            id_column=agreement.entities.id_column,
            label_column=label,
            whose=member,
        )
        for line in report.lines():
            log.info("%s", line)
        return align_by_id(rows, agreement.entities.holdout_key_bytes, agreement.entities.holdout_percent)


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
    torch.set_num_threads(1)
    threadpool_limits(limits=1)
    membership = build_membership(settings)
    data = CheckedData(membership, settings, announce)
    entities = CheckedEntities(membership, settings, announce)
    for task in membership.agreement.tasks:
        if task.name not in membership.policy.tasks:
            continue
        if task.label_role == membership.agreement.member(membership.member).role:
            data(task.name)
        else:
            entities(task.name)
    store = NodeStore(settings.state_dir)
    rows = CheckedAlignedRows(membership, settings)
    vertical = VerticalHandlers(membership, rows, store, rng=os.urandom, now=_now)
    witness = LedgerWitness(membership, store, now=_now, now_s=time.time)
    runtime = NodeRuntime(
        membership, data, store, rng=os.urandom, now=_now, entities=entities, vertical=vertical, witness=witness
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    scoring = _scoring(settings, membership)
    if scoring is not None:
        scoring.start(on_online=lambda: announce("online for scores"))
    try:
        run_node(fleet_connection(settings), runtime.handle, stop, on_online=lambda: announce("online"))
    finally:
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
        UserError: The scoring policy is missing or not acceptable, or there is no table to answer from.
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
    return ScoringService(membership, policy, load_tables(place.tables_dir), connection, settings.state_dir)


def _log_to(state_dir: Path, level: str) -> None:
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = logging.FileHandler(state_dir / "node.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
