"""PROTOCOLS section 0 and A9: which numbers are accepted."""

import pytest

from protos.sealed_sum.bounds import Bounds, require_contributors, require_survivors
from protos.sealed_sum.errors import BoundsViolated, CohortRefused


@pytest.mark.parametrize(
    ("numbers", "dropouts"),
    [
        ((3, 1, 3, 2), 0),
        ((4, 1, 4, 3), 0),
        ((4, 0, 3, 2), 1),
        ((5, 1, 4, 3), 1),
        ((6, 1, 5, 4), 1),
        ((8, 2, 6, 5), 2),
        ((12, 2, 8, 7), 4),
    ],
)
def test_section_0_examples_are_the_smallest_bounds(numbers, dropouts):
    bounds = Bounds(*numbers)

    assert Bounds.smallest(numbers[0], numbers[1]) == bounds
    assert bounds.max_dropouts == dropouts
    assert bounds.min_opened_honest >= 2


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [
        ((2, 0, 2, 1), "cohort"),
        ((201, 1, 102, 101), "cohort"),
        ((5, -1, 4, 3), "max_colluders >= 0"),
        ((5, 1, 2, 1), "min_survivors >= max_colluders"),
        ((4, 1, 5, 4), "cohort >= min_survivors"),
        ((9, 3, 9, 3), "shamir_threshold >= max_colluders"),
        ((4, 1, 3, 3), "shamir_threshold <= min_survivors - 1"),
        ((5, 2, 4, 4), "shamir_threshold <= min_survivors - 1"),
        ((4, 1, 3, 2), r"shamir_threshold \+ min_survivors"),
        ((5, 2, 4, 3), r"shamir_threshold \+ min_survivors"),
    ],
)
def test_section_0_every_bound_is_refused_when_violated(numbers, rule):
    with pytest.raises(BoundsViolated, match=rule):
        Bounds(*numbers)


def test_section_0_two_disjoint_sums_are_recognised():
    assert Bounds(3, 1, 3, 2).forbids_two_sums
    assert Bounds(5, 1, 5, 4).forbids_two_sums
    assert not Bounds(8, 2, 6, 5).forbids_two_sums


def test_a1_survivor_sets_below_u_are_refused():
    bounds = Bounds(5, 1, 4, 3)

    require_survivors({"aa", "bb", "cc", "dd"}, bounds)
    with pytest.raises(CohortRefused, match="at least 4 survivors, found 3"):
        require_survivors({"aa", "bb", "cc"}, bounds)


def test_a9_a_slot_counts_the_members_that_contribute_to_it():
    bounds = Bounds(5, 1, 4, 3)
    survivors = {"bank-a", "bank-b", "bank-c", "pay-a"}

    require_contributors({"bank-a", "bank-b", "bank-c"}, survivors, bounds)
    for role in ({"bank-a", "bank-b"}, {"bank-a", "bank-b", "bank-z"}, {"pay-a"}, set()):
        with pytest.raises(CohortRefused, match="at least 3 members that contribute"):
            require_contributors(role, survivors, bounds)
