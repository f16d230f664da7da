"""The coordinator process: listens for the members, drives queued runs, takes up the ones that a crash left."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable

from coordinator.flower_superlink import SuperLinkService
from coordinator.ledger.keeper import LedgerKeeper
from coordinator.revocations import RevocationLists
from coordinator.scoring_front import ScoringFront
from coordinator.scoring_gateway import ScoringGateway
from coordinator.scoring_opening import GatewaySettings
from coordinator.scoring_store import AnswerStore
from coordinator.settings import CoordinatorSettings
from coordinator.store import CoordinatorStore
from coordinator.worker import RunWorker
from models.score_slots import ScoreSlots
from policies import documents
from policies.agreement import Agreement, load_agreement
from policies.key_files import load_identity_key
from policies.state_lock import sole_process
from protos.sealed_sum.keys import SigningKey


def serve(settings: CoordinatorSettings, *, announce: Callable[[str], None]) -> int:
    """Run the coordinator until SIGTERM or SIGINT.

    A run in progress is left as it is: its checkpoint is on disk, and the next start takes it up.

    Args:
        settings: The coordinator's settings, files checked.
        announce: Called with one line at each milestone.

    Returns:
        The process's exit code.

    Raises:
        UserError: The coordinator cannot start.
    """
    with sole_process(settings.state_dir):
        return _serve(settings, announce)


def _serve(settings: CoordinatorSettings, announce: Callable[[str], None]) -> int:
    _log_to(settings)
    agreement = load_agreement(settings.agreement_path)
    identity = SigningKey(load_identity_key(settings.identity_key_path))
    store = CoordinatorStore(settings.state_dir)
    ledger = LedgerKeeper.open(settings, agreement, identity)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with SuperLinkService(
        state_dir=settings.state_dir / "fleet",
        listen_host=settings.listen_host,
        fleet_port=settings.fleet_port,
        stream_port=settings.stream_port,
        certificate_path=settings.tls.certificate_path,
        key_path=settings.tls.key_path,
        ca_certificate_path=settings.tls.ca_certificate_path,
        members_dir=settings.members_dir,
    ) as fleet:
        announce(f"listening on {settings.listen_host}:{fleet.fleet_port}")
        front = _start_scoring(settings, agreement, identity, announce)
        worker = RunWorker(settings, agreement, identity, store, fleet, stop, announce, ledger)
        worker.start()
        stop.wait()
        worker.join(timeout=2.0)
        if front is not None:
            front.stop()
    if not worker.is_alive():  # a step that waits for members is left behind, with what it holds
        ledger.close()
    worker.raise_failure()
    announce("stopped")
    return 0


def _start_scoring(
    settings: CoordinatorSettings, agreement: Agreement, identity: SigningKey, announce: Callable[[str], None]
) -> ScoringFront | None:
    """The scoring gateway, if the settings have one."""
    scoring = settings.scoring
    if scoring is None:
        return None
    layout = ScoreSlots.of_agreement(agreement)
    front = ScoringFront(
        lambda: ScoringGateway(
            agreement,
            {task.name: layout for task in agreement.tasks} | {documents.TASK: ScoreSlots.of_documents()},
            AnswerStore(settings.state_dir, identity),
            RevocationLists(scoring.revocations_dir or settings.state_dir / "revocations"),
            GatewaySettings(scoring.window_s, {documents.TASK: scoring.match_window_s}),
        ),
        settings.members_dir,
        scoring.clients_dir,
    )
    front.start(
        settings.listen_host,
        scoring.port,
        certificate=settings.tls.certificate_path,
        key=settings.tls.key_path,
        ca_certificate=settings.tls.ca_certificate_path,
    )
    announce(f"scoring on {settings.listen_host}:{front.port}")
    return front


def _log_to(settings: CoordinatorSettings) -> None:
    handler = logging.FileHandler(settings.state_dir / "coordinator.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
