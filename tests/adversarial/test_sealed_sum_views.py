"""A coordinator with colluding members, against one other member: what it can open, and what it cannot tell apart.

Adversary: the coordinator, malicious (other survivor sets to every node, requests in any order), with c members and
thus with the sealing key. What honest nodes give away is taken from the real `reveal_seeds` and `reveal_shares`.
"""

import itertools

import numpy as np
import pytest

from protos.sealed_sum import shamir, tags
from protos.sealed_sum.aggregator import Collecting
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.ciphertext import unpack
from protos.sealed_sum.errors import BoundsViolated, SealedSumError
from protos.sealed_sum.layout import Field, Layout, encode
from protos.sealed_sum.masking import expand, mask_total, pairwise_seed
from protos.sealed_sum.member import reveal_seeds, reveal_shares
from protos.sealed_sum.parameters import DATA_SLOTS, PLAIN_MODULUS, POLY_MODULUS_DEGREE
from protos.sealed_sum.sealed_sum_pb2 import EncryptedShare, SeedReply, ShareReply, Signed
from protos.sealed_sum.secret import MaskSeed
from simulations.benchmarks.sealed_sum import Consortium

LAYOUT = Layout((Field("update", 40, 0.0, 2e6, 1.0),))
T = np.uint64(PLAIN_MODULUS)


def sound_bounds(n):
    """Every (c, u, T) that the protocol accepts for n members."""
    for c, u, t in itertools.product(range(n), range(1, n + 1), range(1, n + 1)):
        try:
            yield Bounds(n, c, u, t)
        except BoundsViolated:
            continue


def subsets(items):
    return [frozenset(x) for size in range(len(items) + 1) for x in itertools.combinations(sorted(items), size)]


def body_of(kind, message):
    return kind.FromString(Signed.FromString(message).body)


class Sum:
    """One sum up to S1, and what each node can be made to say about it afterwards."""

    def __init__(self, bounds):
        self.consortium = Consortium.found(bounds)
        self.cohort = self.consortium.view.cohort
        self.header = self.consortium.header(LAYOUT)
        self.values = {m: {"update": 500_000 + np.arange(40.0) * (i + 3) + 1000 * i} for i, m in enumerate(self.cohort)}
        self.collected = Collecting.start(self.consortium.view, 0, LAYOUT.num_ciphertexts(len(self.cohort)))
        for member in self.cohort:
            upload = self.consortium.contribute(member, self.header, LAYOUT, self.values[member])
            self.collected = self.collected.receive(member, upload)

    def encrypted_shares(self, member):
        return {owner: self.collected.received[owner].shares[member] for owner in self.cohort if owner != member}

    def ask(self, member, memory, step, survivors):
        """The real answer to one request: (new memory, seeds given, shares given), or None if refused."""
        state, dropped = self.consortium.states[member], set(self.cohort) - set(survivors)
        try:
            if step == "S2a":
                answer = reveal_seeds(state, memory, self.header, survivors, dropped)
                return answer.memory, {r.peer: r.seed for r in body_of(SeedReply, answer.message).seeds}, {}
            shares = self.encrypted_shares(member)
            answer = reveal_shares(state, memory, self.header, survivors, dropped, shares)
            return answer.memory, {}, {r.owner: r.share for r in body_of(ShareReply, answer.message).shares}
        except SealedSumError:
            return None

    def answers(self, member):
        """What each survivor set makes the node give: (seeds, shares), by one S2a and one S2b."""
        out = []
        for survivors in subsets(self.cohort):
            memory, seeds, shares = self.consortium.memories[member], {}, {}
            for step in ("S2a", "S2b"):
                given = self.ask(member, memory, step, survivors)
                if given is not None:
                    memory, seeds, shares = given[0], seeds | given[1], shares | given[2]
            if seeds or shares:
                out.append((seeds, shares))
        return out


@pytest.fixture(scope="module")
def sums():
    """One sum for each (n, u) that some sound bounds use: what a node answers depends on nothing else."""
    made = {}
    for n in range(3, 7):
        for bounds in sound_bounds(n):
            if (n, bounds.min_survivors) not in made:
                made[n, bounds.min_survivors] = Sum(bounds)
    return made


def search(capabilities, honest, colluders, threshold, target):
    """Whether some choice of answers opens the sum over exactly `target`, a set of honest members.

    Opened means: every pairwise mask between target and the other honest members is known from one end, and every
    self-mask seed in the target has a threshold of shares. Answers are reduced to what matters for the target;
    the search over the reduced answers is exhaustive.
    """
    others = honest - target
    options = []
    for member in sorted(honest):
        relevant = others if member in target else target
        options.append(
            {(frozenset(seeds) & relevant, frozenset(shares) & target) for seeds, shares in capabilities[member]}
        )
        options[-1] = [o for o in options[-1] if not any(o != p and o[0] <= p[0] and o[1] <= p[1] for p in options[-1])]
    order = sorted(honest)
    for choice in itertools.product(*options):
        gives = dict(zip(order, choice, strict=True))
        masks_known = all(b in gives[a][0] or a in gives[b][0] for a in target for b in others)
        if masks_known and all(colluders + sum(owner in gives[m][1] for m in order) >= threshold for owner in target):
            return True
    return False


def smallest_opened(capabilities, cohort, colluders, threshold, largest):
    honest = frozenset(cohort[: len(cohort) - colluders])
    for size in range(1, largest + 1):
        # Members differ by name alone, so one target of each size stands for all.
        if search(capabilities, honest, colluders, threshold, frozenset(sorted(honest)[:size])):
            return size
    return None


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_a2_no_survivor_sets_open_fewer_members_than_the_bound_says(sums, n):
    for bounds in sound_bounds(n):
        made = sums[n, bounds.min_survivors]
        capabilities = {member: made.answers(member) for member in made.cohort}
        least = bounds.min_opened_honest

        opened = smallest_opened(capabilities, made.cohort, bounds.max_colluders, bounds.shamir_threshold, least - 1)

        assert least >= 2
        assert opened is None, bounds


@pytest.mark.parametrize(("n", "c", "u", "t"), [(4, 1, 3, 2), (5, 1, 4, 2), (5, 2, 4, 3)])
def test_a2_the_same_search_opens_one_member_where_the_bounds_are_refused(n, c, u, t):
    with pytest.raises(BoundsViolated):
        Bounds(n, c, u, t)
    cohort = tuple("abcdef"[:n])
    # What a node with this u would answer, by the rule the real nodes were just seen to follow.
    capabilities = {
        m: [(d, frozenset(cohort) - d - {m}) for d in subsets(set(cohort) - {m}) if len(d) <= n - u] for m in cohort
    }

    assert smallest_opened(capabilities, cohort, c, t, 1) == 1


@pytest.mark.parametrize(("n", "u"), [(3, 3), (5, 4), (6, 4)])
def test_a6_no_order_of_requests_gets_seed_and_share_of_one_peer(sums, n, u):
    made = sums[n, u]
    member = made.cohort[0]
    rosters = [s for s in subsets(made.cohort) if member in s and len(s) >= u - 1]
    for first, second in itertools.product(itertools.product(("S2a", "S2b"), rosters), repeat=2):
        memory, seeds, shares = made.consortium.memories[member], set(), set()
        for step, survivors in (first, second, ("S2a", first[1]), ("S2b", second[1])):
            given = made.ask(member, memory, step, survivors)
            if given is not None:
                memory, seeds, shares = given[0], seeds | set(given[1]), shares | set(given[2])

        assert not seeds & shares
        assert len(seeds) <= n - u
        assert member not in seeds | shares


def test_a1_node_gives_nothing_about_its_own_seed(sums):
    made = sums[5, 4]
    for member in made.cohort:
        assert made.answers(member)
        assert all(member not in seeds and member not in shares for seeds, shares in made.answers(member))


# ---- what colluders see is the same for another input ----


@pytest.fixture(scope="module", params=[(3, 1, 3, 2), (4, 1, 4, 3), (5, 1, 4, 3), (6, 1, 5, 4)], ids=str)
def audited(request):
    """One sum, and the secrets of the honest members that only this test knows."""
    made = Sum(Bounds(*request.param))
    states, cohort = made.consortium.states, made.cohort
    colluder, honest = cohort[-1], cohort[:-1]
    h_k, size = made.header.digest(), made.collected.num_ciphertexts * POLY_MODULUS_DEGREE
    pair = {}
    for a, b in itertools.combinations(cohort, 2):
        announced = states[a].keyed.joined.announced
        pair[frozenset((a, b))] = pairwise_seed(
            announced.masking_secret,
            made.consortium.view.announcements[b].masking_public_key,
            member=a,
            peer=b,
            agreement_hash=announced.agreement_hash,
            epoch_id=made.header.epoch_id,
            k=0,
            header_digest=h_k,
        )
    # With every member's share each seed can be rebuilt; no node would give them all.
    shares = {m: made.ask(m, made.consortium.memories[m], "S2b", cohort)[2] for m in cohort}
    own = {}
    for owner in cohort:
        points = {made.consortium.view.point(m): int.from_bytes(shares[m][owner]) for m in cohort if m != owner}
        own[owner] = MaskSeed(shamir.combine(dict(list(points.items())[: request.param[3]]))[:32])
    key = states[colluder].keyed.sealing_key
    # The colluder holds the sealing key: it opens every upload down to the masked slots.
    seen = {
        m: key.decrypt(unpack(made.collected.received[m].ciphertexts, made.collected.num_ciphertexts)).reshape(-1)
        for m in honest
    }
    return made, colluder, honest, pair, own, seen, size


def tagged(made, member, values):
    """A member's slots before masking, tags included."""
    data = np.zeros(DATA_SLOTS, dtype=np.uint64)
    slots = encode(LAYOUT, values, len(made.cohort))
    data[: slots.size] = slots
    key = made.consortium.states[member].keyed.tag_key
    return tags.append(key, made.header.epoch_id, made.header.digest(), member, data.reshape(1, -1)).reshape(-1)


def test_masked_upload_is_what_the_masks_say(audited):
    made, _, honest, pair, own, seen, size = audited
    for member in honest:
        seeds = [(peer, pair[frozenset((member, peer))]) for peer in made.cohort if peer != member]
        mask = mask_total(member, own[member], seeds, size)

        assert np.array_equal((tagged(made, member, made.values[member]) + mask) % T, seen[member])


def test_colluders_see_the_same_for_every_other_input_whatever_the_coordinator_says(audited):
    """For all survivor sets told to the honest nodes and every victim, another input with other masks fits.

    Everything the adversary has is held fixed bit by bit: the opened uploads, every revealed seed, every self-mask
    seed it can rebuild. Only masks whose seeds it does not have are changed (they are uniform to it: ChaCha20, HKDF,
    AEAD and the seed commitment are taken as ideal). Where a sum over several members is open, their sum is kept.
    """
    made, _, honest, pair, own, seen, size = audited
    threshold = made.consortium.view.bounds.shamir_threshold
    answers = {
        m: {
            (frozenset(seeds) & frozenset(honest), frozenset(shares) & frozenset(honest))
            for seeds, shares in made.answers(m)
            if set(seeds) | set(shares) == set(made.cohort) - {m}
        }
        for m in honest
    }
    # Nobody, or where the bounds tolerate a loss one other honest member, can be named as dropped.
    views = 1 + (len(honest) - 1 if made.consortium.view.bounds.max_dropouts else 0)
    assert [len(answers[m]) for m in honest] == [views] * len(honest)
    clear = {m: tagged(made, m, made.values[m]) for m in honest}
    masks = {edge: expand(seed, size) for edge, seed in pair.items()}
    own_masks = {m: expand(own[m], size) for m in honest}
    opened_sizes = set()
    for choice in itertools.product(*(answers[m] for m in honest)):
        gives = dict(zip(honest, choice, strict=True))
        hidden_edges = {
            frozenset((a, b))
            for a, b in itertools.combinations(honest, 2)
            if b not in gives[a][0] and a not in gives[b][0]
        }
        hidden_own = {m for m in honest if 1 + sum(m in gives[g][1] for g in honest) < threshold}
        for victim, change in itertools.product(honest, ("to zero", "some up")):
            part, paths = component(victim, hidden_edges)
            free = sorted(part & hidden_own)
            if not free:
                opened_sizes.add(len(part))
            partner = None if free else next(m for m in sorted(part) if m != victim)
            mine = made.values[victim]["update"]
            step = -mine if change == "to zero" else 400_000.0 * (np.arange(40) % 2)
            other = clear | {victim: tagged(made, victim, {"update": mine + step})}
            if partner is not None:
                theirs = made.values[partner]["update"]
                other[partner] = tagged(made, partner, {"update": theirs - step})
            assert not np.array_equal(other[victim], clear[victim])

            # Route the victim's difference along hidden edges to a hidden self mask, or to the partner.
            delta = (clear[victim] + T - other[victim]) % T
            goal = free[0] if free else partner
            new_masks, new_own = dict(masks), dict(own_masks)
            for a, b in itertools.pairwise(paths[goal]):
                edge = frozenset((a, b))
                # a must gain delta: with b > a the mask is added at a, otherwise subtracted.
                new_masks[edge] = (new_masks[edge] + (delta if b > a else T - delta)) % T
            if free:
                new_own[goal] = (new_own[goal] + delta) % T

            assert all(np.array_equal(new_masks[e], masks[e]) for e in masks if e not in hidden_edges)
            assert all(np.array_equal(new_own[m], own_masks[m]) for m in honest if m not in hidden_own)
            for member in honest:
                total = other[member] + new_own[member]
                for peer in made.cohort:
                    if peer != member:
                        mask = new_masks[frozenset((member, peer))]
                        total = total + (mask if peer > member else T - mask)
                assert np.array_equal(total % T, seen[member]), (choice, victim)
    assert opened_sizes
    assert min(opened_sizes) >= made.consortium.view.bounds.min_opened_honest


def component(start, edges):
    """Members that hidden pairwise masks connect to `start`, and a path to each."""
    paths, queue = {start: [start]}, [start]
    while queue:
        at = queue.pop()
        for edge in edges:
            if at in edge:
                (other,) = edge - {at}
                if other not in paths:
                    paths[other] = [*paths[at], other]
                    queue.append(other)
    return set(paths), paths


def test_shares_below_the_threshold_fit_every_seed():
    known = {2: 12345, 5: 67890}
    for candidate in (bytes(64), bytes([255] * 64), bytes(range(64))):
        # T = 3: the two known shares and any secret lie on one polynomial, whose share at 7 completes it.
        points = {0: int.from_bytes(candidate), **known}
        third = lagrange(points, 7)

        assert shamir.combine({**known, 7: third}) == candidate


def lagrange(points, x):
    total = 0
    for a, y in points.items():
        weight = 1
        for b in points:
            if b != a:
                weight = weight * (x - b) * pow(a - b, -1, shamir.FIELD_PRIME) % shamir.FIELD_PRIME
        total += y * weight
    return total % shamir.FIELD_PRIME


def test_encrypted_shares_name_no_share_in_clear(sums):
    made = sums[5, 4]
    member = made.cohort[0]
    share = EncryptedShare.FromString(made.encrypted_shares(member)[made.cohort[1]])
    clear = made.ask(member, made.consortium.memories[member], "S2b", made.cohort)[2][made.cohort[1]]

    assert clear not in share.sealed_share
