"""What the vertical tables compare with: it must be the members' own model, and its real optimum."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from models.aligned_rows import AlignedRows
from models.features import InputFeature
from models.label_tower import LabelTower
from models.metrics import auc
from models.newton import sigmoid
from models.role_totals import alone
from models.vertical import VerticalSettings
from models.vertical_basis import fit_basis
from protos.encrypted_gradient.parameters import BASIS_LEVELS
from simulations.datasets import RoleDataSet
from simulations.datasets.gmsc import ROLES_OF_THREE
from simulations.pooled_towers import PooledRows, RowsRefused, train_pooled
from simulations.population import synthetic_population
from simulations.role_dealing import deal_roles, members_by_role
from simulations.roles import agreement_of
from simulations.vertical_auditor import UnsafeVerticalAuditor, pool_members

FEATURES = {
    role: [InputFeature(n * 2, "number", 0.0, 100.0, "none", n.upper(), False) for n in names]
    for role, names in {"bank": "ab", "payment": "cd", "logistics": "e"}.items()
}


def made_rows(count, *, known=0.8, seed=1):
    generator = np.random.default_rng(seed)
    columns = {name * 2: generator.uniform(0, 100, count) for name in "abcde"}
    z = -2 + 0.02 * columns["aa"] + 0.02 * columns["cc"] - 0.02 * columns["ee"]
    z += 1.5 * (columns["cc"] > 50) * (columns["dd"] > 50)
    label = (generator.random(count) < sigmoid(z)).astype(float)
    who = {role: generator.random(count) < known for role in ("payment", "logistics")}
    for role, rows in who.items():
        for feature in FEATURES[role]:
            columns[feature.name][~rows] = np.nan
    return PooledRows(columns, label, who)


def penalised_loss(rows, settings, weights, intercept, bases):
    """Written from the definition: log-loss of the centred towers' sum, and each tower's penalty."""
    total, penalty, at = np.full(len(rows.label), intercept), 0.0, 0
    for role, basis in bases.items():
        known = rows.known_to(role)
        design = basis.levels(rows.columns) / BASIS_LEVELS
        centred = (design - design[known].mean(axis=0)) * known[:, None]
        own = weights[at : at + basis.num_columns]
        at += basis.num_columns
        total = total + centred @ own
        penalty += 0.5 * own @ basis.penalty(settings.ridge, settings.smoothness) @ own
    return np.logaddexp(0, total).sum() - rows.label @ total + penalty


def test_pooled_towers_are_the_optimum_of_the_penalised_loss_over_partial_overlaps():
    rows, settings = made_rows(1_500), VerticalSettings()
    towers, bias = train_pooled(FEATURES, rows, settings)

    bases = {role: tower.basis for role, tower in towers.items()}
    found = np.concatenate([tower.weights for tower in towers.values()])
    best = minimize(
        lambda x: penalised_loss(rows, settings, x[:-1], x[-1], bases), np.zeros(len(found) + 1), method="BFGS"
    )
    ours = penalised_loss(rows, settings, found, bias, bases)
    assert ours <= best.fun + 1e-4
    assert best.fun < penalised_loss(rows, settings, 0 * found, bias, bases) - 50


def test_towers_are_centred_on_the_rows_that_their_role_knows():
    rows = made_rows(3_000)
    towers, _ = train_pooled(FEATURES, rows, VerticalSettings())

    for role, tower in towers.items():
        known = rows.known_to(role)
        held = {feature.name: rows.columns[feature.name][known] for feature in FEATURES[role]}
        assert abs(tower.scores(tower.basis.levels(held)).mean()) < 1e-6


def test_the_label_role_alone_is_its_members_own_tower():
    rows, settings = made_rows(4_000), VerticalSettings(pairs=1)
    bank = {"bank": FEATURES["bank"]}
    towers, bias = train_pooled(bank, rows, settings)

    here = AlignedRows(rows.columns, {"bank-a": np.arange(4_000)})
    basis = alone(fit_basis(FEATURES["bank"], here, bins=settings.bins, min_rows=50, max_colluders=1))
    own = alone(LabelTower.start(basis, basis.levels(rows.columns), rows.label, settings=settings, feature_holders=0))
    for _ in range(4):
        alone(own.refit(np.zeros(4_000)))
    alone(own.choose_own_pairs(np.zeros(4_000)))
    for _ in range(4):
        alone(own.refit(np.zeros(4_000)))
    tower, own_bias = own.tower()
    levels = basis.levels(rows.columns)
    assert towers["bank"].pairs == tower.pairs
    np.testing.assert_allclose(bias + towers["bank"].scores(levels), own_bias + tower.scores(levels), atol=2e-3)


def test_pairs_are_found_within_the_role_that_has_one():
    towers, _ = train_pooled(FEATURES, made_rows(20_000), VerticalSettings(pairs=2))

    assert len(towers["payment"].pairs) == 1  # of two features
    assert towers["logistics"].pairs == ()  # one feature alone has no pair


# Members' rows in one place.

DATA = RoleDataSet.of(synthetic_population(9_000, seed=5), ROLES_OF_THREE, task="credit", label_role="bank")


@pytest.fixture(scope="module")
def dealt():
    return deal_roles(DATA, members_by_role(DATA.roles, 3), seed=7)


@pytest.fixture(scope="module")
def agreement(dealt):
    number = itertools.count(1)
    keys = {member: bytes([next(number)]) * 32 for member in dealt.members}
    return agreement_of(dealt, keys, b"\x63" * 32)


@pytest.fixture(scope="module")
def auditor(dealt, agreement):
    return UnsafeVerticalAuditor.of_members(dealt.rows, agreement, "credit", VerticalSettings())


def test_members_columns_come_to_lie_beside_the_label_of_the_same_entity(dealt, agreement):
    pooled, held = pool_members(dealt.rows, agreement, "credit")

    assert len(pooled.label) == 9_000
    assert 0.25 < held.mean() < 0.35
    whole = DATA.frames["payment"].assign(
        bad=DATA.frames["bank"]["serious_delinquency"], ids=DATA.frames["bank"].iloc[:, 0]
    )
    by_id = whole.set_index("entity_id")
    order = [entity for bank in dealt.members_of("bank") for entity in dealt.rows[bank]["entity_id"]]
    np.testing.assert_array_equal(pooled.label, by_id.loc[order, "bad"])
    known = pooled.known["payment"]
    theirs = set(itertools.chain.from_iterable(dealt.rows[m]["entity_id"] for m in dealt.members_of("payment")))
    np.testing.assert_array_equal(known, [entity in theirs for entity in order])
    np.testing.assert_array_equal(
        pooled.columns["past_due_90"][known], by_id.loc[order, "past_due_90"].to_numpy(float)[known]
    )
    assert np.isnan(pooled.columns["past_due_90"][~known]).all()
    assert pooled.known["bank"].all()


def test_rows_whose_outcome_nobody_knows_are_left_out(dealt, agreement):
    rows = dict(dealt.rows)
    rows["bank-b"] = rows["bank-b"].assign(serious_delinquency=np.nan)

    pooled, _ = pool_members(rows, agreement, "credit")

    assert len(pooled.label) == 9_000 - len(rows["bank-b"])
    assert set(pooled.holder) == {"bank-a", "bank-c"}


def test_an_entity_at_two_members_of_a_role_is_refused(dealt, agreement):
    rows = dict(dealt.rows)
    first = rows["payment-a"].iloc[:1].assign(entity_id=lambda frame: frame["entity_id"].str.upper())
    rows["payment-b"] = pd.concat([rows["payment-b"], first])

    with pytest.raises(RowsRefused, match="one member of role 'payment'"):
        pool_members(rows, agreement, "credit")


def test_every_further_role_is_worth_something(auditor):
    alone = [auditor.scores_of(["bank"], holder) for holder in ("bank-a", "bank-b", "bank-c")]
    with_payment, everything = auditor.scores_of(["bank", "payment"]), auditor.scores_of(auditor.roles)

    label = auditor.holdout_label
    assert max(auc(label, scores) for scores in alone) < auc(label, with_payment) - 0.02
    assert auc(label, everything) > auc(label, with_payment) - 0.004
    assert auditor.auc_of(auditor.roles) == pytest.approx(auc(label, everything))


def test_towers_on_disk_are_added_up_where_their_role_knows_the_entity(auditor, dealt, agreement):
    class Ones:
        def scores(self, columns):
            assert set(columns) == {"past_due_30_59", "past_due_60_89", "past_due_90"}
            assert not any(np.isnan(values).any() for values in columns.values())
            return np.ones(len(columns["past_due_90"]))

    pooled, held = pool_members(dealt.rows, agreement, "credit")

    scores = auditor.federated_scores({"payment": Ones()}, -3.0)

    np.testing.assert_array_equal(scores, -3.0 + pooled.known["payment"][held])


def test_the_table_has_a_line_for_each_bank_each_further_role_and_the_run(auditor):
    said = []
    rows, predicted = auditor.compare(auditor.scores_of(auditor.roles), progress=said.append)

    models = ["alone:bank-a", "alone:bank-b", "alone:bank-c", "bank + payment", "federated", "pooled"]
    assert [row.model for row in rows] == list(predicted) == models
    by_model = {row.model: row for row in rows}
    assert by_model["pooled"].auc_gap == pytest.approx(0.0)
    assert by_model["alone:bank-a"].auc_gap > 0
    assert by_model["federated"].auc_gap is None
    assert {"bank-a alone", "bank and payment pooled", "all roles pooled"} < set(said)


def test_a_label_of_another_role_puts_that_role_first(dealt, agreement):
    task = agreement.tasks[0].model_copy(update={"name": "lines", "label": "late", "label_role": "logistics"})
    two = agreement.model_copy(update={"tasks": (*agreement.tasks, task)})
    rows = {
        member: frame.assign(late=(frame["open_credit_lines"] > 9).astype(float))
        if dealt.role_of[member] == "logistics"
        else frame
        for member, frame in dealt.rows.items()
    }

    auditor = UnsafeVerticalAuditor.of_members(rows, two, "lines", VerticalSettings())

    assert auditor.roles == ("logistics", "bank", "payment")
    assert auditor.auc_of(["logistics"]) > 0.99
