"""What leaves a run: only what members signed, and only if they agree (D2); the coordinator keeps no plaintext.

Adversary: a faulty or dishonest member at the end of a run, and a coordinator whose disk is read afterwards.
"""

import base64
import dataclasses
import json
import logging
import secrets

import numpy as np
import pytest

from coordinator.releases import ReleaseDisagrees, ReleaseForeign, ReleaseTooFewSigners
from coordinator.sum_round import RunFailed
from models.artefact import load_model
from nodes.runtime import MessageRefused
from policies.release import ReleaseRefused, SignedRelease, sign_artefact, sign_progress, sign_release, verify_release
from protos.runs.v1 import runs_pb2
from protos.sealed_sum import sealed_sum_pb2 as pb
from simulations.in_process_consortium import DEFAULT_RUN_ID
from simulations.population import synthetic_population

LIAR = "bank-2"


@pytest.fixture
def lying(found, short_run):
    """Runs with `lie(consortium, finished)` changing the liar's final message; returns consortium and run."""

    def run(lie, *, liars=(LIAR,), members=3, **options):
        def relay(member, action, body, deliver):
            answer = deliver(body)
            if action == "contribute" and member in liars:
                reply = runs_pb2.ContributeReply.FromString(answer)
                if reply.WhichOneof("outcome") == "finished":
                    lie(consortium, member, reply.finished)
                    return reply.SerializeToString()
            return answer

        consortium = found(members, relay, **options)
        return consortium, lambda: consortium.run(short_run)

    return run


def assert_nothing_published(consortium):
    assert [(status, bool(reason)) for _, status, reason in consortium.store.runs()] == [("failed", True)]
    assert not {event.event for event in consortium.events()} & {"released", "finished"}
    assert {store.run(DEFAULT_RUN_ID).phase for store in consortium.node_stores.values()} == {"ended"}


def resigned(consortium, member, finished, **changes):
    table = verify_release(
        SignedRelease(finished.released, finished.signature), member, consortium.identities[member].public_bytes
    )
    signed = sign_release(table.model_copy(update=changes), consortium.identities[member].private)
    finished.released, finished.signature = signed.released, signed.signature


# ---- tables ----


def test_d2_tables_that_disagree_are_not_published(lying):
    def lie(consortium, member, finished):
        table = json.loads(finished.released)
        table["quality"]["auc"] = 0.999
        raw = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        quality = verify_release(
            SignedRelease(finished.released, finished.signature), member, consortium.identities[member].public_bytes
        ).quality
        assert raw != finished.released
        resigned(consortium, member, finished, quality=quality.model_copy(update={"auc": 0.999}))

    consortium, run = lying(lie)
    with pytest.raises(ReleaseDisagrees, match=r"different ones came from bank-2 \(in: quality\)"):
        run()
    assert_nothing_published(consortium)


def test_d2_a_table_without_its_members_signature_is_not_published(lying):
    def unsigned(consortium, member, finished):
        finished.signature = b""

    def carried(consortium, member, finished):
        table = SignedRelease(finished.released, finished.signature)
        parsed = verify_release(table, member, consortium.identities[member].public_bytes)
        finished.signature = sign_release(parsed, consortium.identities["bank-1"].private).signature

    def edited(consortium, member, finished):
        finished.released = finished.released.replace(b'"auc":0.', b'"auc":0.9', 1)

    for lie in (unsigned, carried, edited):
        consortium, run = lying(lie)
        with pytest.raises(ReleaseRefused, match="a released table signed by bank-2"):
            run()
        assert_nothing_published(consortium)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"agreement_hash": "ab" * 32}, "agreement"),
        ({"epoch_id": "ab" * 32}, "key epoch"),
        ({"run_id": "run-00000009"}, "run"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_d2_a_table_of_another_run_is_not_published_although_everybody_signed_it(lying, changes, what):
    everybody = ("bank-1", "bank-2", "bank-3")
    consortium, run = lying(lambda *finished: resigned(*finished, **changes), liars=everybody)
    with pytest.raises(ReleaseForeign, match=f"a released table of {what} "):
        run()
    assert_nothing_published(consortium)


def test_d2_fewer_than_u_minus_c_signatures_publish_nothing(found, short_run, lost):
    """At five members three signatures are needed; two members alone answer the last question."""

    def relay(member, action, body, deliver):
        last = action == "contribute" and runs_pb2.ContributeRequest.FromString(body).k == 4
        if last and member in ("bank-3", "bank-4", "bank-5"):
            raise lost
        return deliver(body)

    consortium = found(5, relay, allow_roster_change=True)
    with pytest.raises(ReleaseTooFewSigners, match=r"signed by at least 3 members, found 2 \(bank-1, bank-2\)"):
        consortium.run(short_run.model_copy(update={"method": "fedavg"}))
    assert_nothing_published(consortium)


# ---- models ----


def test_a4_models_that_differ_by_the_members_keyed_reports_are_not_published(lying):
    def lie(consortium, member, finished):
        finished.model_report = bytes(32)

    consortium, run = lying(lie)
    with pytest.raises(RunFailed, match="keyed reports are not equal"):
        run()
    assert_nothing_published(consortium)


def test_a4_the_model_report_is_no_hash_that_a_coordinator_could_guess_at(found, short_run):
    """Two epochs, one model: the reports differ, and neither is a hash of the model or its version."""
    runs = [found().run(short_run), found().run(short_run)]
    assert runs[0].artefact == runs[1].artefact
    assert runs[0].model_report != runs[1].model_report
    version = bytes.fromhex(runs[0].released.table.model_digest)
    assert version not in [run.model_report for run in runs]


def test_a_model_that_not_every_member_signed_is_not_published(lying):
    def lie(consortium, member, finished):
        finished.artefact_signature = sign_artefact(DEFAULT_RUN_ID, b"another", consortium.identities[member].private)

    consortium, run = lying(lie)
    with pytest.raises(ReleaseRefused, match="a model signed by bank-2"):
        run()
    assert [status for _, status, _ in consortium.store.runs()] == ["failed"]


@pytest.mark.parametrize("liars", [("bank-1",), ("bank-1", "bank-2", "bank-3")], ids=["one_lies", "all_lie"])
def test_only_the_model_whose_hash_all_members_signed_is_taken(found, short_run, liars):
    def relay(member, action, body, deliver):
        if action == "artefact" and member in liars:
            return runs_pb2.ArtefactReply(artefact=b"another model").SerializeToString()
        return deliver(body)

    consortium = found(3, relay)
    if len(liars) == 3:
        with pytest.raises(RunFailed, match="No member delivered the model whose hash all of them signed"):
            consortium.run(short_run)
        assert_nothing_published(consortium)
    else:
        outcome = consortium.run(short_run)
        assert outcome.artefact == consortium.model_of("bank-2")


def test_under_release_policy_members_no_node_hands_out_the_model_or_its_hash(found, short_run):
    consortium = found(release="members")
    outcome = consortium.run(short_run)

    assert outcome.artefact is None
    assert outcome.artefact_signatures == {}
    assert outcome.released.table.model_digest is None
    assert outcome.released.table.features == ()
    for node in consortium.nodes.values():
        with pytest.raises(MessageRefused, match="releases the model to its members alone"):
            node.handle("artefact", runs_pb2.RunReference(run_id=DEFAULT_RUN_ID).SerializeToString())
    assert len({consortium.model_of(member) for member in consortium.members}) == 1
    assert consortium.model_of("bank-1")


# ---- statistics of a round ----


def test_statistics_that_too_few_members_signed_are_not_shown(found, short_run):
    """Of five members three must have signed the same bytes; here three lie, each in its own way."""

    def relay(member, action, body, deliver):
        answer = deliver(body)
        if action != "contribute":
            return answer
        reply = runs_pb2.ContributeReply.FromString(answer)
        if not reply.upload.progress:
            return answer
        if member in ("bank-1", "bank-2"):
            reply.upload.progress = b'{"loss":0.0}'
        if member == "bank-3":
            k = runs_pb2.ContributeRequest.FromString(body).k - 1
            reply.upload.progress = b'{"loss":1.0}'
            reply.upload.progress_signature = sign_progress(
                DEFAULT_RUN_ID, k, b'{"loss":1.0}', consortium.identities[member].private
            )
        return reply.SerializeToString()

    consortium = found(5, relay)
    outcome = consortium.run(short_run)
    assert dict(outcome.rounds) == {}
    assert not any("loss" in event.details for event in consortium.events())


# ---- what lies on the coordinator's disk, and in everybody's logs ----


@pytest.fixture
def drawn(monkeypatch):
    """Everything that any party draws from the operating system's generator."""
    numbers = []
    real = secrets.token_bytes

    def draw(length=32):
        numbers.append(real(length))
        return numbers[-1]

    monkeypatch.setattr(secrets, "token_bytes", draw)
    return numbers


def forms_of(secret):
    return {secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret).rstrip(b"=")}


def everything_in(folder):
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_the_coordinator_keeps_no_key_seed_sum_or_row_and_no_log_or_journal_shows_one(
    found, drawn, averaging_run, lost, caplog, driver_of
):
    caplog.set_level(logging.DEBUG)
    population = synthetic_population(1200, 1)
    kept = tuple(f for f in population.features if f.name in ("revolving_utilization", "age", "past_due_30_59"))
    columns = [population.id_column, *(feature.name for feature in kept), population.label]
    population = dataclasses.replace(population, features=kept, frame=population.frame[columns])
    public, keys = set(), set()

    def relay(member, action, body, deliver):
        if action == "contribute":
            request = runs_pb2.ContributeRequest.FromString(body)
            if request.k == 1:
                keyed = pb.StoredKeyed.FromString(consortium.node_stores[member].run(DEFAULT_RUN_ID).state)
                keys.update([keyed.tag_key, keyed.sealing_key[:64], keyed.sealing_key[-64:]])
                keys.update([keyed.joined.announced.masking_secret, keyed.joined.announced.sealing_secret])
            if (member, request.k) == ("bank-5", 1):
                raise lost  # so that seeds are given as well
        return deliver(body)

    consortium = found(5, relay, allow_roster_change=True, population=population, release="members")
    outcome = consortium.run(averaging_run)
    driver_of(consortium).finish(DEFAULT_RUN_ID)
    for message in outcome.view.messages:
        public.add(pb.Announcement.FromString(pb.Signed.FromString(message).body).nonce)
    public.add(bytes.fromhex(outcome.proposal.nonce))
    # Twelve bytes are nonces of an AEAD, which travel beside the ciphertext.
    seeds = {number for number in drawn if len(number) >= 16} - public
    assert len(seeds) > 4 * 4 * 2
    assert len(keys) == 1 + 2 + 2 * 5
    model = load_model(consortium.model_of("bank-1"))
    parameters = [float(value) for value in model.parameters if abs(value) > 1e-6]
    sums = {np.float64(value).tobytes() for value in parameters} | {repr(value).encode() for value in parameters}
    sums |= {consortium.model_of("bank-1")[:200], model.parameters.astype("<f4").tobytes()[:16]}
    ids = {name.encode() for name in population.frame[population.id_column]}
    ratios = {value for value in population.frame["revolving_utilization"] if 0 < value < 1}
    rows = ids | {np.float64(value).tobytes() for value in ratios} | {str(value).encode() for value in ratios}
    identities = {identity.private.private_bytes_raw() for identity in consortium.identities.values()}

    at_coordinator = everything_in(consortium.folder / "coordinator")
    assert outcome.last_sealed_sum[:64] in at_coordinator  # the search does find
    for secret in seeds | keys | identities:
        assert not any(form in at_coordinator for form in forms_of(secret))
    assert not [canary for canary in sums | rows if canary in at_coordinator]

    told = caplog.text.encode()
    journals = [store.journal_entries() for store in consortium.node_stores.values()]
    told += json.dumps(journals).encode() + json.dumps([event.details for event in consortium.events()]).encode()
    assert b"joined" in told
    for secret in seeds | keys | identities:
        assert not any(form in told for form in forms_of(secret))
    assert not [canary for canary in sums | rows if canary in told]


def test_a10_a_node_has_no_key_of_the_epoch_on_its_disk_once_the_run_has_ended(found, short_run, driver_of):
    """Not in the database's free pages either: whoever takes the disk later must not open what was recorded."""
    keys = {}

    def relay(member, action, body, deliver):
        if action == "shares" and member not in keys:
            keyed = pb.StoredKeyed.FromString(consortium.node_stores[member].run(DEFAULT_RUN_ID).state)
            announced = keyed.joined.announced
            keys[member] = {keyed.tag_key, announced.masking_secret, announced.sealing_secret}
            keys[member] |= {keyed.sealing_key[start : start + 64] for start in range(0, len(keyed.sealing_key), 4096)}
            folder = everything_in(consortium.folder / member)
            assert all(key in folder for key in keys[member])
        return deliver(body)

    consortium = found(3, relay)
    consortium.run(short_run)
    driver_of(consortium).finish(DEFAULT_RUN_ID)
    for member in consortium.members:
        left = everything_in(consortium.folder / member)
        assert not [key for key in keys[member] if key in left], member
        assert consortium.model_of(member)
