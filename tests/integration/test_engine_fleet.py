"""The engine end to end: an embedded SuperLink, real TLS, nodes in threads of this process or in processes of their own."""

import base64
import datetime as dt
import ipaddress
import ssl
import threading
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from flwr.app import Message, RecordDict

from coordinator.flower_superlink import SuperLinkService
from nodes.fleet import FleetConnection, FleetError, run_node
from policies.errors import UserError
from protos.fleet_stream.v1.fleet_stream_pb2 import Frame
from protos.fleet_stream.v1.fleet_stream_pb2_grpc import FleetStreamStub
from protos.sealed_sum.errors import SealedSumError
from simulations.processes import Processes

MEMBERS = ("bank-a", "bank-b", "bank-c")
PATIENCE_S = 30.0

NODE_PROGRAM = """
import pathlib, signal, sys, threading
from nodes.fleet import FleetConnection, run_node
address, folder, member, mark = sys.argv[1:]
folder = pathlib.Path(folder)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
def handle(action, body):
    if action == "hang-once" and not pathlib.Path(mark).exists():
        pathlib.Path(mark).touch()
        print("HANGING", flush=True)
        stop.wait()
    return body[::-1]
connection = FleetConnection(address, folder / "ca.crt", folder / f"{member}.crt", folder / f"{member}.key", folder / member)
run_node(connection, handle, stop, on_online=lambda: print("ONLINE", flush=True))
"""

COORDINATOR_PROGRAM = """
import pathlib, sys, threading
from coordinator.flower_superlink import SuperLinkService
folder, port, stop_after_step = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "end"
with SuperLinkService(state_dir=folder / "state", listen_host="127.0.0.1", fleet_port=port, certificate_path=folder / "server.crt",
        key_path=folder / "server.key", ca_certificate_path=folder / "ca.crt", members_dir=folder / "members") as service:
    print("PORT", service.fleet_port, flush=True)
    with service.open_run("run-1") as steps:
        print("RUN", steps.grid.run.run_id, flush=True)
        members = service.members()
        outcome = steps.run_step("reverse", {member: b"abc" for member in members}, deadline_s=30)
        print("REPLIES", len(outcome.replies), flush=True)
        if not stop_after_step:
            threading.Event().wait()
"""


@dataclass
class Authority:
    """A certificate authority of this test session, and the files it has made."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        builder = self._builder("test-ca", "test-ca", self.key.public_key())
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(x509.BasicConstraints(True, 0), True).add_extension(usage, True)
        self._write(self.folder / "ca.crt", builder)

    def issue(self, name, usage=ExtendedKeyUsageOID.CLIENT_AUTH):
        """Write `name.crt` and `name.key`, for loopback."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            self._builder(name, "test-ca", key.public_key())
            .add_extension(x509.SubjectAlternativeName(hosts), False)
            .add_extension(x509.ExtendedKeyUsage([usage]), False)
        )
        self._write(self.folder / f"{name}.crt", builder)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / f"{name}.key").write_bytes(pem)
        return key

    def _builder(self, subject, issuer, public_key):
        now = dt.datetime.now(dt.UTC)

        def name(text):
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=2))
        )

    def _write(self, path, builder):
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))


@dataclass
class Site:
    """Certificates of a coordinator and its members, and the means to start either."""

    authority: Authority
    stack: ExitStack
    nodes: dict[str, threading.Event] = field(default_factory=dict)

    @property
    def folder(self):
        return self.authority.folder

    def service(self, fleet_port=0):
        return SuperLinkService(
            state_dir=self.folder / "state",
            listen_host="127.0.0.1",
            fleet_port=fleet_port,
            certificate_path=self.folder / "server.crt",
            key_path=self.folder / "server.key",
            ca_certificate_path=self.folder / "ca.crt",
            members_dir=self.folder / "members",
        )

    def admit(self, member):
        (self.folder / "members" / f"{member}.crt").write_bytes((self.folder / f"{member}.crt").read_bytes())

    def connection(self, member, port, folder=None):
        folder = folder or self.folder
        return FleetConnection(
            address=f"127.0.0.1:{port}",
            ca_certificate_path=self.folder / "ca.crt",
            certificate_path=folder / f"{member}.crt",
            key_path=folder / f"{member}.key",
            state_dir=self.folder / member,
        )

    def start_node(self, member, port, handle):
        """Run a node in a thread until the test ends, or until the returned event is set."""
        stop = threading.Event()
        thread = threading.Thread(target=run_node, args=(self.connection(member, port), handle, stop))
        thread.start()

        def end():
            stop.set()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

        self.stack.callback(end)
        return stop


@pytest.fixture
def site(tmp_path):
    authority = Authority(tmp_path / "pki")
    authority.issue("server", ExtendedKeyUsageOID.SERVER_AUTH)
    (authority.folder / "members").mkdir()
    with ExitStack() as stack:
        site = Site(authority, stack)
        for member in MEMBERS:
            authority.issue(member)
            site.admit(member)
        yield site


def until(condition, what):
    """Wait until a condition holds, and fail if it does not within our patience."""
    waiter = threading.Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        if condition():
            return
        waiter.wait(0.01)
    pytest.fail(f"{what}: not within {PATIENCE_S} s")


def reverse(_action, body):
    return body[::-1]


def test_step_reaches_each_member_and_brings_its_own_answer_back(site):
    with site.service() as service:
        for member in MEMBERS:
            site.start_node(member, service.fleet_port, lambda action, body, m=member: f"{m} {action} ".encode() + body)
        with service.open_run("run-1") as steps:
            assert steps.wait_online(MEMBERS, deadline_s=PATIENCE_S) == set(MEMBERS)
            bodies = {"bank-a": b"", "bank-b": b"x", "bank-c": bytes(range(256)) * 12_000}
            outcome = steps.run_step("greet", bodies, deadline_s=PATIENCE_S)
            assert outcome.replies == {m: f"{m} greet ".encode() + body for m, body in bodies.items()}
            assert not outcome.refusals
            assert not outcome.silent
            assert outcome.bytes_down == {m: len(body) for m, body in bodies.items()}
            assert outcome.bytes_up == {m: len(reply) for m, reply in outcome.replies.items()}


def test_what_a_handler_refuses_travels_as_code_and_sentence_but_an_unforeseen_error_shows_nothing(site):
    class OutOfBounds(SealedSumError):
        pass

    def handle(action, body):
        match action:
            case "policy":
                raise UserError("This node allows credit alone, the run asks for fraud.")
            case "protocol":
                error = OutOfBounds.__new__(OutOfBounds)
                error.args = ("expected 3 survivors, got 2",)
                raise error
            case _:
                raise KeyError("row of customer 4711")

    with site.service() as service:
        site.start_node("bank-a", service.fleet_port, handle)
        with service.open_run("run-1") as steps:

            def refusal(action):
                return steps.run_step(action, {"bank-a": b""}, deadline_s=PATIENCE_S).refusals["bank-a"]

            assert refusal("policy").code == "UserError"
            assert refusal("policy").sentence == "This node allows credit alone, the run asks for fraud."
            assert refusal("protocol").code == "OutOfBounds"
            assert refusal("other").code == "InternalError"
            assert "4711" not in refusal("other").sentence


def test_node_killed_in_the_middle_of_a_step_is_sent_the_step_again_when_it_is_back(site, tmp_path):
    with site.service() as service, Processes(tmp_path / "logs") as processes:
        arguments = [f"127.0.0.1:{service.fleet_port}", str(site.folder), "bank-a", str(tmp_path / "mark")]
        processes.start_python("bank-a", "-c", NODE_PROGRAM, *arguments)
        site.start_node("bank-b", service.fleet_port, reverse)

        def power_cut():
            processes.wait_for("bank-a", "HANGING", deadline_s=PATIENCE_S)
            processes.kill("bank-a")
            processes.restart("bank-a")

        cutter = threading.Thread(target=power_cut)
        cutter.start()
        with service.open_run("run-1") as steps:
            outcome = steps.run_step("hang-once", {"bank-a": b"abc", "bank-b": b"abc"}, deadline_s=PATIENCE_S)
        cutter.join()
        assert outcome.replies == {"bank-a": b"cba", "bank-b": b"cba"}
        assert processes.stop("bank-a") == 0


def test_nodes_come_back_by_themselves_when_the_coordinator_was_killed_and_it_takes_up_its_run(site, tmp_path):
    with Processes(tmp_path / "logs") as processes:
        processes.start_python("coordinator", "-c", COORDINATOR_PROGRAM, str(site.folder), "0", "wait")
        port = processes.wait_for("coordinator", r"PORT (\d+)", deadline_s=PATIENCE_S)[1]
        for member in MEMBERS:
            site.start_node(member, int(port), reverse)
        run = processes.wait_for("coordinator", r"RUN (\d+)", deadline_s=PATIENCE_S)[1]
        processes.wait_for("coordinator", "REPLIES 3", deadline_s=PATIENCE_S)
        processes.kill("coordinator")
        processes.start_python("successor", "-c", COORDINATOR_PROGRAM, str(site.folder), port, "end")
        assert processes.wait_for("successor", r"RUN (\d+)", deadline_s=PATIENCE_S)[1] == run
        processes.wait_for("successor", "REPLIES 3", deadline_s=PATIENCE_S)
        until(lambda: processes["successor"].exit_code == 0, "the successor ends cleanly")


def test_node_that_stops_is_offline_and_one_that_is_admitted_later_needs_no_restart(site):
    site.authority.issue("bank-d")
    with site.service() as service:
        stop = site.start_node("bank-a", service.fleet_port, reverse)
        until(lambda: service.online() == {"bank-a"}, "bank-a is online")
        stop.set()
        until(lambda: service.online() == set(), "bank-a is offline")
        site.admit("bank-d")
        site.start_node("bank-d", service.fleet_port, reverse)
        until(lambda: service.online() == {"bank-d"}, "bank-d is online")
        assert service.members() == {*MEMBERS, "bank-d"}


def test_member_that_is_no_longer_admitted_loses_its_stream_and_is_told_why(site):
    with site.service() as service:
        failures = []

        def node():
            try:
                run_node(site.connection("bank-a", service.fleet_port), reverse, threading.Event())
            except FleetError as error:
                failures.append(str(error))

        thread = threading.Thread(target=node)
        thread.start()
        until(lambda: service.online() == {"bank-a"}, "bank-a is online")
        (site.folder / "members" / "bank-a.crt").unlink()
        assert service.members() == {"bank-b", "bank-c"}
        thread.join(PATIENCE_S)
        assert len(failures) == 1
        assert "has not admitted the key" in failures[0]
        assert service.online() == set()


def test_node_is_refused_in_one_sentence_when_its_key_is_not_admitted(site):
    site.authority.issue("stranger")
    sentence = r"has not admitted the key of this node's certificate; ask its operator"
    with site.service() as service, pytest.raises(FleetError, match=sentence):
        run_node(site.connection("stranger", service.fleet_port), reverse, threading.Event())


def test_node_with_a_certificate_of_a_foreign_authority_is_refused_in_one_sentence(site, tmp_path):
    foreign = Authority(tmp_path / "foreign")
    foreign.issue("bank-a")
    with (
        site.service() as service,
        pytest.raises(FleetError, match=r"refused this node's certificate; it must be signed by the coordinator's CA"),
    ):
        run_node(site.connection("bank-a", service.fleet_port, foreign.folder), reverse, threading.Event())


def test_node_does_not_talk_to_a_coordinator_whose_certificate_its_ca_file_does_not_sign(site, tmp_path):
    foreign = Authority(tmp_path / "foreign")
    with site.service() as service:
        theirs = site.connection("bank-a", service.fleet_port)
        connection = FleetConnection(
            theirs.address, foreign.folder / "ca.crt", theirs.certificate_path, theirs.key_path, theirs.state_dir
        )
        with pytest.raises(FleetError, match=r"not signed by the CA file of this node's settings"):
            run_node(connection, reverse, threading.Event())


def test_node_without_its_certificate_file_says_which_file_is_missing(site):
    with pytest.raises(FleetError, match=r"Expected the TLS file .*nobody\.crt, found none"):
        run_node(site.connection("nobody", 1), reverse, threading.Event())


def test_connection_without_a_client_certificate_gets_nothing_on_either_port(site):
    plain = ssl.create_default_context(cafile=str(site.folder / "ca.crt"))
    with site.service() as service, httpx.Client(verify=plain) as client:
        with pytest.raises(httpx.TransportError):
            client.post(f"https://127.0.0.1:{service.fleet_port}/v1/fleet/pull-messages")
        credentials = grpc.ssl_channel_credentials((site.folder / "ca.crt").read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{service.stream_port}", credentials) as channel:
            call = FleetStreamStub(channel).Exchange(iter([Frame(message_id="m", total_bytes=0)]), timeout=5)
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_stream_is_refused_to_a_certificate_whose_key_is_not_admitted(site):
    site.authority.issue("stranger")
    with site.service() as service:
        pem = [(site.folder / name).read_bytes() for name in ("ca.crt", "stranger.key", "stranger.crt")]
        address, credentials = f"127.0.0.1:{service.stream_port}", grpc.ssl_channel_credentials(*pem)
        with grpc.secure_channel(address, credentials) as channel, pytest.raises(grpc.RpcError) as caught:
            next(FleetStreamStub(channel).Exchange(iter([]), timeout=5))
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert service.online() == set()


def test_public_port_shows_an_admitted_member_nothing_but_the_fleet_routes(site):
    hidden = (
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/runtime/responses",
        "/docs",
        "/openapi.json",
        "/health",
        "/",
    )
    with site.service() as service, closing(member_client(site, "bank-a")) as client:
        for path in hidden:
            assert client.post(f"https://127.0.0.1:{service.fleet_port}{path}").status_code == 404, path
            assert client.get(f"https://127.0.0.1:{service.fleet_port}{path}").status_code == 404, path


def test_node_releases_what_flower_still_counts_as_its_connection(site):
    with site.service() as service:
        state = site.folder / "bank-a"
        state.mkdir()
        node_id = service._node_ids["bank-a"]
        (state / "flower_node_id").write_text(str(node_id))
        service._linkstate.activate_node(node_id, 30)  # as a process left it that the coordinator did not see die
        site.start_node("bank-a", service.fleet_port, reverse)
        until(lambda: service.online() == {"bank-a"}, "bank-a is online")


def test_message_that_the_node_has_no_function_for_does_not_end_the_node(site):
    with site.service() as service:
        site.start_node("bank-a", service.fleet_port, reverse)
        with service.open_run("run-1") as steps:
            steps.wait_online(["bank-a"], deadline_s=PATIENCE_S)
            message = Message(RecordDict(), service._node_ids["bank-a"], "train.shipped_code")
            (reply,) = steps.grid.send_and_receive([message], timeout=PATIENCE_S)
            assert reply.has_error()
            assert steps.run_step("reverse", {"bank-a": b"abc"}, deadline_s=PATIENCE_S).replies == {"bank-a": b"cba"}


def test_message_of_a_run_that_is_over_is_not_answered(site):
    with site.service() as service:
        site.start_node("bank-a", service.fleet_port, reverse)
        with service.open_run("run-1") as steps:
            pass
        assert steps.wait_online(["bank-a"], deadline_s=PATIENCE_S) == {"bank-a"}
        assert steps.run_step("reverse", {"bank-a": b"abc"}, deadline_s=0.5).silent == {"bank-a"}


def test_member_cannot_speak_with_another_members_key(site):
    with site.service() as service, closing(member_client(site, "bank-a")) as client:
        other = x509.load_pem_x509_certificate((site.folder / "bank-b.crt").read_bytes()).public_key()
        key = base64.b64encode(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).decode()
        response = client.post(
            f"https://127.0.0.1:{service.fleet_port}/v1/fleet/pull-messages", headers={"flwr-public-key": key}
        )
        assert response.status_code == 403


def member_client(site, member):
    context = ssl.create_default_context(cafile=str(site.folder / "ca.crt"))
    context.load_cert_chain(site.folder / f"{member}.crt", site.folder / f"{member}.key")
    return httpx.Client(verify=context)


def test_second_coordinator_on_the_same_port_is_refused_in_one_sentence(site):
    with site.service() as service, pytest.raises(UserError, match=r"Could not listen on .*: Address already in use"):
        site.service(service.fleet_port).start()


def test_only_one_run_is_driven_at_a_time(site):
    with (
        site.service() as service,
        service.open_run("run-1"),
        pytest.raises(UserError, match="another run"),
        service.open_run("run-2"),
    ):
        pytest.fail("a second run was opened")


def test_coordinator_says_which_certificate_it_cannot_load(site):
    (site.folder / "server.crt").write_text("not a certificate")
    with pytest.raises(UserError, match=r"Expected a PEM certificate .*server\.crt"):
        site.service().start()


def test_processes_leave_nothing_behind_and_report_what_they_used(tmp_path):
    child = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print('CHILD', p.pid, flush=True); p.wait()"
    with Processes(tmp_path / "logs") as processes:
        processes.start_python("parent", "-c", child)
        pid = int(processes.wait_for("parent", r"CHILD (\d+)", deadline_s=PATIENCE_S)[1])
        assert processes.usage()["parent"].peak_rss_bytes > 1_000_000
        with pytest.raises(UserError, match="has not written 'NEVER'"):
            processes.wait_for("parent", "NEVER", deadline_s=0.1)
    until(lambda: not is_running(pid), "the grandchild has ended")
    assert processes["parent"].exit_code is not None


def is_running(pid):
    """Whether a process exists and is not merely waiting to be collected."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("side", ["nodes.fleet", "coordinator.flower_superlink"])
def test_neither_side_lets_flower_call_home(side, tmp_path):
    program = (
        f"import {side}\nimport os\nfrom flwr.supercore import telemetry\n"
        "print('TELEMETRY', telemetry.FLWR_TELEMETRY_ENABLED, os.environ['FLWR_DISABLE_UPDATE_CHECK'], flush=True)"
    )
    with Processes(tmp_path / "logs") as processes:
        processes.start_python("side", "-c", program)
        processes.wait_for("side", "^TELEMETRY 0 1$", deadline_s=PATIENCE_S)
