"""The intersection is exact for any two sets, chunk sizes, duplicates and malformed identifiers."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos.private_set_intersection.channel import Pair
from protos.private_set_intersection.feature_holder import UNKNOWN, match
from protos.private_set_intersection.identifiers import NORMALISERS, normalise
from protos.sealed_sum.bounds import Bounds
from simulations.benchmarks.sealed_sum import Consortium
from simulations.intersection import InProcessPair

NAMES = st.sampled_from([*(f"n{number}" for number in range(12)), *(f" N{number}" for number in range(12)), "", None])


@pytest.fixture(scope="module")
def ready():
    return Consortium.found(Bounds.smallest(3, 1)).states


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    left=st.lists(NAMES, min_size=1, max_size=30),
    right=st.lists(NAMES, min_size=1, max_size=30),
    chunk=st.integers(1, 9),
)
def test_intersection_is_exact_for_any_two_lists(ready, left, right, chunk):
    known = [{normalise("text", name) for name in names} - {None} for names in (left, right)]
    if not all(known):
        return
    pair = InProcessPair(ready, Pair("member-00", "member-01"), left, right, chunk_elements=chunk)

    aligned = pair.run()

    assert aligned.num_common == len(known[0] & known[1])
    for row, at in zip(pair.label_holder.arranged.rows, aligned.rows, strict=True):
        name = normalise("text", left[row])
        if at == UNKNOWN:
            assert name not in known[1]
        else:
            assert normalise("text", right[at]) == name
    for party, names in ((pair.label_holder, left), (pair.feature_holder, right)):
        entities = party.entities
        assert len(entities) + entities.num_duplicates + entities.num_malformed == len(names)


@settings(max_examples=100, deadline=None)
@given(
    own=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), unique=True, max_size=40),
    peer=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), unique=True, max_size=40),
)
def test_matching_finds_every_place_and_no_other(own, peer):
    def pack(pairs):
        return np.array(pairs, dtype="<u8").reshape(-1, 2).tobytes()

    assert match(pack(own), pack(peer)).tolist() == [own.index(one) if one in own else UNKNOWN for one in peer]


@pytest.mark.parametrize("kind", sorted(NORMALISERS))
@settings(max_examples=100, deadline=None)
@given(value=st.text(max_size=40))
def test_normalising_twice_changes_nothing(kind, value):
    once = normalise(kind, value)

    assert once is None or normalise(kind, once) == once
