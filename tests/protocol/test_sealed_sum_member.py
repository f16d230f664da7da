"""What a node answers and refuses during a sum: rules A1, A3, A6, A7, A8, A12, E4."""

import hashlib

import numpy as np
import pytest

from protos.sealed_sum import tags
from protos.sealed_sum.aggregator import Collecting
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.ciphertext import unpack
from protos.sealed_sum.errors import (
    CohortRefused,
    HeaderMismatch,
    MalformedMessage,
    SeedAndShareRefused,
    ShareInvalid,
    StaleSum,
    SurvivorSetRefused,
    ValueOutOfRange,
    WrongEpoch,
)
from protos.sealed_sum.header import SumHeader, chain
from protos.sealed_sum.layout import Field, Layout, encode
from protos.sealed_sum.masking import expand, mask_total
from protos.sealed_sum.member import (
    Contribution,
    contribute,
    open_sum,
    remember,
    resend,
    reveal_seeds,
    reveal_shares,
)
from protos.sealed_sum.memory import EpochMemory
from protos.sealed_sum.parameters import DATA_SLOTS, PLAIN_MODULUS, POLY_MODULUS_DEGREE
from protos.sealed_sum.sealed_sum_pb2 import EncryptedShare, SeedReply, ShareReply, Signed, Upload
from protos.sealed_sum.secret import MaskSeed
from simulations.benchmarks.sealed_sum import Consortium

LAYOUT = Layout((Field("update", 8, -1.0, 1.0, 1e-5),))
VALUES = {"update": np.linspace(-1, 1, 8)}
MODEL = bytes([9] * 32)


class Node:
    """One node of five at sum k = 1, everybody having uploaded."""

    def __init__(self, consortium, **header):
        self.consortium = consortium
        self.cohort = consortium.view.cohort
        self.name = self.cohort[0]
        self.state = consortium.states[self.name]
        self.header = consortium.header(LAYOUT, 1, **header)
        self.collected = Collecting.start(consortium.view, 1, 1)
        self.made = {}
        for member, state in consortium.states.items():
            self.made[member] = contribute(state, remember(state), self.header, LAYOUT, VALUES, consortium.rng)
            self.collected = self.collected.receive(member, self.made[member].upload)
        self.memory = self.made[self.name].memory
        self.encrypted = {o: self.collected.received[o].shares[self.name] for o in self.cohort[1:]}

    def roster(self, *dropped):
        return [m for m in self.cohort if m not in dropped]

    def seeds(self, memory, *dropped, header=None):
        return reveal_seeds(self.state, memory, header or self.header, self.roster(*dropped), dropped)

    def shares(self, memory, *dropped, header=None, encrypted=None):
        encrypted = self.encrypted if encrypted is None else encrypted
        return reveal_shares(self.state, memory, header or self.header, self.roster(*dropped), dropped, encrypted)


@pytest.fixture(scope="module")
def consortium():
    return Consortium.found(Bounds(5, 1, 4, 3))


@pytest.fixture(scope="module")
def wide():
    """Six members without colluders: two may drop, so that survivor sets can shrink twice."""
    return Node(Consortium.found(Bounds(6, 0, 4, 3)))


@pytest.fixture(scope="module")
def node(consortium):
    return Node(consortium)


def body_of(kind, message):
    return kind.FromString(Signed.FromString(message).body)


# ---- A1, A2: survivor sets ----


def test_a1_node_refuses_to_answer_when_named_as_dropped(node):
    for ask in (node.seeds, node.shares):
        with pytest.raises(CohortRefused, match="among the survivors"):
            ask(node.memory, node.name)


def test_a1_node_refuses_fewer_survivors_than_u(node):
    for ask in (node.seeds, node.shares):
        with pytest.raises(CohortRefused, match="at least 4 survivors, found 3"):
            ask(node.memory, *node.cohort[3:])


def test_a1_upload_shares_the_seed_with_peers_only(consortium):
    member = consortium.view.cohort[2]
    state = consortium.states[member]
    made = contribute(state, remember(state), consortium.header(LAYOUT, 1), LAYOUT, VALUES, consortium.rng)
    peers = [name for name in consortium.view.cohort if name != member]

    assert [share.recipient for share in body_of(Upload, made.upload).shares] == peers


def test_a1_node_gives_no_share_of_its_own_seed(node):
    reply = body_of(ShareReply, node.shares(node.memory).message)

    assert [share.owner for share in reply.shares] == list(node.cohort[1:])


def test_a2_node_refuses_sets_that_are_not_the_cohort(node):
    everybody = list(node.cohort)
    for survivors, dropped in (
        (everybody, ["member-04"]),
        (everybody[:4], []),
        ([*everybody, "stranger"], []),
        (everybody[:4] + everybody[:1], everybody[4:]),
        (everybody[:4], ["stranger"]),
    ):
        with pytest.raises(CohortRefused, match="make up the cohort"):
            reveal_seeds(node.state, node.memory, node.header, survivors, dropped)
        with pytest.raises(CohortRefused, match="make up the cohort"):
            reveal_shares(node.state, node.memory, node.header, survivors, dropped, node.encrypted)


# ---- A3: the header is in the seeds ----


@pytest.mark.parametrize(
    "change",
    [
        {"purpose": "evaluate"},
        {"task": "fraud"},
        {"input_class": "static"},
        {"model_digest": MODEL},
        {"parameters_digest": MODEL},
        {"previous": MODEL},
        {"k": 2},
        {"layout_digest": MODEL},
        {"epoch_id": MODEL},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a3_every_part_of_the_header_changes_what_the_sum_is_bound_to(node, change):
    other = SumHeader(**(vars(node.header) | change))

    assert other.digest() != node.header.digest()


def test_a3_masks_of_members_with_different_headers_do_not_cancel(consortium):
    """Model inconsistency: one member is shown another model. The masks leave noise where its update would be."""
    real = consortium.header(LAYOUT, 1, model_digest=MODEL)
    zero = consortium.header(LAYOUT, 1)
    states = consortium.states
    first, second = consortium.view.cohort[:2]

    def masked(member, header):
        made = contribute(states[member], remember(states[member]), header, LAYOUT, VALUES, consortium.rng)
        return made.memory, header

    memory, _ = masked(first, real)
    others, _ = masked(second, zero)
    roster, gone = [m for m in consortium.view.cohort if m != second], [second]
    mine = body_of(SeedReply, reveal_seeds(states[first], memory, real, roster, gone).message).seeds[0].seed
    roster, gone = [m for m in consortium.view.cohort if m != first], [first]
    theirs = body_of(SeedReply, reveal_seeds(states[second], others, zero, roster, gone).message).seeds[0].seed

    assert mine != theirs


def test_a8_no_two_sums_share_a_pairwise_seed(consortium):
    first, second = consortium.view.cohort[:2]
    roster, seeds = [name for name in consortium.view.cohort if name != second], set()
    state, memory = consortium.states[first], remember(consortium.states[first])
    for k in (1, 2, 3):
        header = consortium.header(LAYOUT, k)
        memory = contribute(state, memory, header, LAYOUT, VALUES, consortium.rng).memory
        seeds.add(body_of(SeedReply, reveal_seeds(state, memory, header, roster, [second]).message).seeds[0].seed)

    assert len(seeds) == 3


def test_a3_pairwise_seeds_agree_when_headers_do(node):
    first, second = node.cohort[:2]
    roster, gone = [m for m in node.cohort if m != second], [second]
    mine = reveal_seeds(node.state, node.memory, node.header, roster, gone)
    roster, gone = [m for m in node.cohort if m != first], [first]
    theirs = reveal_seeds(node.consortium.states[second], node.made[second].memory, node.header, roster, gone)

    assert body_of(SeedReply, mine.message).seeds[0].seed == body_of(SeedReply, theirs.message).seeds[0].seed


def test_a3_node_refuses_a_layout_other_than_the_headers(consortium, node):
    other = Layout((Field("update", 8, -1.0, 1.0, 1e-4),))
    with pytest.raises(HeaderMismatch, match="layout"):
        contribute(node.state, remember(node.state), node.header, other, VALUES, consortium.rng)
    with pytest.raises(HeaderMismatch, match="layout"):
        open_sum(node.state, node.memory, node.header, other, b"")


def test_a3_the_next_header_is_chained_to_the_opened_integers_and_their_survivors(consortium):
    fresh = Consortium(
        consortium.view, consortium.states, {m: remember(s) for m, s in consortium.states.items()}, consortium.rng
    )
    header = fresh.header(LAYOUT, 1)
    sealed = fresh.seal(header, LAYOUT, dict.fromkeys(fresh.view.cohort, VALUES))
    opened = fresh.open(fresh.view.cohort[0], header, LAYOUT, sealed)
    link = chain(header.digest(), opened, fresh.view.cohort)
    changed = opened.integers["update"].copy()
    changed[3] += 1

    assert link == chain(header.digest(), opened, list(reversed(fresh.view.cohort)))
    assert link != chain(MODEL, opened, fresh.view.cohort)
    assert link != chain(header.digest(), opened, fresh.view.cohort[:4])
    assert link != chain(header.digest(), type(opened)({"update": changed}, 5, LAYOUT), fresh.view.cohort)


# ---- masks ----


@pytest.fixture(scope="module")
def unmasked(consortium):
    """One upload as a sealing-key holder sees it, and what is in it: input with tags, self mask, pairwise masks."""
    member, drawn = consortium.view.cohort[0], []

    def rng(size):
        drawn.append(consortium.rng(size))
        return drawn[-1]

    state, header = consortium.states[member], consortium.header(LAYOUT, 1)
    made = contribute(state, remember(state), header, LAYOUT, VALUES, rng)
    data = np.zeros((1, DATA_SLOTS), dtype=np.uint64)
    data[0, :4] = encode(LAYOUT, VALUES, 5)
    clear = tags.append(state.keyed.tag_key, state.epoch_id, header.digest(), member, data)[0]
    pairwise = []
    for peer in state.peers:
        roster = [name for name in state.cohort if name != peer]
        reply = reveal_seeds(state, made.memory, header, roster, [peer])
        pairwise.append((peer, MaskSeed(body_of(SeedReply, reply.message).seeds[0].seed)))
    masked = state.keyed.sealing_key.decrypt(unpack(body_of(Upload, made.upload).ciphertexts, 1))[0]
    return masked, clear, MaskSeed(drawn[0]), pairwise, member


def minus(left, right):
    return (left + np.uint64(PLAIN_MODULUS) - right) % np.uint64(PLAIN_MODULUS)


def test_the_self_mask_covers_every_slot_tags_included(unmasked):
    """Without it, whoever learns the pairwise seeds of a late upload would have the input (and its tags)."""
    masked, clear, seed, pairwise, member = unmasked
    rest = minus(minus(masked, clear), mask_total(member, None, pairwise, POLY_MODULUS_DEGREE))

    assert np.array_equal(rest, expand(seed, POLY_MODULUS_DEGREE))
    assert rest.all()


def test_the_pairwise_masks_cover_every_slot_tags_included(unmasked):
    """Without them the self mask, which S2b opens for every survivor, would be all that hides an input."""
    masked, clear, seed, pairwise, member = unmasked
    rest = minus(minus(masked, clear), expand(seed, POLY_MODULUS_DEGREE))

    assert np.array_equal(rest, mask_total(member, None, pairwise, POLY_MODULUS_DEGREE))
    assert rest.all()


def test_member_refuses_its_own_value_out_of_range_without_naming_it(consortium, node):
    values = {"update": np.array([0.0, 1.5, np.nan, 0, 0, 0, 0, 0])}
    with pytest.raises(ValueOutOfRange, match=r"field 'update'.*found 2 outside") as refused:
        contribute(node.state, remember(node.state), node.header, LAYOUT, values, consortium.rng)
    assert "1.5" not in str(refused.value)


# ---- A6: seeds or shares ----


def test_a6_node_gives_a_seed_or_a_share_of_one_peer_never_both(node):
    gone = node.cohort[4]
    after_seed = node.seeds(node.memory, gone).memory
    after_share = node.shares(node.memory).memory

    with pytest.raises(SeedAndShareRefused, match=gone):
        node.shares(after_seed)
    with pytest.raises(SeedAndShareRefused, match=gone):
        node.seeds(after_share, gone)


def test_a6_seed_and_share_rule_survives_the_disk(node):
    gone = node.cohort[4]
    after_seed = EpochMemory.from_bytes(node.seeds(node.memory, gone).memory.to_bytes())
    after_share = EpochMemory.from_bytes(node.shares(node.memory).memory.to_bytes())

    with pytest.raises(SeedAndShareRefused):
        node.shares(after_seed)
    with pytest.raises(SeedAndShareRefused):
        node.seeds(after_share, gone)


def test_a6_survivors_only_shrink_and_are_frozen_by_the_shares(wide):
    first, second = wide.cohort[4:]
    once = wide.seeds(wide.memory, first)
    twice = wide.seeds(once.memory, first, second)
    shares = wide.shares(twice.memory, first, second)

    assert [s.peer for s in body_of(SeedReply, twice.message).seeds] == [first, second]
    with pytest.raises(SeedAndShareRefused):
        wide.shares(twice.memory, second)
    assert wide.shares(shares.memory, first, second).message == shares.message
    again = wide.seeds(shares.memory, first, second)  # a coordinator that was killed has lost them
    assert (again.message, again.memory) == (twice.message, shares.memory)


def test_a6_after_the_shares_no_seed_is_given_that_was_not_given_before(wide):
    gone = wide.cohort[5]
    shares = wide.shares(wide.memory, gone)  # S2a never reached this node
    with pytest.raises(SurvivorSetRefused, match="after the shares"):
        wide.seeds(shares.memory, gone)
    with pytest.raises(SeedAndShareRefused):
        wide.seeds(shares.memory, gone, wide.cohort[4])


def test_a6_a_second_survivor_set_is_refused_once_shares_were_given(wide):
    given = wide.shares(wide.memory)
    with pytest.raises(SurvivorSetRefused, match="one U a sum"):
        wide.shares(given.memory, wide.cohort[5])


def test_a6_a_member_that_dropped_does_not_come_back(wide):
    """Even where no seed was given for it yet, e.g. after a narrower share request was refused."""
    memory = wide.seeds(wide.memory, wide.cohort[5]).memory
    forgotten = EpochMemory.from_bytes(memory.to_bytes())
    current = forgotten.current
    unseeded = type(current)(current.header, current.upload_digest, current.survivors, frozenset(), b"")
    with pytest.raises(SurvivorSetRefused, match="shrink only"):
        wide.shares(type(forgotten)(forgotten.epoch_id, last_k=1, current=unseeded))


def test_a6_nobody_dropped_means_no_seeds(node):
    with pytest.raises(SurvivorSetRefused, match="found none"):
        node.seeds(node.memory)


def test_a6_a_repeated_request_gets_identical_bytes(node):
    gone = node.cohort[4]
    seeds = node.seeds(node.memory, gone)
    shares = node.shares(seeds.memory, gone)

    assert node.seeds(seeds.memory, gone).message == seeds.message
    assert node.shares(shares.memory, gone) == shares


# ---- A7: one input, one survivor set ----


def next_sum(node, memory, k, **header):
    header = node.consortium.header(LAYOUT, k, **header)
    made = {
        m: contribute(s, remember(s), header, LAYOUT, VALUES, node.consortium.rng)
        for m, s in node.consortium.states.items()
    }
    mine = contribute(node.state, memory, header, LAYOUT, VALUES, node.consortium.rng)
    encrypted = {
        owner: next(
            share.SerializeToString(deterministic=True)
            for share in body_of(Upload, made[owner].upload).shares
            if share.recipient == node.name
        )
        for owner in node.cohort[1:]
    }
    return header, mine.memory, encrypted


def test_a7_static_input_is_opened_for_one_survivor_set_an_epoch(consortium):
    node = Node(consortium, input_class="static", purpose="bins")
    opened = node.shares(node.memory).memory
    # Another scale and another model are no other data.
    header, memory, encrypted = next_sum(node, opened, 2, input_class="static", purpose="bins", model_digest=MODEL)
    other, again, more = next_sum(node, opened, 2, input_class="static", purpose="counts")

    with pytest.raises(SurvivorSetRefused, match="static input was opened before"):
        node.shares(memory, node.cohort[4], header=header, encrypted=encrypted)
    assert node.shares(memory, header=header, encrypted=encrypted).message
    assert node.shares(again, node.cohort[4], header=other, encrypted=more).message


def test_a7_training_roster_is_frozen_at_the_first_opened_step(consortium):
    node = Node(consortium)
    opened = node.shares(node.memory).memory
    header, memory, encrypted = next_sum(node, opened, 2, model_digest=MODEL)

    with pytest.raises(SurvivorSetRefused, match="first training step"):
        node.shares(memory, node.cohort[4], header=header, encrypted=encrypted)


def test_a7_roster_may_change_between_models_only_if_the_agreement_says_so(consortium):
    node = Node(consortium)
    memory = remember(node.state, allow_roster_change=True)
    memory = contribute(node.state, memory, node.header, LAYOUT, VALUES, consortium.rng).memory
    opened = EpochMemory.from_bytes(node.shares(memory).memory.to_bytes())
    header, later, encrypted = next_sum(node, opened, 2, model_digest=MODEL)
    same, repeat, more = next_sum(node, opened, 2)

    assert node.shares(later, node.cohort[4], header=header, encrypted=encrypted).message
    with pytest.raises(SurvivorSetRefused, match="step input was opened before"):
        node.shares(repeat, node.cohort[4], header=same, encrypted=more)


def test_a7_a_live_node_that_was_left_out_is_told(consortium):
    fresh = Consortium(
        consortium.view, consortium.states, {m: remember(s) for m, s in consortium.states.items()}, consortium.rng
    )
    header, gone = fresh.header(LAYOUT, 1), fresh.view.cohort[4]
    collecting = Collecting.start(fresh.view, 1, 1)
    for member in fresh.view.cohort:
        collecting = collecting.receive(member, fresh.contribute(member, header, LAYOUT, VALUES))
    sealed = fresh.reveal(header, collecting.close().drop({gone}))

    assert open_sum(fresh.states[gone], fresh.memories[gone], header, LAYOUT, sealed).left_out
    assert not open_sum(fresh.states[gone], remember(fresh.states[gone]), header, LAYOUT, sealed).left_out
    assert not open_sum(fresh.states["member-00"], fresh.memories["member-00"], header, LAYOUT, sealed).left_out


# ---- A8: resends and sum numbers ----


def test_a8_resend_returns_identical_bytes(node):
    made = node.made[node.name]
    stored = Contribution.from_bytes(made.to_bytes())

    assert resend(stored.memory, stored.upload) == made.upload
    with pytest.raises(StaleSum, match="unchanged"):
        resend(stored.memory, stored.upload[:-1] + bytes([stored.upload[-1] ^ 1]))
    with pytest.raises(StaleSum):
        resend(remember(node.state), made.upload)


def test_a8_sum_numbers_increase_strictly_and_survive_the_disk(node):
    memory = EpochMemory.from_bytes(node.memory.to_bytes())
    for k in (0, 1):
        with pytest.raises(StaleSum, match="above 1"):
            contribute(node.state, memory, node.consortium.header(LAYOUT, k), LAYOUT, VALUES, node.consortium.rng)
    assert (
        contribute(
            node.state, memory, node.consortium.header(LAYOUT, 5), LAYOUT, VALUES, node.consortium.rng
        ).memory.last_k
        == 5
    )


def test_a8_nothing_is_answered_about_an_earlier_or_unknown_sum(node):
    later = contribute(
        node.state, node.memory, node.consortium.header(LAYOUT, 2), LAYOUT, VALUES, node.consortium.rng
    ).memory
    for memory in (later, remember(node.state)):
        with pytest.raises(StaleSum):
            node.shares(memory)
        with pytest.raises(StaleSum):
            node.seeds(memory, node.cohort[4])


def test_a3_nothing_is_answered_under_another_header(node):
    other = node.consortium.header(LAYOUT, 1, model_digest=MODEL)
    with pytest.raises(HeaderMismatch):
        node.shares(node.memory, header=other)
    with pytest.raises(HeaderMismatch):
        node.seeds(node.memory, node.cohort[4], header=other)


def test_a10_nothing_is_answered_about_another_epoch(node):
    other = SumHeader(**(vars(node.header) | {"epoch_id": MODEL}))
    with pytest.raises(WrongEpoch):
        node.shares(node.memory, header=other)
    with pytest.raises(WrongEpoch):
        contribute(node.state, remember(node.state), other, LAYOUT, VALUES, node.consortium.rng)


# ---- A12: shares ----


def test_a12_a_share_is_bound_to_owner_recipient_and_sum(node):
    first, second = node.cohort[1:3]
    shares = dict(node.encrypted)
    other_sum = next_sum(node, remember(node.state), 2)[2]
    elsewhere = body_of(Upload, node.made[first].upload).shares[1].SerializeToString(deterministic=True)

    for wrong in (
        shares | {first: shares[second]},
        shares | {first: other_sum[first]},
        shares | {first: flipped(shares[first])},
    ):
        with pytest.raises(ShareInvalid, match="authenticate"):
            node.shares(node.memory, encrypted=wrong)
    with pytest.raises(MalformedMessage, match="another member"):
        node.shares(node.memory, encrypted=shares | {first: elsewhere})
    with pytest.raises(ShareInvalid, match="found none"):
        node.shares(node.memory, encrypted={first: shares[first]})
    with pytest.raises(MalformedMessage):
        node.shares(node.memory, encrypted=shares | {first: bytes(10_000)})


def flipped(message):
    share = EncryptedShare.FromString(message)
    share.sealed_share = bytes([share.sealed_share[0] ^ 1]) + share.sealed_share[1:]
    return share.SerializeToString(deterministic=True)


def test_a12_the_upload_commits_to_a_salted_seed(consortium):
    drawn = []

    def rng(size):
        drawn.append(consortium.rng(size))
        return drawn[-1]

    state = consortium.states["member-00"]
    made = contribute(state, remember(state), consortium.header(LAYOUT, 1), LAYOUT, VALUES, rng)
    seed, salt = drawn[:2]

    assert body_of(Upload, made.upload).seed_commitment == hashlib.sha256(seed + salt).digest()
    assert seed not in made.to_bytes()
