"""What a federated score costs: real gateway and node processes over mutual TLS, beside a bare relay of one exchange.

Every answer is checked against the pooled computation over the members that its sum is over.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from models.score_slots import Slots
from policies.errors import UserError
from protos.scoring.v1 import scoring_pb2 as pb
from simulations.benchmarks.report import write_report
from simulations.processes import Processes, Usage
from simulations.scoring_consortium import CLIENT, LAYOUT, MODEL_VERSION, PURPOSE, TASK, ScoringConsortium, found

Progress = Callable[[str], None]
Row = dict[str, Any]

MODULE = "simulations.scoring_processes"
DEADLINE_S = 15.0
WARM_UP = 30
EPOCH_S = 1.0  # the gateway makes new keys with a node that has come back
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GRPC_VERBOSITY": "NONE"}
RELAY_BYTES = 500  # a request about one entity with its grant has about as many


@dataclass(frozen=True)
class Answered:
    """One request of a client.

    Attributes:
        tokens: What was asked.
        latency_s: From call to answer.
        reply: None if it failed.
        error: Why it failed.
    """

    tokens: tuple[bytes, ...]
    latency_s: float
    reply: pb.ScoreReply | pb.ScoreBatchReply | None
    error: str = ""


@dataclass
class Load:
    """What came of a series of requests."""

    answers: list[Answered] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def done(self) -> list[Answered]:
        """Those that were answered."""
        return [answer for answer in self.answers if answer.reply is not None]

    def figures(self) -> Row:
        """p50_ms, p99_ms, per_s, degraded, failed."""
        latencies = np.array([answer.latency_s for answer in self.done]) * 1000.0
        return {
            "p50_ms": round(float(np.percentile(latencies, 50)), 2) if latencies.size else None,
            "p99_ms": round(float(np.percentile(latencies, 99)), 2) if latencies.size else None,
            "per_s": round(len(self.done) / self.elapsed_s, 1),
            "degraded": sum(answer.reply.degraded for answer in self.done if answer.reply is not None),
            "failed": len(self.answers) - len(self.done),
        }


def run(
    folder: Path,
    *,
    nodes: Sequence[int] = (3, 6, 12),
    requests: int = 500,
    clients: int = 16,
    batch: int = 30_000,
    kill_nodes: int = 6,
    kill_requests: int = 100_000,
    kill_every_s: float = 4.0,
    progress: Progress = print,
) -> list[Row]:
    """Measure.

    Args:
        folder: Empty; keys, tables and logs are made in it.
        nodes: Numbers of node processes, multiples of three.
        requests: Requests of each latency and throughput row.
        clients: Clients of the throughput rows.
        batch: Entities of the batch row; 0 leaves it out.
        kill_nodes: Node processes of the row with kills.
        kill_requests: Its requests; 0 leaves it out.
        kill_every_s: A node is killed and started again this often.
        progress: Told what is being measured.

    Returns:
        Rows with `nodes, clients, batch, p50_ms, p99_ms, per_s, degraded, failed, wrong`. Rows of one and of many
        clients also have the bare relay's `relay_p50_ms, relay_p99_ms, relay_per_s`, `ratio` (of p50, or of
        throughput) to it, processor time a request of the gateway and of a node (`gateway_cpu_ms, node_cpu_ms`), and
        how p50 has grown from the fewest nodes on, beside the relay's (`growth, relay_growth`). The row with kills
        has `kills` and `errors`.
    """
    rows = []
    for number in nodes:
        progress(f"relay with {number} nodes")
        consortium = found(folder / f"nodes-{number}", number, 2 * requests + batch + 4 * WARM_UP)
        relay = _measure_relay(consortium, requests, clients)
        progress(f"scores with {number} nodes")
        rows += _measure(consortium, relay, requests, clients, batch, progress)
    _add_growth(rows)
    if kill_requests:
        progress(f"{kill_requests} scores from {kill_nodes} nodes, one of which is killed every {kill_every_s:g} s")
        consortium = found(folder / "kills", kill_nodes, kill_requests + 4 * WARM_UP)
        rows.append(_measure_kills(consortium, kill_requests, max(1, clients // 2), kill_every_s))
    return rows


def command(json_path: Path | None = None, *, progress: Progress = print, **options: Any) -> list[Row]:
    """`tallystick bench scoring`: measure in a folder that is gone afterwards, and write the figures.

    Args:
        json_path: Where to write `{"bench", "machine", "versions", "results"}`.
        progress: Told what is being measured.
        **options: Of `run`.
    """
    with tempfile.TemporaryDirectory(prefix="tallystick-bench-") as scratch:
        rows = run(Path(scratch), progress=progress, **options)
    if json_path is not None:
        write_report(json_path, "scoring", rows)
    return rows


def _measure(
    consortium: ScoringConsortium, relay: Row, requests: int, clients: int, batch: int, progress: Progress
) -> list[Row]:
    number, tokens = len(consortium.members), iter(consortium.tokens)
    with _running(consortium) as (processes, channel):
        _warm_up(consortium, channel, list(islice(tokens, WARM_UP)))
        rows = []
        for count in (1, clients):
            before = processes.usage()
            load = _ask(consortium, channel, list(islice(tokens, requests)), count)
            cost = _cpu_ms(before, processes.usage(), requests)
            figures, of_relay = load.figures(), relay["one" if count == 1 else "many"]
            compared = "p50_ms" if count == 1 else "per_s"
            rows.append(
                {"nodes": number, "clients": count, "batch": 1, **figures, "wrong": _wrong(consortium, load)}
                | {f"relay_{name}": of_relay[name] for name in ("p50_ms", "p99_ms", "per_s")}
                | {"ratio": round(figures[compared] / of_relay[compared], 3), **cost}
            )
        if batch:
            progress(f"a batch of {batch} with {number} nodes")
            load = _ask_batch(consortium, channel, tuple(islice(tokens, batch)))
            rows.append(
                {"nodes": number, "clients": 1, "batch": batch, **load.figures(), "wrong": _wrong(consortium, load)}
            )
    return rows


def _measure_kills(consortium: ScoringConsortium, requests: int, clients: int, every_s: float) -> Row:
    tokens = list(consortium.tokens)
    over, kills = threading.Event(), 0
    choice = random.Random(11)  # noqa: S311 - which node is killed is no secret

    with _running(consortium) as (processes, channel):
        _warm_up(consortium, channel, tokens[:WARM_UP])

        def kill() -> None:
            nonlocal kills
            while not over.wait(every_s / 2):
                member = choice.choice(consortium.members)
                processes.kill(member)
                kills += 1
                over.wait(every_s / 2)
                processes.restart(member)
                # The bounds allow one absent node: the next is killed when this one is back.
                processes.wait_for(member, "online", deadline_s=60)
                over.wait(EPOCH_S)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        load = _ask(consortium, channel, tokens[WARM_UP : WARM_UP + requests], clients)
        over.set()
        killer.join()
    errors = sorted({answer.error for answer in load.answers if answer.error})
    return {
        "nodes": len(consortium.members),
        "clients": clients,
        "batch": 1,
        **load.figures(),
        "wrong": _wrong(consortium, load),
        "kills": kills,
        "errors": "; ".join(errors),
    }


def _measure_relay(consortium: ScoringConsortium, requests: int, clients: int) -> Row:
    folder, number = str(consortium.folder), len(consortium.members)
    with Processes(consortium.folder / "relay-logs", ONE_THREAD, sample_usage=False) as processes:
        processes.start_python("relay", "-m", MODULE, "relay", folder, str(number), "0")
        port = int(processes.wait_for("relay", r"listening on .*:(\d+)$", deadline_s=30)[1])
        for member in consortium.members:
            processes.start_python(member, "-m", MODULE, "relay-node", folder, member, str(port))
        processes.wait_for("relay", "complete", deadline_s=60)
        with _channel(consortium, port) as channel:
            call = channel.unary_unary("/relay/Ask")

            def ask(_: tuple[bytes, ...]) -> pb.ScoreReply:
                call(bytes(RELAY_BYTES), timeout=DEADLINE_S)
                return pb.ScoreReply()

            _drive([()] * WARM_UP, 1, ask)
            one, many = _drive([()] * requests, 1, ask), _drive([()] * requests, clients, ask)
    return {"one": one.figures(), "many": many.figures()}


def _cpu_ms(before: Mapping[str, Usage], after: Mapping[str, Usage], requests: int) -> Row:
    """Processor time a request, of the gateway and of a node."""
    spent = {name: (usage.cpu_s - before[name].cpu_s) * 1000 / requests for name, usage in after.items()}
    gateway = spent.pop("gateway")
    return {"gateway_cpu_ms": round(gateway, 2), "node_cpu_ms": round(sum(spent.values()) / len(spent), 2)}


def _add_growth(rows: Sequence[Row]) -> None:
    """How many times longer one client waits than with the fewest nodes, and the same of the relay."""
    single = [row for row in rows if row["clients"] == row["batch"] == 1]
    for row in single:
        row["growth"] = round(row["p50_ms"] / single[0]["p50_ms"], 2)
        row["relay_growth"] = round(row["relay_p50_ms"] / single[0]["relay_p50_ms"], 2)


@contextmanager
def _running(consortium: ScoringConsortium) -> Iterator[tuple[Processes, grpc.Channel]]:
    """Gateway and nodes as processes, and a client's channel."""
    folder = str(consortium.folder)
    with Processes(consortium.folder / "logs", ONE_THREAD, sample_usage=False) as processes:
        processes.start_python("gateway", "-m", MODULE, "gateway", folder, "0")
        port = int(processes.wait_for("gateway", r"listening on .*:(\d+)$", deadline_s=30)[1])
        for member in consortium.members:
            processes.start_python(member, "-m", MODULE, "node", folder, member, str(port))
        for member in consortium.members:
            processes.wait_for(member, "online", deadline_s=60)
        with _channel(consortium, port) as channel:
            yield processes, channel


@contextmanager
def _channel(consortium: ScoringConsortium, port: int) -> Iterator[grpc.Channel]:
    client = consortium.folder / "client"
    credentials = grpc.ssl_channel_credentials(
        (consortium.folder / "coordinator" / "keys" / "consortium-ca.crt").read_bytes(),
        (client / f"{CLIENT}.pem").read_bytes(),
        (client / f"{CLIENT}.crt").read_bytes(),
    )
    limit = 64 << 20
    options = (("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit))
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        yield channel


def _warm_up(consortium: ScoringConsortium, channel: grpc.Channel, tokens: Sequence[bytes]) -> None:
    """Ask until every member is in the sum."""
    for token in tokens:
        (answer,) = _ask(consortium, channel, [token], 1).answers
        if answer.reply is not None and not answer.reply.degraded:
            return
        time.sleep(0.5)
    raise UserError(f"Expected all {len(consortium.members)} nodes in a sum after {len(tokens)} attempts, found fewer.")


def _ask(consortium: ScoringConsortium, channel: grpc.Channel, tokens: Sequence[bytes], clients: int) -> Load:
    call = channel.unary_unary(
        "/protos.scoring.v1.Scoring/Score",
        request_serializer=pb.ScoreRequest.SerializeToString,
        response_deserializer=pb.ScoreReply.FromString,
    )
    # Made before anything is timed: a grant is older than the question.
    requests = {
        token: pb.ScoreRequest(
            entity=token, task=TASK, model_version=MODEL_VERSION, purpose=PURPOSE, grant=consortium.grant([token])
        )
        for token in tokens
    }

    def ask(asked: tuple[bytes, ...]) -> pb.ScoreReply:
        reply: pb.ScoreReply = call(requests[asked[0]], timeout=DEADLINE_S)
        return reply

    return _drive([(token,) for token in tokens], clients, ask)


def _ask_batch(consortium: ScoringConsortium, channel: grpc.Channel, tokens: tuple[bytes, ...]) -> Load:
    call = channel.unary_unary(
        "/protos.scoring.v1.Scoring/ScoreBatch",
        request_serializer=pb.ScoreBatchRequest.SerializeToString,
        response_deserializer=pb.ScoreBatchReply.FromString,
    )
    request = pb.ScoreBatchRequest(
        entities=b"".join(tokens),
        task=TASK,
        model_version=MODEL_VERSION,
        purpose=PURPOSE,
        grant=consortium.grant(tokens),
    )
    return _drive([tokens], 1, lambda _: call(request, timeout=60))


def _drive(asked: Sequence[tuple[bytes, ...]], clients: int, ask: Callable[[tuple[bytes, ...]], Any]) -> Load:
    """Ask everything with so many clients at once, each waiting for its answer before it asks again."""
    load, left, lock = Load(), iter(asked), threading.Lock()

    def client() -> None:
        while True:
            with lock:
                tokens = next(left, None)
            if tokens is None:
                return
            start = time.perf_counter()
            try:
                reply, error = ask(tokens), ""
            except grpc.RpcError as failure:
                reply, error = None, f"{failure.code().name}: {failure.details()}"
            load.answers.append(Answered(tokens, time.perf_counter() - start, reply, error))

    start = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.elapsed_s = time.perf_counter() - start
    return load


def _wrong(consortium: ScoringConsortium, load: Load) -> int:
    """Answers that are not the pooled computation's."""
    wrong = 0
    for answer in load.done:
        if isinstance(answer.reply, pb.ScoreReply):
            truth = consortium.pooled(answer.tokens, answer.reply.survivors)[0]
            wrong += not _is_right(answer.reply.score, truth)
        elif answer.reply is not None:
            wrong += _wrong_in_batch(answer.reply, consortium.pooled(answer.tokens))
    return wrong


def _is_right(score: pb.Score, truth: Slots) -> bool:
    if score.outcome != _outcome(int(truth[1])):
        return False
    if score.outcome != pb.SCORED:
        return not score.log_odds_64ths and not score.votes
    return bool(score.log_odds_64ths == truth[0]) and list(score.votes) == truth[LAYOUT.votes].tolist()


def _wrong_in_batch(reply: pb.ScoreBatchReply, truth: Slots) -> int:
    outcomes = np.frombuffer(reply.outcomes, dtype=np.uint8)
    scores = np.frombuffer(reply.log_odds_64ths, dtype="<i8")
    votes = np.frombuffer(reply.votes, dtype=np.uint8).reshape(len(truth), -1)
    expected = np.array([_outcome(int(known)) for known in truth[:, 1]])
    scored = expected == pb.SCORED
    right = outcomes == expected
    right &= scores == np.where(scored, truth[:, 0], 0)
    right &= (votes == np.where(scored[:, None], truth[:, LAYOUT.votes], 0)).all(axis=1)
    return int((~right).sum())


def _outcome(known: int) -> int:
    """Of a total over so many knowing members, under a grant without an exception."""
    return (pb.UNKNOWN_ENTITY, pb.ONE_MEMBER_ONLY)[known] if known < 2 else pb.SCORED
