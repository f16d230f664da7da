"""What the rows may do to a run that has begun: too few bads for the cohort, a member without any."""

import dataclasses

import pytest

from coordinator.sum_round import RunFailed


def relabel(consortium, member, keep):
    """Make rows of a member good where `keep` (a mask over its rows) says so, and start its node again with them."""
    data = consortium.data[member]
    consortium.data[member] = dataclasses.replace(data, label=data.label * keep(data).astype(data.label.dtype))
    consortium.restart_node(member)


@pytest.mark.parametrize("keep", [lambda data: ~data.holdout, lambda data: data.holdout], ids=["hold-out", "training"])
def test_a_cohort_without_bads_ends_with_a_sentence_and_not_with_an_internal_error(found, short_run, keep):
    consortium = found()
    for member in consortium.members:
        relabel(consortium, member, keep)
    with pytest.raises(RunFailed, match="expected ") as failure:
        consortium.run(short_run)
    assert "InternalError" not in str(failure.value)
    assert not any(event.event == "released" for event in consortium.events())


def test_one_member_without_bads_does_not_stop_the_cohort(found, short_run):
    consortium = found()
    relabel(consortium, "bank-3", lambda data: data.label < 0)
    assert consortium.run(short_run).released.table.quality is not None
