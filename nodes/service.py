"""The node process: checks what it was given, reads its rows once, and serves the coordinator until told to stop."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from models.features import TrainingData
from nodes.consent import ConsentFilter, consent_filter
from nodes.contract import aligned_entities, check_rows, prepare_rows
from nodes.evidence import EvidenceReader
from nodes.fleet import FleetConnection, run_node
from nodes.identity import load_identity
from nodes.membership import Membership
from nodes.readiness import require_ready
from nodes.runtime import NodeRuntime
from nodes.scoring_service import ScoringService
from nodes.scoring_stream import GatewayConnection
from nodes.scoring_tables import ScoreTables
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
from policies.token_key import load_token_key
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
    """This member's entities, read and checked when a run aligns them; the run keeps keyed hashes, not the ids.

    Args:
        membership: Who this node is.
        settings: Where the rows are.
        consent: Which of them may be used.
        announce: Called with one line about what was found.
    """

    def __init__(
        self,
        membership: Membership,
        settings: NodeSettings,
        consent: Callable[[], ConsentFilter],
        announce: Callable[[str], None],
    ) -> None:
        self._membership = membership
        self._settings = settings
        self._consent = consent
        self._announce = announce

    def __call__(self, task: str, purpose: str) -> tuple[str | None, ...]:
        """One id a row, None for a row whose entity did not consent.

        Raises:
            UserError: The source cannot be read, or breaks the agreement's contract; or consent cannot be told.
        """
        return self._consented(self._read(task), task, purpose)

    def check(self, task: str) -> None:
        """Read the source once and tell how many entities could be aligned for each purpose; see `__call__`."""
        entities, policy = self._read(task), self._membership.policy
        for purpose in self._membership.agreement.task(task).purposes:
            if purpose in policy.purposes:
                self._consented(entities, task, purpose)

    def _read(self, task: str) -> tuple[str, ...]:
        frame = load_rows(self._settings.opened_source(os.environ))
        entities, report = aligned_entities(
            frame, self._membership.agreement, member_id=self._membership.member, task_name=task
        )
        for line in report.lines():
            log.info("%s", line)
        self._announce(f"{task}: {report.rows_kept} of {report.rows_read} entities to align")
        return entities

    def _consented(self, entities: tuple[str, ...], task: str, purpose: str) -> tuple[str | None, ...]:
        consented = self._consent().rows(entities, purpose)
        if not consented.all():
            self._announce(f"{task}: {int(consented.sum())} of {len(entities)} entities consented to {purpose}")
        return tuple(entity if may else None for entity, may in zip(entities, consented.tolist(), strict=True))


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
    if "consent" not in membership.policy.model_fields_set:
        announce('policy.toml does not say where consent is known: taken as consent = "source"')
    entities = CheckedEntities(membership, settings, lambda: consent_filter(settings, membership), announce)
    for task in membership.agreement.tasks:
        if task.name not in membership.policy.tasks:
            continue
        if task.label_role == membership.agreement.member(membership.member).role:
            data(task.name)
        else:
            entities.check(task.name)
    store = NodeStore(settings.state_dir)
    rows = CheckedAlignedRows(membership, settings)
    vertical = VerticalHandlers(membership, rows, store, rng=os.urandom, now=_now)
    runtime = NodeRuntime(membership, data, store, rng=os.urandom, now=_now, entities=entities, vertical=vertical)
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
