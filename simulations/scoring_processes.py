"""The processes of a scoring consortium: `python -m simulations.scoring_processes gateway|node|relay|relay-node ...`.

The relay is what a score is compared with: one exchange over the same streams, TLS, processes and event loops, without
a protocol. Nothing of it is part of the system.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import grpc
import uvloop

from coordinator.revocations import RevocationLists
from coordinator.scoring_front import ScoringFront
from coordinator.scoring_gateway import ScoringGateway
from coordinator.scoring_store import AnswerStore
from nodes.identity import load_identity
from nodes.membership import Membership
from nodes.scoring_service import ScoringService
from nodes.scoring_stream import GatewayConnection
from nodes.scoring_tables import EntityTable
from policies.agreement import load_agreement
from policies.key_files import load_identity_key
from policies.scoring_policy import load_scoring_policy
from protos.sealed_sum.keys import SigningKey
from simulations.scoring_consortium import LAYOUT, MODEL_VERSION, TASK
from simulations.scoring_in_process import node_policy

RELAY_NODE, RELAY_ASK = "/relay/Node", "/relay/Ask"
_RELAY_ID_BYTES = 8


def run_gateway(folder: Path, port: int) -> None:
    """The coordinator's part, alone."""
    agreement = load_agreement(folder / "agreement.toml")
    keys = folder / "coordinator" / "keys"
    front = ScoringFront(
        lambda: ScoringGateway(
            agreement,
            {TASK: LAYOUT},
            AnswerStore(folder / "coordinator" / "state", SigningKey(load_identity_key(keys / "identity.pem"))),
            RevocationLists(folder / "coordinator" / "state" / "revocations"),
        ),
        folder / "coordinator" / "members",
        folder / "coordinator" / "clients",
    )
    front.start(
        "127.0.0.1",
        port,
        certificate=keys / "server.crt",
        key=keys / "server.pem",
        ca_certificate=keys / "consortium-ca.crt",
    )
    print(f"listening on 127.0.0.1:{front.port}", flush=True)
    _until_signal()
    front.stop()


def run_node(folder: Path, member: str, port: int) -> None:
    """One member's scoring, alone."""
    service = ScoringService(
        membership_of(folder, member),
        load_scoring_policy(folder / member / "scoring.toml"),
        {(TASK, MODEL_VERSION): EntityTable.load(folder / member / "scores.npz")},
        connection(folder, member, port),
        folder / member / "state",
    )
    service.start(on_online=lambda: print("online", flush=True))
    _until_signal()
    service.stop()


def membership_of(folder: Path, member: str) -> Membership:
    """Who a member's node is."""
    keys = folder / member / "keys"
    identity = load_identity(keys / "identity.pem", keys / "tls.pem")
    return Membership(
        member=member,
        identity=SigningKey(identity.identity_key),
        agreement=load_agreement(folder / "agreement.toml"),
        policy=node_policy(),
    )


def connection(folder: Path, member: str, port: int) -> GatewayConnection:
    """How a member reaches the gateway."""
    keys = folder / member / "keys"
    return GatewayConnection(
        f"127.0.0.1:{port}",
        folder / "coordinator" / "keys" / "consortium-ca.crt",
        keys / f"{member}.crt",
        keys / "tls.pem",
    )


async def run_relay(folder: Path, num_nodes: int, port: int) -> None:
    """Send what is asked to every node, wait for all, answer."""
    outboxes: list[asyncio.Queue[bytes]] = []
    waiting: dict[bytes, tuple[list[int], asyncio.Future[bytes]]] = {}
    numbers = itertools.count()

    async def attend(_frames: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        outbox: asyncio.Queue[bytes] = asyncio.Queue()
        outboxes.append(outbox)
        writer = asyncio.create_task(write(outbox, context))  # one write at a time on a stream
        if len(outboxes) == num_nodes:
            print("complete", flush=True)
        while (message := await context.read()) is not grpc.aio.EOF:
            left, done = waiting[message[:_RELAY_ID_BYTES]]
            left[0] -= 1
            if not left[0]:
                done.set_result(message)
        writer.cancel()

    async def write(outbox: asyncio.Queue[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while True:
            await context.write(await outbox.get())

    async def ask(message: bytes, _context: object) -> bytes:
        name = next(numbers).to_bytes(_RELAY_ID_BYTES, "little")
        done = asyncio.get_running_loop().create_future()
        waiting[name] = ([num_nodes], done)
        for outbox in outboxes:
            outbox.put_nowait(name + message)
        answer = await done
        del waiting[name]
        return bytes(answer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "relay",
                {
                    "Node": grpc.stream_stream_rpc_method_handler(attend),
                    "Ask": grpc.unary_unary_rpc_method_handler(ask),
                },
            ),
        )
    )
    keys = folder / "coordinator" / "keys"
    credentials = grpc.ssl_server_credentials(
        [((keys / "server.pem").read_bytes(), (keys / "server.crt").read_bytes())],
        root_certificates=(keys / "consortium-ca.crt").read_bytes(),
        require_client_auth=True,
    )
    bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    print(f"listening on 127.0.0.1:{bound}", flush=True)
    await server.wait_for_termination()


async def run_relay_node(folder: Path, member: str, port: int) -> None:
    """Send everything back."""
    joined = connection(folder, member, port)
    async with grpc.aio.secure_channel(joined.address, joined.credentials()) as channel:
        call = channel.stream_stream(RELAY_NODE)()
        while (message := await call.read()) is not grpc.aio.EOF:
            await call.write(message)


def _until_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def main(arguments: list[str]) -> None:
    """Run one process."""
    logging.basicConfig(level=os.environ.get("TALLYSTICK_LOG", "WARNING"), format="%(asctime)s %(name)s %(message)s")
    kind, folder, *rest = arguments
    if kind == "gateway":
        run_gateway(Path(folder), int(rest[0]))
    elif kind == "node":
        run_node(Path(folder), rest[0], int(rest[1]))
    elif kind == "relay":
        uvloop.run(run_relay(Path(folder), int(rest[0]), int(rest[1])))
    elif kind == "relay-node":
        uvloop.run(run_relay_node(Path(folder), rest[0], int(rest[1])))


if __name__ == "__main__":
    main(sys.argv[1:])
