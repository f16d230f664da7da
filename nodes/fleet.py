"""A node's connection to its coordinator: Flower's fleet routes to sign on, one gRPC stream for the steps.

The only file of this side that knows Flower's internals. No bundle is fetched and nothing that arrives is executed:
the node parses messages and hands them to its installed handler.
"""

import logging
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tenacity
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nodes.fleet_errors import ConnectionLost, FleetError, certificate_refused
from nodes.fleet_session import HEARTBEAT_S, Credentials, Session
from nodes.flower_app import Handle, client_app

logger = logging.getLogger(__name__)

LONGEST_WAIT_S = 5.0
"""Cap of the jittered, growing wait between attempts to connect."""

HANG_UPS_OF_A_REFUSAL = 4
"""The coordinator's TLS layer closes without a word when it does not accept a certificate. A crash looks the same once,
but not so many times in a row: where nobody listens, connecting itself fails."""


@dataclass(frozen=True)
class FleetConnection:
    """Where the coordinator is and how this node proves who it is.

    Attributes:
        address: `host:port` of the coordinator's fleet port.
        ca_certificate_path: CA (PEM) that the coordinator's certificate must be signed by.
        certificate_path: This member's client certificate (PEM).
        key_path: Its EC P-256 key (PEM), which signs the Flower requests too.
        state_dir: Where the node id is kept, so that a restart can release the connection of the process before it.
    """

    address: str
    ca_certificate_path: Path
    certificate_path: Path
    key_path: Path
    state_dir: Path


def run_node(
    connection: FleetConnection,
    handle: Handle,
    stop: threading.Event,
    *,
    on_online: Callable[[], None] | None = None,
) -> None:
    """Serve steps until `stop` is set, connecting again whenever the connection is lost.

    Args:
        connection: Where to, and as whom.
        handle: Answers steps; called from the calling thread, one step at a time.
        stop: Ends the loop; a step that is being handled is finished first, its answer may be lost.
        on_online: Called each time the coordinator has admitted this node.

    Raises:
        FleetError: Something that no retry mends: a certificate, key or clock that the coordinator does not accept.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every heartbeat otherwise
    credentials = _load_credentials(connection)
    app = client_app(handle)
    pulse = _Pulse(stop)
    try:
        while not stop.is_set():
            session = _connect(connection, credentials, stop)
            if session is None:
                break
            with session:
                pulse.watch(session)
                logger.info("online at %s", connection.address)
                if on_online is not None:
                    on_online()
                session.serve(app)
                pulse.raise_failure()
            if not stop.is_set():
                logger.warning("lost the connection to %s; connecting again", connection.address)
    finally:
        pulse.end()


def _connect(connection: FleetConnection, credentials: Credentials, stop: threading.Event) -> Session | None:
    """Open a session, trying until it succeeds; None if `stop` was set before.

    Raises:
        FleetError: The coordinator does not accept this node.
    """
    hang_ups = 0

    def open_session() -> Session:
        nonlocal hang_ups
        try:
            return Session.open(connection.address, credentials, connection.state_dir)
        except ConnectionLost as lost:
            hang_ups = hang_ups + 1 if lost.hung_up else 0
            if hang_ups >= HANG_UPS_OF_A_REFUSAL:
                raise certificate_refused(connection.address) from lost
            raise

    def before_sleep(state: tenacity.RetryCallState) -> None:
        cause = state.outcome.exception() if state.outcome is not None else None
        level = logging.WARNING if state.attempt_number == 1 else logging.DEBUG
        logger.log(level, "cannot reach %s, trying on: %s", connection.address, cause)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConnectionLost),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=LONGEST_WAIT_S),
        stop=tenacity.stop_when_event_set(stop),
        sleep=tenacity.sleep_using_event(stop),
        before_sleep=before_sleep,
        reraise=True,
    )
    with suppress(ConnectionLost):
        return retrying(open_session)
    return None


def _load_credentials(connection: FleetConnection) -> Credentials:
    """Read and check the files before any connection is tried.

    Raises:
        FleetError: A file is missing, is not what it should be, or key and certificate do not belong together.
    """
    for path in (connection.ca_certificate_path, connection.certificate_path, connection.key_path):
        if not path.is_file():
            raise FleetError(
                f"Expected the TLS file {path}, found none; make it with `tallystick node init` "
                "and ask the coordinator's operator for the certificates."
            )
    key_pem = connection.key_path.read_bytes()
    try:
        key = load_pem_private_key(key_pem, None)
        tls = ssl.create_default_context(cafile=str(connection.ca_certificate_path))
        tls.load_cert_chain(connection.certificate_path, connection.key_path)
    except (ValueError, TypeError, OSError) as error:
        raise FleetError(
            f"Expected a PEM certificate {connection.certificate_path} with its unencrypted key "
            f"{connection.key_path}, could not load them together: {error}."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FleetError(f"Expected an EC P-256 key in {connection.key_path}, found {type(key).__name__}.")
    return Credentials(
        key=key,
        key_pem=key_pem,
        certificate_pem=connection.certificate_path.read_bytes(),
        ca_pem=connection.ca_certificate_path.read_bytes(),
        tls=tls,
    )


class _Pulse:
    """Sends heartbeats of the current session, and cuts its stream when `stop` is set or a heartbeat is refused."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._ended = False
        self._session: Session | None = None
        self._failure: FleetError | None = None
        threading.Thread(target=self._beat, name="fleet-heartbeat", daemon=True).start()

    def watch(self, session: Session) -> None:
        """Take up a new session."""
        self._session = session
        if self._stop.is_set():
            session.cancel()

    def raise_failure(self) -> None:
        """Raise what a heartbeat was told, if no retry mends it."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Send no more heartbeats."""
        self._ended = True

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S) and not self._ended:
            session = self._session
            if session is None:
                continue
            try:
                session.heartbeat()
            except ConnectionLost as lost:
                logger.warning("heartbeat failed: %s", lost)
                session.cancel()
            except FleetError as refused:
                self._failure = refused
                session.cancel()
        if self._session is not None:
            self._session.cancel()
