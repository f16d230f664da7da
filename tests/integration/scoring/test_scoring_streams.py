"""Gateway and nodes as real processes over mutual TLS: who may do what, and what a restart costs."""

import socket
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.scoring.v1 import scoring_pb2 as pb
from simulations.processes import Processes
from simulations.scoring_consortium import CLIENT, LAYOUT, MODEL_VERSION, PURPOSE, TASK, found

MODULE = "simulations.scoring_processes"
SERVICE = "protos.scoring.v1.Scoring"
PATIENCE_S = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Running:
    """Three nodes and the gateway."""

    def __init__(self, consortium, processes):
        self.consortium, self.processes = consortium, processes
        self.port = free_port()
        self.unasked = iter(consortium.tokens)
        processes.start_python("gateway", "-m", MODULE, "gateway", str(consortium.folder), str(self.port))
        for member in consortium.members:
            processes.start_python(member, "-m", MODULE, "node", str(consortium.folder), member, str(self.port))

    def channel(self, certificate, key):
        ca = (self.consortium.folder / "coordinator" / "keys" / "consortium-ca.crt").read_bytes()
        credentials = grpc.ssl_channel_credentials(ca, key.read_bytes(), certificate.read_bytes())
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials)

    def client(self):
        folder = self.consortium.folder / "client"
        return self.channel(folder / f"{CLIENT}.crt", folder / f"{CLIENT}.pem")

    def member(self):
        name = self.consortium.members[0]
        keys = self.consortium.key_dir(name)
        return self.channel(keys / f"{name}.crt", keys / "tls.pem")

    def score(self, token, channel=None):
        request = pb.ScoreRequest(
            entity=token,
            task=TASK,
            model_version=MODEL_VERSION,
            purpose=PURPOSE,
            grant=self.consortium.grant([token]),
        )
        with channel or self.client() as opened:
            call = opened.unary_unary(
                f"/{SERVICE}/Score",
                request_serializer=pb.ScoreRequest.SerializeToString,
                response_deserializer=pb.ScoreReply.FromString,
            )
            return call(request, timeout=20)

    def score_with_patience(self):
        """The first answer over all members, asking about another entity as long as there is none."""
        ends_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_at:
            token = next(self.unasked)
            try:
                reply = self.score(token)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
            else:
                if not reply.degraded:
                    return token, reply
        raise AssertionError("no answer over all members")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring") / "consortium"
    consortium = found(folder, 3, 20_000)
    with Processes(folder / "logs", {"OMP_NUM_THREADS": "1"}) as processes:
        yield Running(consortium, processes)


def test_score_travels_from_client_to_nodes_and_back(running):
    token, reply = running.score_with_patience()
    truth = running.consortium.pooled([token])[0]

    assert tuple(reply.survivors) == running.consortium.members
    assert not reply.degraded
    if truth[1] > 1:
        assert reply.score.log_odds_64ths == truth[0]
        assert list(reply.score.votes) == truth[LAYOUT.votes].tolist()


def test_batch_is_one_opening_and_equals_the_pooled_computation(running):
    running.score_with_patience()
    tokens = running.consortium.tokens[-500:]
    request = pb.ScoreBatchRequest(
        entities=b"".join(tokens),
        task=TASK,
        model_version=MODEL_VERSION,
        purpose=PURPOSE,
        grant=running.consortium.grant(tokens),
    )
    with running.client() as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ScoreBatch",
            request_serializer=pb.ScoreBatchRequest.SerializeToString,
            response_deserializer=pb.ScoreBatchReply.FromString,
        )
        reply = call(request, timeout=20)
    truth = running.consortium.pooled(tokens)
    scored = truth[:, 1] > 1

    assert np.array_equal(np.frombuffer(reply.log_odds_64ths, "<i8"), np.where(scored, truth[:, 0], 0))
    assert np.array_equal(np.frombuffer(reply.outcomes, np.uint8) == pb.SCORED, scored)


def test_health_says_serving_once_the_nodes_are_there(running):
    running.score_with_patience()
    with running.client() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=20)
        assert any(status.status == health_pb2.HealthCheckResponse.SERVING for status in watch)
        watch.cancel()


def test_member_may_not_ask_and_client_may_not_attend(running):
    with pytest.raises(grpc.RpcError) as refused:
        running.score(running.consortium.tokens[0], running.member())
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED

    with running.client() as channel, pytest.raises(grpc.RpcError) as refused:
        next(channel.stream_stream("/protos.scoring.v1.ScoringNodes/Attend")(iter(())))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_nodes_come_back_to_a_gateway_that_was_killed(running):
    running.score_with_patience()
    running.processes.kill("gateway")
    running.processes.restart("gateway")

    _, reply = running.score_with_patience()

    assert tuple(reply.survivors) == running.consortium.members


def test_gateway_takes_up_a_node_that_was_killed(running):
    member = running.consortium.members[1]
    running.score_with_patience()
    running.processes.kill(member)
    with pytest.raises(grpc.RpcError) as refused:
        running.score(next(running.unasked))
    running.processes.restart(member)

    _, reply = running.score_with_patience()

    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE  # three members: nobody may be absent
    assert tuple(reply.survivors) == running.consortium.members
