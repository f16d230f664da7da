"""Sums within a role: exact for its members, noise to everybody else, and only ever of the whole role."""

import os
from dataclasses import replace

import numpy as np
import pytest

from protos.role_sum.errors import PartRefused, RoleTooSmall, ValueTooLarge
from protos.role_sum.member import RoleSum
from protos.role_sum.role_sum_pb2 import RoleSumPart
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.errors import BadSignature, CohortRefused
from protos.sealed_sum.sealed_sum_pb2 import Signed
from simulations.benchmarks.sealed_sum import Consortium

SESSION = bytes(range(32))


@pytest.fixture(scope="module")
def ready():
    return Consortium.found(Bounds.smallest(5, 1)).states


@pytest.fixture
def role(ready):
    names = tuple(sorted(ready))[:3]
    return {name: RoleSum(ready[name], names, SESSION) for name in names}


def exchanged(role, vectors, purposes=None, rng=os.urandom):
    opened, parts = {}, {}
    for name, state in role.items():
        opened[name], parts[name] = state.contribute((purposes or {}).get(name, "test"), vectors[name], rng)
    heard = {name: {peer: parts[peer][name] for peer in role if peer != name} for name in role}
    return opened, heard, parts


def vectors_of(role, length=200, seed=1):
    generator = np.random.default_rng(seed)
    return {name: generator.integers(-(10**12), 10**12, length) for name in role}


def test_every_member_of_the_role_gets_the_exact_sum_and_goes_on_from_the_same_chain(role):
    for seed in (1, 2, 3):
        vectors = vectors_of(role, seed=seed)
        opened, heard, _ = exchanged(role, vectors)
        results = {name: opened[name].total(heard[name]) for name in role}
        for _, total in results.values():
            assert np.array_equal(total, sum(vectors.values()))
        role = {name: state for name, (state, _) in results.items()}
        assert len({state.chain for state in role.values()}) == 1


def test_a_role_of_one_sums_nothing_but_itself(ready):
    name = min(ready)
    opened, parts = RoleSum(ready[name], (name,), SESSION).contribute("test", np.arange(5), os.urandom)

    assert parts == {}
    assert np.array_equal(opened.total({})[1], np.arange(5))


def test_a9_two_members_would_each_subtract_themselves_and_are_refused(ready):
    first, second, *_ = sorted(ready)
    with pytest.raises(RoleTooSmall, match="at least 3"):
        RoleSum(ready[first], (first, second), SESSION)


def test_what_a_member_sends_is_noise_to_a_peer_that_can_decrypt_it(role):
    first, second, _ = role
    vectors = dict.fromkeys(role, np.zeros(4000, dtype=np.int64))
    opened, heard, _ = exchanged(role, vectors)
    words = opened[second].before._received(first, heard[second][first], 4000)

    assert abs((words >> np.uint64(63)).mean() - 0.5) < 0.05
    assert len(np.unique(words)) == 4000


def test_the_relay_sees_ciphertext_alone_also_of_the_sum(role):
    vectors = dict.fromkeys(role, np.zeros(50, dtype=np.int64))
    _, _, parts = exchanged(role, vectors)
    bodies = [RoleSumPart.FromString(Signed.FromString(p).body) for own in parts.values() for p in own.values()]
    total = sum(np.frombuffer(body.sealed[:400], dtype="<u8") for body in bodies)

    assert np.count_nonzero(total) == 50


def test_a3_members_that_mean_different_sums_cancel_to_noise(role):
    vectors = dict.fromkeys(role, np.zeros(64, dtype=np.int64))
    first, second, _ = role
    for changed in (
        {"purposes": {first: "another purpose"}},
        {"role": {**role, first: replace(role[first], chain=bytes(31) + b"x")}},
    ):
        opened, heard, _ = exchanged(changed.get("role", role), vectors, changed.get("purposes"))
        _, total = opened[second].total(heard[second])
        assert np.count_nonzero(total) == 64


@pytest.mark.parametrize("change", [{"session": bytes(32)}, {"number": 1}])
def test_a_part_of_another_session_or_number_is_refused(role, change):
    first, second, _ = role
    vectors = vectors_of(role)
    opened, heard, _ = exchanged(role, vectors)
    _, foreign, _ = exchanged({name: replace(state, **change) for name, state in role.items()}, vectors)
    with pytest.raises(PartRefused, match="expected"):
        opened[second].total({**heard[second], first: foreign[second][first]})


def test_a_part_for_somebody_else_of_another_length_or_missing_is_refused(role):
    first, second, third = role
    vectors = vectors_of(role)
    opened, heard, parts = exchanged(role, vectors)
    with pytest.raises(PartRefused):
        opened[second].total({**heard[second], first: parts[first][third]})
    with pytest.raises(PartRefused):
        opened[second].total({third: heard[second][third]})
    _, short, _ = exchanged(role, {name: vector[:-1] for name, vector in vectors.items()})
    with pytest.raises(PartRefused):
        opened[second].total({**heard[second], first: short[second][first]})


def test_a_part_that_the_relay_changed_or_made_is_refused(role):
    first, second, third = role
    opened, heard, _ = exchanged(role, vectors_of(role))
    signed = Signed.FromString(heard[second][first])
    broken = Signed(body=signed.body[:-1] + bytes([signed.body[-1] ^ 1]), signature=signed.signature)
    with pytest.raises(BadSignature):
        opened[second].total({**heard[second], first: broken.SerializeToString(deterministic=True)})
    with pytest.raises(BadSignature):
        opened[second].total({**heard[second], first: heard[second][third]})


def test_values_that_could_wrap_are_refused_with_the_members_own_error(role):
    state = next(iter(role.values()))
    with pytest.raises(ValueTooLarge, match="test"):
        state.contribute("test", np.array([2**61]), os.urandom)
    with pytest.raises(ValueTooLarge):
        state.contribute("test", np.zeros(0, dtype=np.int64), os.urandom)


def test_strangers_are_no_members_of_a_role(ready):
    name = min(ready)
    with pytest.raises(CohortRefused):
        RoleSum(ready[name], (name, "stranger-a", "stranger-b"), SESSION)
    with pytest.raises(CohortRefused):
        RoleSum(ready[name], tuple(sorted(ready))[1:4], SESSION)
