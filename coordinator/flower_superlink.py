"""Flower's SuperLink inside the coordinator's process: the one file that knows its internals, with `flower_grid`.

Flower registers the members' keys, authenticates each request of a node by signature, keeps liveness and the record
of each run; its state is one SQLite file. Of its routes the public port shows the fleet's alone, and its control and
runtime interfaces are reached in process, so that no second listener exists.
"""

import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

import uvicorn
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from coordinator.engine.admitted import Admitted
from coordinator.engine.gate import Gate, PeerKeyProtocol
from coordinator.engine.grid_steps import GridSteps
from coordinator.engine.hub import Hub
from coordinator.engine.steps import Steps
from coordinator.engine.stream_server import StreamServer
from coordinator.flower_grid import StreamGrid
from coordinator.flower_runs import RunRecords
from policies.errors import UserError

logger = logging.getLogger(__name__)


class SuperLinkService:
    """The coordinator's engine: the fleet port, the stream port and the runs over them.

    Args:
        state_dir: Holds Flower's database and the table of runs; made if it does not exist.
        listen_host: Address to listen on.
        fleet_port: Port of Flower's fleet routes, 0 for one that the system chooses.
        stream_port: Port of the nodes' streams, likewise. Nodes learn it from the fleet port.
        certificate_path: Server certificate (PEM) that nodes check against their CA file.
        key_path: Its private key.
        ca_certificate_path: CA that signs the nodes' certificates: without one of these no connection is made.
        members_dir: Folder of `<member>.crt`: whose key is in it is admitted.
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        listen_host: str,
        fleet_port: int,
        stream_port: int = 0,
        certificate_path: Path,
        key_path: Path,
        ca_certificate_path: Path,
        members_dir: Path,
    ) -> None:
        self.fleet_port = fleet_port
        self.stream_port = stream_port
        self._state_dir = state_dir
        self._listen_host = listen_host
        self._certificate = certificate_path
        self._key = key_path
        self._ca_certificate = ca_certificate_path
        self._hub = Hub()
        self._node_ids: dict[str, int] = {}
        self._admitted = Admitted(members_dir, self._on_members_changed)
        self._run_lock = threading.Lock()
        self._streams: StreamServer | None = None
        self._http: uvicorn.Server | None = None
        self._http_thread: threading.Thread | None = None
        self._linkstate: LinkState | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on both ports; returns when both accept.

        Raises:
            UserError: A certificate or key cannot be used, or a port is taken.
        """
        flower_logger = logging.getLogger("flwr")
        flower_logger.handlers.clear()  # it writes to the terminal by itself; ours are enough
        flower_logger.setLevel(logging.ERROR)
        self._state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._check_certificates()
        app = create_app(self._superlink_config(), SuperLinkLifespan)
        self._linkstate = app.state.linkstate_factory.state()
        self._admitted.refresh()
        for member in self._node_ids:
            # Whoever was connected to the process before this one must be able to come back at once.
            self._set_offline(member)
        listener = self._bind()
        self._streams = StreamServer(self._hub, self._admitted, self._set_offline)
        try:
            self.stream_port = self._streams.start(
                self._listen_host,
                self.stream_port,
                certificate=self._certificate,
                key=self._key,
                ca_certificate=self._ca_certificate,
            )
        except UserError:
            listener.close()
            raise
        gate = Gate(app, self._admitted, key_header=FLEET_HTTP_PUBLIC_KEY_HEADER, stream_port=lambda: self.stream_port)
        self._serve_http(gate, listener)
        logger.info("fleet port %d, stream port %d", self.fleet_port, self.stream_port)

    def stop(self) -> None:
        """End the streams and stop listening."""
        # Signing on goes first, so that no node signs on for a stream that is about to close.
        if self._http is not None and self._http_thread is not None:
            self._http.should_exit = True
            self._http_thread.join()
            self._http = self._http_thread = None
        if self._streams is not None:
            self._hub.close()
            self._streams.stop()
            self._streams = None

    def members(self) -> frozenset[str]:
        """Ids of the admitted members."""
        return self._admitted.members()

    def online(self) -> frozenset[str]:
        """Members whose node is connected now."""
        return self._hub.online()

    @contextmanager
    def open_run(self, name: str) -> Iterator[Steps]:
        """Begin a run, or take up the one of this name that a killed coordinator has left.

        Flower's record of it ends as completed, or as failed if the block raises. Only one run is open at a time.

        Args:
            name: Our own id of the run.

        Raises:
            UserError: Another run is open.
        """
        if not self._run_lock.acquire(blocking=False):
            raise UserError("This coordinator is driving another run; wait for it to end.")
        try:
            records = RunRecords(self._state(), self._state_dir / "flower_runs.json")
            with records.running(name) as run:
                grid = StreamGrid(self._hub, run, self._node_ids)
                yield GridSteps(grid, self._node_ids, pause=grid.pause, withdraw=grid.withdraw)
        finally:
            self._run_lock.release()

    def _state(self) -> LinkState:
        if self._linkstate is None:
            raise UserError("The coordinator's engine has not been started.")
        return self._linkstate

    def _on_members_changed(self, added: dict[str, bytes], removed: frozenset[str]) -> None:
        """Register new keys with Flower; a member that has left, or has another key now, loses its stream."""
        self._hub.drop(removed)
        for member in removed:
            self._node_ids.pop(member, None)
        for member, public_key in added.items():
            state = self._state()
            self._node_ids[member] = state.get_node_id_by_public_key(public_key) or state.create_node(
                NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key, 0, name=member
            )

    def _set_offline(self, member: str) -> None:
        """Tell Flower that a node is gone, so that its successor may activate before the heartbeat runs out."""
        node_id = self._node_ids.get(member)
        if node_id is not None:
            self._state().deactivate_node(node_id)

    def _check_certificates(self) -> None:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate, self._key)
            context.load_verify_locations(self._ca_certificate)
        except OSError as error:
            raise UserError(
                f"Expected a PEM certificate {self._certificate} with its key {self._key} and a CA certificate "
                f"{self._ca_certificate}, could not load them: {error.strerror or error}; "
                "make them with `tallystick coordinator init`."
            ) from error

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._listen_host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._listen_host, self.fleet_port))
        except OSError as error:
            listener.close()
            raise UserError(
                f"Could not listen on {self._listen_host}:{self.fleet_port}: {error.strerror}; "
                "choose another fleet_port or listen_host in coordinator.toml."
            ) from error
        self.fleet_port = listener.getsockname()[1]
        return listener

    def _serve_http(self, gate: Gate, listener: socket.socket) -> None:
        config = uvicorn.Config(
            gate,
            http=PeerKeyProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            ssl_certfile=str(self._certificate),
            ssl_keyfile=str(self._key),
            ssl_ca_certs=str(self._ca_certificate),
            ssl_cert_reqs=ssl.CERT_REQUIRED,
            timeout_graceful_shutdown=1,
            loop="asyncio",  # a request every few seconds: the faster loop gains nothing here
        )
        started = threading.Event()
        server = _Server(config, started)

        def run() -> None:
            with closing(listener):
                server.run(sockets=[listener])
            started.set()

        thread = threading.Thread(target=run, name="fleet-http", daemon=True)
        thread.start()
        started.wait()
        if not server.started:
            raise UserError("The fleet port could not be served; the log says why.")
        self._http, self._http_thread = server, thread

    def _superlink_config(self) -> SuperLinkLifespanConfig:
        return SuperLinkLifespanConfig(
            control_address="",
            health_server_address=None,
            host=self._listen_host,
            port=self.fleet_port,
            insecure=False,
            certificates=None,
            superexec_auth_secret=os.urandom(32),  # nobody may take a task over, even if a route were reached
            authn_plugin=NoOpControlAuthnPlugin(),
            event_log_plugin=None,
            fleet_event_log_plugin=None,
            enable_event_log=False,
            artifact_provider=None,
            enable_supernode_auth=True,
            fleet_api_type="grpc-rere",
            fleet_api_address=None,
            simulation=False,
            ssl_ca_certfile=None,
            ssl_certfile=None,
            ssl_keyfile=None,
            database=str(self._state_dir / "flower.sqlite"),
            isolation="process",
            runtime_dependency_install=False,
        )


class _Server(uvicorn.Server):
    """uvicorn, telling another thread when it accepts."""

    def __init__(self, config: uvicorn.Config, accepting: threading.Event) -> None:
        super().__init__(config)
        self._accepting = accepting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets=sockets)
        self._accepting.set()
