"""The coordinator process: listens for the members, drives queued runs, takes up the ones that a crash left."""

from __future__ import annotations

import datetime as dt
import logging
import signal
import threading
from collections.abc import Callable

from coordinator.driver import RunDriver, Waiting
from coordinator.engine.steps import Steps
from coordinator.epoch_opening import EpochOpening
from coordinator.evidence import build_and_write
from coordinator.flower_superlink import SuperLinkService
from coordinator.registry import Registry
from coordinator.scoring_front import ScoringFront
from coordinator.scoring_gateway import GatewaySettings, ScoringGateway
from coordinator.settings import CoordinatorSettings
from coordinator.store import CoordinatorStore
from models.score_slots import ScoreSlots
from policies.agreement import Agreement, load_agreement
from policies.errors import UserError
from policies.key_files import load_identity_key
from policies.state_lock import sole_process
from protos.sealed_sum.keys import SigningKey

log = logging.getLogger(__name__)
QUEUE_POLL_S = 0.1


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
        front = _start_scoring(settings, agreement, announce)
        # A daemon: a run that waits for members must not keep the process from stopping.
        worker = threading.Thread(
            target=_work, args=(settings, agreement, identity, store, fleet, stop, announce), daemon=True
        )
        worker.start()
        stop.wait()
        worker.join(timeout=2.0)
        if front is not None:
            front.stop()
    announce("stopped")
    return 0


def _start_scoring(
    settings: CoordinatorSettings, agreement: Agreement, announce: Callable[[str], None]
) -> ScoringFront | None:
    """The scoring gateway, if the settings have one."""
    scoring = settings.scoring
    if scoring is None:
        return None
    layout = ScoreSlots.of_agreement(agreement)
    front = ScoringFront(
        lambda: ScoringGateway(
            agreement, {task.name: layout for task in agreement.tasks}, GatewaySettings(window_s=scoring.window_s)
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


def _work(
    settings: CoordinatorSettings,
    agreement: Agreement,
    identity: SigningKey,
    store: CoordinatorStore,
    fleet: SuperLinkService,
    stop: threading.Event,
    announce: Callable[[str], None],
) -> None:
    while not stop.is_set():
        _tell_ends(settings, agreement, identity, store, fleet)
        stored = store.next_run()
        if stored is None:
            stop.wait(QUEUE_POLL_S)
            continue
        announce(f"{stored.run_id}: {'driving' if stored.status == 'queued' else 'taken up again'}")
        try:
            _drive(settings, agreement, identity, store, fleet, stored.run_id)
            announce(f"{stored.run_id}: finished")
        except UserError as failure:
            announce(f"{stored.run_id}: failed: {failure}")
        except Exception:
            if stop.is_set():
                # The engine went away under the run; its checkpoint is on disk, and the next start takes it up.
                log.info("run %s is left at its checkpoint", stored.run_id, exc_info=True)
                return
            # The one place where anything at all may surface: the run is marked, the trace is in the log.
            log.exception("run %s", stored.run_id)
            reason = f"an internal error, see {settings.state_dir / 'coordinator.log'}"
            store.close_run(stored.run_id, "failed", _now(), reason)
            announce(f"{stored.run_id}: failed: {reason}")


def _drive(
    settings: CoordinatorSettings,
    agreement: Agreement,
    identity: SigningKey,
    store: CoordinatorStore,
    fleet: SuperLinkService,
    run_id: str,
) -> None:
    with fleet.open_run(run_id) as steps:
        driver = _driver(settings, agreement, identity, store, steps)
        outcome = driver.run(run_id)
        folder = settings.state_dir / "runs" / run_id
        registry = Registry(settings.state_dir, settings.mlflow_tracking_uri)
        details = build_and_write(outcome, agreement, folder, registry, created_at=_now())
        driver.finish(run_id, **details)


def _tell_ends(
    settings: CoordinatorSettings,
    agreement: Agreement,
    identity: SigningKey,
    store: CoordinatorStore,
    fleet: SuperLinkService,
) -> None:
    """Tell members that were away when a run ended, now that they are back: they still hold its keys."""
    for stored in store.ends_to_tell():
        cohort = EpochOpening.proposal(stored.proposal).cohort
        if fleet.online() & set(cohort) - set(stored.told):
            with fleet.open_run(stored.run_id) as steps:
                _driver(settings, agreement, identity, store, steps).end(stored.run_id)


def _driver(
    settings: CoordinatorSettings, agreement: Agreement, identity: SigningKey, store: CoordinatorStore, steps: Steps
) -> RunDriver:
    waiting = Waiting(step_deadline_s=settings.step_deadline_s)
    return RunDriver(agreement, identity, store, steps, waiting=waiting, now=_now)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")


def _log_to(settings: CoordinatorSettings) -> None:
    handler = logging.FileHandler(settings.state_dir / "coordinator.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
