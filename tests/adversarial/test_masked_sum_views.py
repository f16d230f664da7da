"""What the platform, with c colluding members, sees of a masked sum: the same in every world with the same total.

Adversary: the gateway, malicious (any survivor sets, to any node, in any order), with c members. Held fixed, bit by
bit, is everything it has: the uploads, every seed and share that the real functions give it. Only masks whose seeds
it does not have are changed; they are uniform to it (ChaCha20, HKDF and AEAD taken as ideal).
"""

import itertools

import numpy as np
import pytest

from protos.masked_sum import masked_sum_pb2 as pb
from protos.masked_sum import sharing
from protos.masked_sum.masking import expand, self_mask
from protos.masked_sum.member import reveal_seeds, reveal_shares
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.errors import SealedSumError
from protos.sealed_sum.secret import MaskSeed
from simulations.masked_consortium import MaskedConsortium, random_vector

SLOTS = 6


class Audited:
    """One request after S1, with the secrets that only this test knows."""

    def __init__(self, bounds):
        self.consortium = MaskedConsortium.found(bounds)
        self.cohort = self.consortium.view.cohort
        self.bounds = bounds
        self.request = self.consortium.request(slots=SLOTS)
        self.values = {member: random_vector(SLOTS) for member in self.cohort}
        self.states, self.collected = self.consortium.contribute(self.request, self.values)
        self.uploads = {member: self.collected.received[member].vector for member in self.cohort}
        self.pair = {
            frozenset((member, peer)): expand(keys[0], SLOTS)
            for member, state in self.states.items()
            for peer, keys in state.keys.items()
        }
        self.own = {owner: self._own_mask(owner) for owner in self.cohort}

    def _own_mask(self, owner):
        """With every peer's share a seed can be rebuilt; no set of answers need give them all."""
        shares = {}
        for member in self.cohort:
            if member != owner:
                given = self.ask(member, "S2b", self.cohort)
                shares[self.consortium.view.point(member)] = given[1][owner]
        points = tuple(sorted(shares))[: self.bounds.shamir_threshold]
        return expand(self_mask(MaskSeed(sharing.combine(points, [shares[x] for x in points]))), SLOTS)

    def ask(self, member, step, survivors, state=None):
        """The real answer to one question: (seeds, shares, state after), or None if refused."""
        party, state = self.consortium.parties[member], state or self.states[member]
        survivors = tuple(sorted(survivors))
        try:
            if step == "S2a":
                now, reply = reveal_seeds(
                    party, state, pb.Reveal(request_digest=self.request.digest, survivors=survivors)
                )
                dropped = [peer for peer in self.cohort if peer not in survivors]
                seeds = pb.SeedReply.FromString(reply).seeds
                return {peer: seeds[32 * i : 32 * i + 32] for i, peer in enumerate(dropped)}, {}, now
            owners = [owner for owner in survivors if owner != member]
            shares = b"".join(self.collected.sealed_share(owner, member) for owner in owners)
            question = pb.Reveal(request_digest=self.request.digest, survivors=survivors, shares=shares)
            now, reply = reveal_shares(party, state, question)
            given = pb.ShareReply.FromString(reply).shares
            return {}, {o: int.from_bytes(given[33 * i : 33 * i + 33]) for i, o in enumerate(owners)}, now
        except SealedSumError:
            return None

    def answers(self, member):
        """What each survivor set makes the member give: (peers of seeds, owners of shares)."""
        found = set()
        for survivors in subsets(self.cohort):
            seeds, shares, state = set(), set(), None
            for step in ("S2a", "S2b"):
                given = self.ask(member, step, survivors, state)
                if given is not None:
                    seeds, shares, state = seeds | set(given[0]), shares | set(given[1]), given[2]
            if seeds or shares:
                found.add((frozenset(seeds), frozenset(shares)))
        return found


def subsets(items):
    return [frozenset(x) for size in range(len(items) + 1) for x in itertools.combinations(sorted(items), size)]


@pytest.fixture(scope="module")
def audited():
    return Audited(Bounds(5, 1, 4, 3))


def test_upload_is_what_the_masks_say(audited):
    for member in audited.cohort:
        total = audited.values[member] + audited.own[member]
        for peer in audited.cohort:
            if peer != member:
                mask = audited.pair[frozenset((member, peer))]
                total = total + mask if peer > member else total - mask
        assert np.array_equal(total, audited.uploads[member])


def worlds(audited, hidden_edges, hidden_own, changed):
    """Masks that explain `changed` values by the same uploads, touching only what the adversary does not have."""
    pair, own = dict(audited.pair), dict(audited.own)
    delta = {member: audited.values[member] - vector for member, vector in changed.items()}
    for start in sorted(delta):
        part, paths = component(start, hidden_edges)
        goals = sorted(part & hidden_own) or [m for m in sorted(part) if m != start]
        path = paths[goals[0]]
        for a, b in itertools.pairwise(path):
            edge, moved = frozenset((a, b)), delta[start]
            pair[edge] = pair[edge] + moved if b > a else pair[edge] - moved
        if goals[0] in hidden_own:
            own[goals[0]] = own[goals[0]] + delta[start]
    return pair, own


def explained(audited, changed, pair, own):
    for member in audited.cohort:
        total = changed.get(member, audited.values[member]) + own[member]
        for peer in audited.cohort:
            if peer != member:
                mask = pair[frozenset((member, peer))]
                total = total + mask if peer > member else total - mask
        if not np.array_equal(total, audited.uploads[member]):
            return False
    return True


def component(start, edges):
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


@pytest.mark.parametrize("dropped", ["nobody", "a member"])
def test_c5_platform_sees_the_same_whoever_knows_the_seller(audited, dropped):
    """Honest survivor sets: for every two honest members, the term moved from one to the other fits the same view."""
    colluder, honest = audited.cohort[-1], list(audited.cohort[:-1])
    gone = set() if dropped == "nobody" else {honest.pop()}
    # Every self mask of U is opened, and the seeds with the dropped; the colluder adds its own.
    hidden = {frozenset(pair) for pair in itertools.combinations(honest, 2)}
    for knows, other in itertools.permutations(honest, 2):
        term = audited.values[knows]
        changed = {knows: np.zeros(SLOTS, dtype=np.uint64), other: audited.values[other] + term}
        pair, own = dict(audited.pair), dict(audited.own)
        edge = frozenset((knows, other))
        pair[edge] = pair[edge] + term if other > knows else pair[edge] - term

        assert edge in hidden
        assert explained(audited, changed, pair, own)
        assert all(np.array_equal(pair[e], audited.pair[e]) for e in pair if e not in hidden)
        assert not (gone | {colluder}) & {knows, other}


def test_a2_platform_sees_the_same_for_every_other_input_whatever_survivors_it_names(audited):
    """Any survivor set to each of the four honest members: no victim's vector is pinned down.

    Where its sum with others is open, that sum is kept and has at least two honest terms.
    """
    honest = audited.cohort[:-1]
    answers = {m: audited.answers(m) for m in honest}
    threshold = audited.bounds.shamir_threshold
    smallest = len(honest)
    for choice in itertools.product(*(sorted(answers[m], key=str) for m in honest)):
        gives = dict(zip(honest, choice, strict=True))
        hidden_edges = {
            frozenset((a, b))
            for a, b in itertools.combinations(honest, 2)
            if b not in gives[a][0] and a not in gives[b][0]
        }
        hidden_own = {m for m in honest if 1 + sum(m in gives[g][1] for g in honest) < threshold}
        for victim in honest:
            part, _ = component(victim, hidden_edges)
            changed = {victim: audited.values[victim] + np.uint64(1)}
            if not part & hidden_own:
                smallest = min(smallest, len(part))
                partner = next(m for m in sorted(part) if m != victim)
                changed[partner] = audited.values[partner] - np.uint64(1)
                pair, own = dict(audited.pair), dict(audited.own)
                for a, b in itertools.pairwise(component(victim, hidden_edges)[1][partner]):
                    one = np.uint64(1)
                    edge = frozenset((a, b))
                    pair[edge] = pair[edge] - one if b > a else pair[edge] + one
            else:
                pair, own = worlds(audited, hidden_edges, hidden_own, changed)
            assert all(np.array_equal(pair[e], audited.pair[e]) for e in pair if e not in hidden_edges)
            assert all(np.array_equal(own[m], audited.own[m]) for m in honest if m not in hidden_own)
            assert explained(audited, changed, pair, own), (choice, victim)
    assert smallest >= audited.bounds.min_opened_honest >= 2


@pytest.mark.parametrize("n", [3, 5, 6])
def test_a6_no_order_of_requests_gets_seed_and_share_of_one_peer(n):
    made = Audited(Bounds.smallest(n, 1))
    member = made.cohort[0]
    rosters = [s for s in subsets(made.cohort) if len(s) >= made.bounds.min_survivors - 1]
    for order in itertools.product(itertools.product(("S2a", "S2b"), rosters), repeat=2):
        state, seeds, shares = None, set(), set()
        for step, survivors in (*order, ("S2a", order[1][1]), ("S2b", order[0][1])):
            given = made.ask(member, step, survivors, state)
            if given is not None:
                seeds, shares, state = seeds | set(given[0]), shares | set(given[1]), given[2]

        assert not seeds & shares
        assert member not in seeds | shares


def test_one_attempt_number_more_changes_every_mask(audited):
    """Two uploads of the same vector have nothing in common that subtracting them would show."""
    again = audited.consortium.request(2, slots=SLOTS)
    _, collected = audited.consortium.contribute(again, audited.values)
    for member in audited.cohort:
        assert np.all(collected.received[member].vector != audited.uploads[member])


# ---- two requests about one entity (C1, C2) ----


def two_requests(n, c, u, t, *, locked):
    """Honest sets (S1, S2 = S1 without one member) that two requests can open, over every choice of survivor sets.

    Each honest node is told any survivor set in each request, gives its seeds with the dropped in S2a, and gives its
    shares in S2b or is not asked. With `locked`, a node that gave shares in the first request gives them in the
    second for the same survivors alone: what the roster lock does. The search is exhaustive.
    """
    honest = list(range(n - c))
    views = [frozenset(d) for size in range(n - u + 1) for d in itertools.combinations(honest, size)]
    options = [[(d, gave) for d in views if j not in d for gave in (False, True)] for j in honest]
    choices = list(itertools.product(*options))
    opens = {
        s: np.array([is_open(s, choice, honest, c, t) for choice in choices])
        for size in range(1, len(honest) + 1)
        for s in map(frozenset, itertools.combinations(honest, size))
    }
    codes = np.array([[(views.index(d), gave) for d, gave in choice] for choice in choices])
    found = []
    for larger, smaller in itertools.permutations(opens, 2):
        if not (smaller < larger and len(larger - smaller) == 1):
            continue
        first, second = np.flatnonzero(opens[larger]), np.flatnonzero(opens[smaller])
        for order in ((first, second), (second, first)):
            before, after = codes[order[0]][:, None], codes[order[1]][None, :]
            other_view = (before[..., 0] != after[..., 0]) & (before[..., 1] == 1) & (after[..., 1] == 1)
            fine = ~other_view.any(axis=-1) if locked else np.ones((len(order[0]), len(order[1])), dtype=bool)
            if fine.any():
                found.append((larger, smaller))
    return found


def is_open(target, choice, honest, colluders, threshold):
    for a in target:
        if colluders + sum(gave and a not in d for j, (d, gave) in enumerate(choice) if j != a) < threshold:
            return False
        if not all(b in choice[a][0] or a in choice[b][0] for b in honest if b not in target):
            return False
    return True


@pytest.mark.parametrize(("n", "c", "u", "t"), [(3, 1, 3, 2), (4, 1, 4, 3), (4, 0, 3, 2), (5, 1, 4, 3), (6, 2, 5, 4)])
def test_c2_with_the_roster_lock_no_two_requests_differ_by_one_member(n, c, u, t):
    Bounds(n, c, u, t)

    assert two_requests(n, c, u, t, locked=True) == []


@pytest.mark.parametrize(("n", "c", "u", "t"), [(4, 0, 3, 2), (5, 1, 4, 3), (6, 2, 5, 4)])
def test_c1_without_the_lock_the_same_search_finds_a_member(n, c, u, t):
    assert two_requests(n, c, u, t, locked=False)
