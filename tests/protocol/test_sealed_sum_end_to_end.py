"""A whole sealed sum among five members with the real functions of every party."""

import numpy as np
import pytest

from protos.sealed_sum.aggregator import Collecting
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.dealing import Ready
from protos.sealed_sum.layout import Field, Layout
from protos.sealed_sum.member import Contribution, contribute
from protos.sealed_sum.memory import EpochMemory
from simulations.benchmarks.sealed_sum import Consortium

LAYOUT = Layout((Field("gradient", 5000, -1.0, 1.0, 1e-6), Field("count", 3, 0.0, 1e12, 1.0)))


@pytest.fixture(scope="module")
def consortium():
    return Consortium.found(Bounds.smallest(5, 1))


def inputs(consortium):
    ramp = np.linspace(-1, 1, 5000)
    return {
        member: {"gradient": np.roll(ramp, index * 7), "count": np.array([0.0, 1e12, 1e6 + index])}
        for index, member in enumerate(consortium.view.cohort)
    }


def test_five_members_open_the_exact_sum_and_all_the_same(consortium):
    values = inputs(consortium)
    header = consortium.header(LAYOUT, 1)
    sealed = consortium.seal(header, LAYOUT, values)

    opened = [consortium.open(member, header, LAYOUT, sealed) for member in consortium.view.cohort]

    true_sum = sum(np.rint((values[m]["gradient"] + 1.0) / 1e-6).astype(np.int64) for m in values)
    for result in opened:
        assert np.array_equal(true_sum, result.integers["gradient"])
        assert result.integers["count"].tolist() == [0, 5 * 10**12, 5 * 10**6 + 10]
        assert result.contributors == 5


def test_sum_survives_a_member_that_falls_silent_after_uploading(consortium):
    values = inputs(consortium)
    layout = Layout((Field("count", 3, 0.0, 1e12, 1.0),))
    header = consortium.header(layout, 2, purpose="silent-after-upload", input_class="static")
    values = {member: {"count": values[member]["count"]} for member in values}
    gone = consortium.view.cohort[2]
    collecting = Collecting.start(consortium.view, 2, layout.num_ciphertexts(5))
    for member in consortium.view.cohort:
        collecting = collecting.receive(member, consortium.contribute(member, header, layout, values[member]))
    sealed = consortium.reveal(header, collecting.close().drop({gone}))

    opened = consortium.open(consortium.view.cohort[0], header, layout, sealed)

    assert opened.integers["count"].tolist() == [0, 4 * 10**12, 4 * 10**6 + 8]
    assert opened.contributors == 4


def test_every_state_survives_its_disk(consortium):
    member = consortium.view.cohort[1]
    state = consortium.states[member]
    loaded = Ready.from_bytes(state.to_bytes(), state.identity)
    memory = EpochMemory.from_bytes(consortium.memories[member].to_bytes())
    layout = Layout((Field("count", 3, 0.0, 1e12, 1.0),))
    header = consortium.header(layout, 9)

    made = contribute(loaded, memory, header, layout, {"count": np.zeros(3)}, consortium.rng)

    assert loaded.view == state.view
    assert memory == consortium.memories[member]
    assert Contribution.from_bytes(made.to_bytes()) == made
