"""A malicious coordinator at the messages of a sum: survivor sets, repeats, order (A1, A2, A6, A7, A8).

Attacks are made in the middle of an honest run, at the node's own `handle`; nothing may be revealed, and the run
must then finish with the model of an undisturbed one.
"""

import itertools
from dataclasses import replace

import pytest

from coordinator.sum_round import RunFailed
from nodes.participation import StepRefused
from nodes.runtime import MessageRefused
from protos.runs.v1 import runs_pb2
from protos.sealed_sum import sealed_sum_pb2 as pb
from protos.sealed_sum.errors import (
    CohortRefused,
    EpochEnded,
    SealedSumError,
    SeedAndShareRefused,
    ShareInvalid,
    SurvivorSetRefused,
)
from protos.sealed_sum.memory import EpochMemory
from simulations.in_process_consortium import DEFAULT_RUN_ID

MEMBERS = tuple(f"bank-{number}" for number in range(1, 6))
VICTIM = "bank-1"
K = 1
REQUESTS = {
    "contribute": runs_pb2.ContributeRequest,
    "seeds": runs_pb2.SeedsRequest,
    "shares": runs_pb2.SharesRequest,
}


def seeds(*dropped, k=K, survivors=None):
    survivors = [m for m in MEMBERS if m not in dropped] if survivors is None else survivors
    return runs_pb2.SeedsRequest(run_id=DEFAULT_RUN_ID, k=k, survivors=survivors, dropped=dropped).SerializeToString()


def shares(*dropped, k=K, survivors=None, encrypted=None):
    survivors = [m for m in MEMBERS if m not in dropped] if survivors is None else survivors
    return runs_pb2.SharesRequest(
        run_id=DEFAULT_RUN_ID, k=k, survivors=survivors, dropped=dropped, encrypted_shares=encrypted or {}
    ).SerializeToString()


def contribute(k, openings=()):
    request = runs_pb2.ContributeRequest(run_id=DEFAULT_RUN_ID, k=k)
    for number, sealed in openings:
        request.openings.add(k=number, sealed_sum=sealed, survivors=MEMBERS)
    return request.SerializeToString()


def answer_of(kind, reply):
    return kind.FromString(pb.Signed.FromString(runs_pb2.UnmaskReply.FromString(reply).answer).body)


class Victim:
    """One node in the middle of sum K, everybody having uploaded."""

    def __init__(self, consortium, encrypted):
        self.consortium = consortium
        self.encrypted = encrypted

    @property
    def store(self):
        return self.consortium.node_stores[VICTIM]

    def handle(self, action, body):
        return self.consortium.nodes[VICTIM].handle(action, body)

    def refuses(self, action, body, error, match=None):
        """Also when it is asked again, and after a restart; and its state is what it was."""
        before = self.store.run(DEFAULT_RUN_ID)
        for restart in (False, False, True):
            if restart:
                self.consortium.restart_node(VICTIM)
            with pytest.raises(error, match=match):
                self.handle(action, body)
        assert self.store.run(DEFAULT_RUN_ID) == before


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, found_in, short_run):
    with found_in(tmp_path_factory.mktemp("undisturbed"), 5) as consortium:
        return consortium.run(short_run).released.table.model_digest


@pytest.fixture
def attacked(found, short_run, undisturbed):
    """Runs `attack(victim)` between the uploads and the shares of sum K; the honest run must then finish."""

    def run(attack, *, finishes=True, **options):
        done = []

        def relay(member, action, body, deliver):
            if not done and action == "shares" and runs_pb2.SharesRequest.FromString(body).k == K:
                assert member == VICTIM  # the first one asked
                done.append(member)
                attack(Victim(consortium, dict(runs_pb2.SharesRequest.FromString(body).encrypted_shares)))
            return deliver(body)

        consortium = found(5, relay, **options)
        if finishes:
            assert consortium.run(short_run).released.table.model_digest == undisturbed
        else:
            with pytest.raises(RunFailed):
                consortium.run(short_run)
        assert done
        return consortium

    return run


# ---- A1, A2: survivor sets ----


def test_a1_a_node_gives_nothing_for_survivor_sets_that_are_not_allowed(attacked):
    def attack(victim):
        for ask in (seeds, shares):
            action = ask.__name__
            victim.refuses(action, ask(*MEMBERS[3:]), CohortRefused, "at least 4 survivors, found 3")
            victim.refuses(action, ask(*MEMBERS[1:]), CohortRefused, "at least 4 survivors, found 1")
            victim.refuses(action, ask(VICTIM), CohortRefused, f"{VICTIM} among the survivors")
            for survivors, dropped in (
                (MEMBERS[:4], ()),
                (MEMBERS, ("bank-5",)),
                ((*MEMBERS[:4], "mallory"), ()),
                ((*MEMBERS, "mallory"), ()),
                (MEMBERS[:4] * 2, ("bank-5",)),
                ((), ()),
                ((VICTIM,) * 5, ()),
                (MEMBERS[:4], ("mallory",)),
                (MEMBERS[:4], ("",)),
            ):
                victim.refuses(action, ask(*dropped, survivors=survivors), CohortRefused, "make up the cohort")
        victim.refuses("seeds", seeds(), SurvivorSetRefused, "found none; ask for shares instead")

    attacked(attack)


def test_a6_one_peers_seed_and_share_are_never_both_given_seed_first(attacked):
    """After the seed of bank-5 the survivor set with it is refused for ever, so the honest sum cannot go on."""

    def attack(victim):
        given = answer_of(pb.SeedReply, victim.handle("seeds", seeds("bank-5")))
        assert [revealed.peer for revealed in given.seeds] == ["bank-5"]
        victim.refuses("shares", shares(encrypted=victim.encrypted), SeedAndShareRefused, "bank-5")
        victim.refuses("shares", shares("bank-4", encrypted=victim.encrypted), SeedAndShareRefused, "bank-5")
        victim.refuses("seeds", seeds("bank-4"), SeedAndShareRefused, "bank-5")
        # What fits what it has said before, it still answers, and opens without bank-5.
        reply = answer_of(pb.ShareReply, victim.handle("shares", shares("bank-5", encrypted=victim.encrypted)))
        assert [share.owner for share in reply.shares] == ["bank-2", "bank-3", "bank-4"]

    attacked(attack, finishes=False)


def test_a6_one_peers_seed_and_share_are_never_both_given_share_first(attacked):
    def attack(victim):
        first = victim.handle("shares", shares(encrypted=victim.encrypted))
        assert [share.owner for share in answer_of(pb.ShareReply, first).shares] == list(MEMBERS[1:])
        for gone in MEMBERS[1:]:
            victim.refuses("seeds", seeds(gone), SeedAndShareRefused, gone)
        assert victim.handle("shares", shares(encrypted=victim.encrypted)) == first

    attacked(attack)


def test_a6_shares_are_given_for_one_survivor_set_only(attacked):
    def attack(victim):
        first = victim.handle("shares", shares(encrypted=victim.encrypted))
        for gone in MEMBERS[1:]:
            victim.refuses("shares", shares(gone, encrypted=victim.encrypted), SurvivorSetRefused, "one U a sum")
        assert victim.handle("shares", shares(encrypted=victim.encrypted)) == first

    attacked(attack)


def test_a6_a_survivor_set_does_not_grow_again(attacked):
    def attack(victim):
        victim.handle("shares", shares("bank-5", encrypted=victim.encrypted))
        victim.refuses("shares", shares(encrypted=victim.encrypted), SurvivorSetRefused, r"shrink only|one U a sum")
        victim.refuses("seeds", seeds("bank-4", "bank-5"), CohortRefused, "at least 4 survivors")

    attacked(attack, finishes=False)


def test_a12_shares_that_are_missing_foreign_or_changed_are_refused(attacked):
    def attack(victim):
        genuine = victim.encrypted
        one, other = sorted(genuine)[:2]
        flipped = bytearray(genuine[one])
        flipped[-1] ^= 1
        foreign = pb.EncryptedShare.FromString(genuine[one])
        foreign.recipient = "bank-2"
        for changes, match in (
            ({one: genuine[other], other: genuine[one]}, None),
            ({one: bytes(flipped)}, None),
            ({one: b""}, None),
            ({one: foreign.SerializeToString()}, "share for bank-1"),
            ({one: bytes(100_000)}, None),
        ):
            victim.refuses("shares", shares(encrypted={**genuine, **changes}), SealedSumError, match)
        without = {owner: share for owner, share in genuine.items() if owner != one}
        victim.refuses("shares", shares(encrypted=without), ShareInvalid, f"expected {one}'s encrypted share")

    attacked(attack)


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(MEMBERS[2:], 2)))
def test_a2_different_survivors_told_to_different_nodes_open_nobody(attacked, first, second):
    """Each node answers what it is allowed to. Nothing then opens, neither one member nor any set below u."""

    def attack(victim):
        nodes = victim.consortium.nodes
        told = {member: first if i % 2 else second for i, member in enumerate(MEMBERS)}
        seeds_of, shares_of = {}, {}
        for member, gone in told.items():
            if member == gone:
                continue
            reply = answer_of(pb.SeedReply, nodes[member].handle("seeds", seeds(gone)))
            seeds_of[member] = {revealed.peer for revealed in reply.seeds}
            ask = shares(gone, encrypted=encrypted_to(victim.consortium, member))
            reply = answer_of(pb.ShareReply, nodes[member].handle("shares", ask))
            shares_of[member] = {share.owner for share in reply.shares}
        bounds = victim.consortium.agreement.bounds(5)
        given = {owner: sum(owner in owners for owners in shares_of.values()) for owner in MEMBERS}
        for size in range(1, bounds.min_survivors):
            for inside in itertools.combinations(MEMBERS, size):
                masks_known = all(
                    peer in seeds_of.get(member, ()) or member in seeds_of.get(peer, ())
                    for member in inside
                    for peer in MEMBERS
                    if peer not in inside
                )
                # One colluder adds its own view: its shares, and its seeds with everybody.
                enough = all(given[member] + bounds.max_colluders >= bounds.shamir_threshold for member in inside)
                assert not (masks_known and enough), f"{inside} can be opened"

    attacked(attack, finishes=False)


def encrypted_to(consortium, member):
    """Shares of the current uploads that are addressed to a member, as the coordinator holds them."""
    found = {}
    for owner in MEMBERS:
        stored = consortium.node_stores[owner].blob(DEFAULT_RUN_ID, "upload")
        for share in pb.Upload.FromString(pb.Signed.FromString(stored).body).shares:
            if share.recipient == member:
                found[owner] = share.SerializeToString(deterministic=True)
    return found


# ---- order ----


def test_a8_requests_about_other_sums_are_refused_or_answered_with_where_the_node_stands(attacked):
    def attack(victim):
        for k in (0, K + 1, 2**32 - 1):
            victim.refuses("seeds", seeds("bank-5", k=k), StepRefused, f"about sum {K}, found one about sum {k}")
            victim.refuses("shares", shares(k=k, encrypted=victim.encrypted), StepRefused, f"about sum {K}")
        victim.refuses("contribute", contribute(0), StepRefused, "request for sum 1, found one for sum 0")
        before = victim.store.run(DEFAULT_RUN_ID)
        for body in (
            contribute(K + 1),
            contribute(2**32 - 1),
            contribute(K + 2, [(K + 1, b"anything")]),
            contribute(K, [(2**32 - 1, b"")]),
        ):
            reply = runs_pb2.ContributeReply.FromString(victim.handle("contribute", body))
            assert reply.WhichOneof("outcome") == "behind"
            assert reply.behind.opened == K
        assert victim.store.run(DEFAULT_RUN_ID) == before
        victim.refuses("artefact", runs_pb2.RunReference(run_id=DEFAULT_RUN_ID).SerializeToString(), StepRefused)

    attacked(attack)


def test_a8_the_same_sum_is_never_masked_twice(attacked):
    """Asked again, whatever else the request says, the node sends the stored bytes."""

    def attack(victim):
        stored = victim.store.blob(DEFAULT_RUN_ID, "upload")
        for body in (contribute(K), contribute(K, [(0, b"another sum")]), contribute(K)):
            reply = runs_pb2.ContributeReply.FromString(victim.handle("contribute", body))
            assert reply.upload.upload == stored
            victim.consortium.restart_node(VICTIM)

    attacked(attack)


def test_a8_a_node_that_lost_its_stored_upload_sits_the_sum_out(attacked):
    """Another upload under the same number would show its input, masked twice, as a difference."""

    def attack(victim):
        with victim.store._transaction() as db:
            db.execute("delete from blobs where kind = 'upload'")
        victim.refuses("contribute", contribute(K), SealedSumError, "stored upload is unchanged")

    attacked(attack)


def test_a_run_that_is_over_answers_no_more_sums(found, short_run):
    consortium = found(3)
    consortium.run(short_run)
    node, store = consortium.nodes[VICTIM], consortium.node_stores[VICTIM]
    before = store.run(DEFAULT_RUN_ID)
    trio = MEMBERS[:3]
    last = consortium.store.sealed_sums(DEFAULT_RUN_ID, 3)[0].sealed_sum
    for action, body in (
        ("seeds", seeds(k=4, survivors=trio)),
        ("shares", shares(k=4, survivors=trio)),
        ("contribute", contribute(5, [(4, last)])),
        ("contribute", contribute(4, [(4, last)])),
    ):
        with pytest.raises((StepRefused, SealedSumError)):
            node.handle(action, body)
    assert store.run(DEFAULT_RUN_ID) == before
    assert runs_pb2.ContributeReply.FromString(node.handle("contribute", contribute(4))).WhichOneof("outcome")


def test_messages_about_a_run_that_was_never_joined_are_refused(attacked):
    def attack(victim):
        for run_id in ("run-00000009", "", "x" * 1000):
            for action, message in (
                ("cohort", runs_pb2.CohortRequest(run_id=run_id)),
                ("deal", runs_pb2.DealRequest(run_id=run_id)),
                ("contribute", runs_pb2.ContributeRequest(run_id=run_id)),
                ("seeds", runs_pb2.SeedsRequest(run_id=run_id)),
                ("shares", runs_pb2.SharesRequest(run_id=run_id)),
                ("artefact", runs_pb2.RunReference(run_id=run_id)),
            ):
                victim.refuses(action, message.SerializeToString(), MessageRefused, "has not joined run")

    attacked(attack)


# ---- A7: one input, one survivor set ----


def test_a7_a_training_step_for_another_roster_is_refused_without_the_flag(found, short_run):
    """The coordinator says at a later step that somebody dropped who did not, and asks for both kinds of answer."""
    refused = []

    def relay(member, action, body, deliver):
        request = REQUESTS[action].FromString(body) if action == "shares" else None
        if request is not None and request.k == 2:
            node = consortium.nodes[member]
            gone = next(m for m in reversed(MEMBERS) if m != member)
            smaller = shares(gone, k=2, encrypted=dict(request.encrypted_shares))
            with pytest.raises(SurvivorSetRefused, match="roster of the first training step"):
                node.handle("shares", smaller)
            refused.append(member)
        return deliver(body)

    consortium = found(5, relay)
    consortium.run(short_run)
    assert len(refused) == 5


def test_a_node_whose_epoch_ended_gives_nothing_more(attacked):
    def attack(victim):
        memory = EpochMemory.from_bytes(victim.store.run(DEFAULT_RUN_ID).memory)
        victim.store.save_memory(DEFAULT_RUN_ID, replace(memory, ended=True).to_bytes())
        victim.consortium.restart_node(VICTIM)
        victim.refuses("seeds", seeds("bank-5"), EpochEnded)
        victim.refuses("shares", shares(encrypted=victim.encrypted), EpochEnded)

    attacked(attack, finishes=False)
