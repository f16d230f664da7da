"""Vertical towers: bases without rare columns, descent to the pooled optimum, pairs, recalibration."""

import numpy as np
import pytest

from models.aligned_rows import UNKNOWN, AlignedRows
from models.feature_tower import FeatureTower
from models.features import InputFeature
from models.label_tower import LabelTower
from models.metrics import auc
from models.newton import sigmoid
from models.role_totals import alone
from models.role_tower import RoleTower, RoleTowerRefused
from models.vertical import VerticalSettings, VerticalSettingsRefused
from models.vertical_basis import RoleBasis, fit_basis, whole_moments, without_rare_columns
from models.vertical_pairs import PairTerm, candidate_pairs, pair_levels
from protos.encrypted_gradient.support import supported_together

LENDER = "lender"


def feature(name, low=0.0, high=100.0, kind="number", monotone="none"):
    return InputFeature(name, kind, low, high, monotone, name.upper(), True)


def together(*computations):
    """Run one computation per member of a role, each sent the sum of what all of them yield."""
    asked = [next(each) for each in computations]
    while True:
        assert len({each.purpose for each in asked}) == 1
        total = sum(each.numbers for each in asked)
        ended, coming = [], []
        for each in computations:
            try:
                coming.append(each.send(total.copy()))
            except StopIteration as stop:
                ended.append(stop.value)
        if ended:
            assert not coming, "all members end together"
            return ended
        asked = coming


def touched_rows(levels):
    return np.count_nonzero(levels, axis=0)


def effective_rows(levels):
    weights = levels.astype(float)
    return weights.sum(axis=0) ** 2 / np.maximum((weights**2).sum(axis=0), 1.0)


def aligned(columns, known=None):
    places = np.arange(len(next(iter(columns.values()))))
    if known is not None:
        places = np.where(known, places, UNKNOWN)
    return AlignedRows(columns, {LENDER: places})


def rows(count, seed=0):
    """Bank: a, b; payment: c, d. Labels depend on all four, and on c and d together."""
    generator = np.random.default_rng(seed)
    columns = {
        "a": generator.gamma(2.0, 10.0, count).clip(0, 100),
        "b": generator.integers(0, 4, count).astype(float),
        "c": generator.uniform(0, 100, count),
        "d": generator.poisson(1.0, count).clip(0, 9).astype(float),
    }
    columns["c"][generator.random(count) < 0.1] = np.nan
    columns["a"][:7] = 99.5
    late = np.nan_to_num(columns["c"]) > 60
    z = -1.5 + 0.03 * columns["a"] - 0.3 * columns["b"] + 0.5 * columns["d"] + 1.5 * (late & (columns["d"] >= 2))
    label = (generator.random(count) < sigmoid(z)).astype(float)
    return columns, label, z


FEATURES = {
    "bank": [feature("a"), feature("b", 0, 3, "integer")],
    "payment": [feature("c"), feature("d", 0, 9, "integer")],
}
EXACT = VerticalSettings(passes=8, smoothness=1.0)


def basis_of(role, columns, known=None, min_rows=50):
    return alone(fit_basis(FEATURES[role], aligned(columns, known), bins=8, min_rows=min_rows, max_colluders=1))


def descend(columns, label, settings, *, known=None, noise=0.0, sigma=0.0, seed=1):
    generator = np.random.default_rng(seed)
    count = len(label)
    bank, payment = basis_of("bank", columns), basis_of("payment", columns, known)
    weight = np.ones(count) if known is None else known.astype(float)
    levels = payment.levels(columns)
    levels[weight == 0] = 0
    owner = alone(LabelTower.start(bank, bank.levels(columns), label, settings=settings, feature_holders=1))
    holder = alone(
        FeatureTower.start(
            payment,
            {LENDER: levels},
            {LENDER: weight},
            settings=settings,
            base_rate=owner.base_rate,
            feature_roles=1,
        )
    )
    for number in range(settings.passes):
        offset = holder.scores(LENDER) + (generator.normal(0, noise, count) if number else 0.0)
        residuals = alone(owner.refit(offset))
        if settings.pairs and number == settings.screening_pass:
            alone(holder.propose_pairs())
        asked = holder.columns[LENDER]
        alone(holder.absorb(asked.astype(float).T @ residuals / 127 + generator.normal(0, sigma, asked.shape[1])))
    offset = holder.scores(LENDER) + generator.normal(0, noise, count)
    alone(owner.refit(offset))
    return owner, holder, offset, levels


def candidates(basis, levels, weights, *, groups, most):
    mass = levels.sum(axis=0) / 127
    return alone(
        candidate_pairs(basis, {LENDER: levels}, weights, mass, groups=groups, min_rows=50, max_colluders=1, most=most)
    )


def test_b3_no_basis_column_is_touched_by_fewer_than_the_minimum_rows():
    columns, _, _ = rows(3000)
    columns["b"][:5] = 3.0
    for role in FEATURES:
        levels = basis_of(role, columns).levels(columns)
        assert touched_rows(levels).min() >= 50
        assert effective_rows(levels).min() >= 20


def test_b3_a_category_of_three_rows_joins_its_neighbour():
    columns = {"a": np.repeat([1.0, 2.0, 3.0, 4.0], [400, 3, 400, 400])}
    ages = [feature("a", 0, 9, "integer")]
    basis = alone(fit_basis(ages, aligned(columns), bins=8, min_rows=50, max_colluders=1))
    levels = basis.levels(columns)
    assert touched_rows(levels).min() >= 50
    assert (levels.sum(axis=1) >= 126).all()


def test_b3_a_column_that_stays_rare_is_merged_by_the_support_of_its_weights():
    columns, _, _ = rows(3000)
    whole = basis_of("bank", columns)
    assert supported_together({LENDER: whole.levels(columns)}, 50, 1).all()
    strict = alone(without_rare_columns(whole, aligned(columns), 600, 1))
    assert strict.num_columns < whole.num_columns
    assert touched_rows(strict.levels(columns)).min() >= 600


def test_columns_of_a_feature_add_up_to_one():
    columns, _, _ = rows(2000)
    basis = basis_of("payment", columns)
    levels = basis.levels(columns).astype(int)
    for number in range(2):
        assert np.abs(levels[:, basis.block(number)].sum(axis=1) - 127).max() <= 1


def test_a_role_without_labels_stores_no_bads():
    columns, _, _ = rows(2000)
    assert all(b.bads == 0 for bins in basis_of("payment", columns).bins for b in bins.bins)


def test_passes_reach_the_optimum_of_the_pooled_columns():
    columns, label, _ = rows(6000)
    owner, holder, _, levels = descend(columns, label, EXACT)
    bank, bias = owner.tower()
    score = bias + bank.scores(basis_of("bank", columns).levels(columns)) + holder.tower(1.0).scores(levels)
    everything = [*FEATURES["bank"], *FEATURES["payment"]]
    pooled = alone(fit_basis(everything, aligned(columns), bins=8, min_rows=50, max_colluders=1))
    whole = alone(LabelTower.start(pooled, pooled.levels(columns), label, settings=EXACT, feature_holders=0))
    for _ in range(4):
        alone(whole.refit(np.zeros(6000)))
    tower, pooled_bias = whole.tower()
    best = pooled_bias + tower.scores(pooled.levels(columns))
    assert np.abs(score - best).max() < 0.05
    assert abs(auc(label, score) - auc(label, best)) < 1e-3


@pytest.mark.parametrize("roles", [1, 2, 5])
def test_steps_never_grow_and_all_roles_together_end_at_one_newton_step(roles):
    shares = [EXACT.step_share(number, roles) for number in range(8)]
    assert shares == sorted(shares, reverse=True)
    assert max(shares) <= 0.9
    assert shares[-1] == min(0.9, 1 / roles)


def test_decreasing_steps_keep_less_of_the_scores_noise_than_the_first_one_would(monkeypatch):
    columns, label, _ = rows(6000)
    settings = VerticalSettings(passes=8, smoothness=1.0)

    def spread():
        """Standard deviation over runs of the tower's scores, averaged over rows; two roles' worth of share."""
        found = [descend(columns, label, settings, noise=1.0, seed=seed)[1].scores(LENDER) for seed in range(6)]
        return np.std(found, axis=0).mean()

    monkeypatch.setattr(VerticalSettings, "step_share", lambda self, number, roles: 0.8)
    constant = spread()
    monkeypatch.undo()
    decreasing = VerticalSettings.step_share
    monkeypatch.setattr(VerticalSettings, "step_share", lambda self, number, roles: decreasing(self, number, 2))
    assert spread() < 0.9 * constant


def test_an_unknown_entity_gets_the_zero_of_that_tower_and_known_ones_average_to_it():
    columns, label, _ = rows(6000)
    known = np.random.default_rng(5).random(6000) < 0.8
    _, holder, _, levels = descend(columns, label, EXACT, known=known)
    scores = holder.scores(LENDER)
    assert not scores[~known].any()
    assert abs(scores[known].mean()) < 1e-6
    assert np.allclose(holder.tower(1.0).scores(levels)[known], scores[known], atol=1e-5)


def test_partial_overlap_reaches_an_optimum_where_the_known_rows_gradient_vanishes():
    columns, label, _ = rows(6000)
    known = np.random.default_rng(5).random(6000) < 0.7
    owner, holder, _, levels = descend(columns, label, EXACT, known=known)
    residuals = alone(owner.refit(holder.scores(LENDER)))
    centred = levels.astype(float) / 127
    centred[known] -= centred[known].mean(axis=0)
    penalty = basis_of("payment", columns, known).penalty(1.0, 1.0)
    left = centred.T @ residuals + penalty @ holder._weights
    start = centred.T @ (owner.base_rate - label)
    assert np.abs(left).max() < 0.03 * np.abs(start).max()


def test_recalibration_undoes_what_noise_in_training_did_to_the_scale():
    columns, label, z = rows(60_000)
    settings = VerticalSettings(passes=6, smoothness=1.0)
    owner, holder, offset, levels = descend(columns, label, settings, noise=0.5, sigma=2.0)
    slope = alone(owner.recalibrate(offset))
    bank, bias = owner.tower()
    score = bias + bank.scores(basis_of("bank", columns).levels(columns)) + holder.tower(slope).scores(levels)
    assert abs(sigmoid(score).mean() - label.mean()) < 0.003
    fitted = np.polyfit(score, z, 1)[0]
    assert 0.9 < slope < 1.0
    assert 0.9 < fitted < 1.1


def test_a_planted_interaction_is_chosen_and_lowers_the_loss():
    columns, label, _ = rows(20_000)
    found = {}
    for pairs in (0, 2):
        settings = VerticalSettings(passes=6, smoothness=1.0, pairs=pairs)
        owner, holder, _, levels = descend(columns, label, settings, noise=0.5, sigma=2.0)
        bank, bias = owner.tower()
        found[pairs] = auc(
            label, bias + bank.scores(basis_of("bank", columns).levels(columns)) + holder.tower(1.0).scores(levels)
        )
    assert len(holder.pairs) == 1
    assert found[2] > found[0] + 0.002


def test_no_pair_is_chosen_where_there_is_none():
    generator = np.random.default_rng(9)
    columns = {name: generator.uniform(0, 100, 20_000) for name in "abcd"}
    columns["b"], columns["d"] = np.floor(columns["b"] / 26), np.floor(columns["d"] / 11)
    label = (generator.random(20_000) < sigmoid(0.02 * columns["c"] - 2 + 0.1 * columns["d"])).astype(float)
    _, holder, _, _ = descend(columns, label, VerticalSettings(passes=5, pairs=3), noise=0.5, sigma=2.0)
    assert holder.pairs == ()


def test_b3_pair_cells_and_what_is_left_of_their_groups_have_enough_rows():
    columns, _, _ = rows(4000)
    columns["d"][columns["c"] > 97] = 9.0
    basis = basis_of("payment", columns)
    levels = basis.levels(columns)
    weights = np.random.default_rng(4).normal(size=basis.num_columns)
    for term in candidates(basis, levels, weights, groups=4, most=30):
        asked = np.concatenate([levels, term.levels(levels)], axis=1).astype(float)
        cells = asked @ term.expansion(basis.num_columns).T
        counts = (cells > 3).sum(axis=0)
        assert ((counts == 0) | (counts >= 50)).all()


def test_b4_at_most_thirty_pairs_are_asked_about():
    generator = np.random.default_rng(1)
    names = [f"f{number:02d}" for number in range(12)]
    columns = {name: generator.uniform(0, 100, 2000) for name in names}
    features = [feature(n) for n in names]
    basis = alone(fit_basis(features, aligned(columns), bins=4, min_rows=50, max_colluders=1))
    levels = basis.levels(columns)
    weights = generator.normal(size=basis.num_columns)
    assert len(candidates(basis, levels, weights, groups=3, most=1000)) == 30


def test_cells_of_a_pair_follow_from_the_main_effects_and_the_cells_asked_about():
    columns, _, _ = rows(3000)
    basis = basis_of("payment", columns)
    levels = basis.levels(columns)
    weights = np.linspace(0, 1, basis.num_columns)
    term = candidates(basis, levels, weights, groups=3, most=1)[0]
    asked = np.concatenate([levels, pair_levels([term], levels)], axis=1).astype(float)
    derived = asked @ term.expansion(basis.num_columns).T
    left = [levels[:, a:b].sum(axis=1) / 127 for a, b in term.first]
    right = [levels[:, a:b].sum(axis=1) / 127 for a, b in term.second]
    if len(term.cells) == (len(left) - 1) * (len(right) - 1):
        wanted = [left[i] * right[j] for i, j in term.cells]
        wanted += [left[i] * right[0] for i in range(1, len(left))]
        wanted += [left[0] * right[j] for j in range(1, len(right))]
        assert np.abs(derived / 127 - np.stack(wanted, axis=1)).max() < 0.03


def test_second_moments_match_plain_arithmetic():
    generator = np.random.default_rng(0)
    left, right = (generator.integers(0, 128, (9000, k)).astype(np.uint8) for k in (3, 2))
    halves = [{"x": each[:4000], "y": each[4000:]} for each in (left, right)]
    assert np.allclose(whole_moments(*halves), left.T.astype(float) @ right.astype(float), rtol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"passes": 9}, {"passes": 0}, {"pairs": 3, "screening_pass": 0}, {"pairs": 3, "screening_pass": 4}]
)
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(VerticalSettingsRefused):
        VerticalSettings(**changes)


def test_a_basis_and_a_pair_are_plain_values():
    assert PairTerm(((0, 1), (1, 2)), ((2, 3), (3, 4)), ((1, 1),)).expansion(4).tolist() == [
        [0, 0, 0, 0, 1],
        [0, 1, 0, 0, -1],
        [0, 0, 0, 1, -1],
    ]
    assert RoleBasis((), (), (0, 0, 1)).block(1) == slice(2, 3)


def dealt(columns, label, members, seed=3):
    """Every row to one of the members."""
    owner = np.random.default_rng(seed).integers(members, size=len(label))
    return [np.flatnonzero(owner == member) for member in range(members)]


def test_members_of_a_role_fit_the_basis_and_the_tower_of_their_pooled_rows():
    columns, label, _ = rows(6000)
    parts = dealt(columns, label, 3)
    own = [({n: v[at] for n, v in columns.items()}, label[at]) for at in parts]
    bases = together(*(fit_basis(FEATURES["bank"], aligned(c), bins=8, min_rows=50, max_colluders=1) for c, _ in own))
    assert bases[0] == bases[1] == bases[2] == basis_of("bank", columns)

    settings = VerticalSettings(passes=5, smoothness=1.0)
    basis = bases[0]
    owners = together(
        *(LabelTower.start(basis, basis.levels(c), y, settings=settings, feature_holders=2) for c, y in own)
    )
    together(*(owner.refit(np.zeros(len(y))) for owner, (_, y) in zip(owners, own, strict=True)))
    pooled = alone(LabelTower.start(basis, basis.levels(columns), label, settings=settings, feature_holders=2))
    alone(pooled.refit(np.zeros(len(label))))

    towers = [owner.tower() for owner in owners]
    assert all(np.array_equal(tower.weights, towers[0][0].weights) for tower, _ in towers)
    assert np.allclose(towers[0][0].weights, pooled.tower()[0].weights, atol=1e-4)
    assert towers[0][1] == pytest.approx(pooled.tower()[1], abs=1e-4)


def test_b3_a_column_that_is_rare_at_one_member_is_rare_for_the_role():
    columns, label, _ = rows(6000)
    columns["b"][:] = np.minimum(columns["b"], 2)
    first, second, third = dealt(columns, label, 3)
    columns["b"][first[:30]] = 3.0  # thirty rows of one member, hundreds of the others
    columns["b"][second[:300]] = 3.0
    columns["b"][third[:300]] = 3.0
    own = [{n: v[at] for n, v in columns.items()} for at in (first, second, third)]
    bases = together(*(fit_basis(FEATURES["bank"], aligned(c), bins=8, min_rows=50, max_colluders=1) for c in own))
    for basis, c in zip(bases, own, strict=True):
        assert touched_rows(basis.levels(c)).min() >= 50


def test_b3_support_must_remain_without_the_rows_of_a_colluding_label_holder():
    levels = {"x": np.full((60, 1), 127, dtype=np.uint8), "y": np.zeros((60, 1), dtype=np.uint8)}
    levels["y"][:30] = 127

    assert supported_together(levels, 30, 1).all()
    assert not supported_together(levels, 31, 1).any()
    assert supported_together(levels, 90, 0).all()


@pytest.mark.parametrize("direction", ["increasing", "decreasing"])
def test_monotone_directions_bind_both_towers_and_keep_their_features_out_of_pairs(direction):
    columns, label, _ = rows(6000)
    label = np.where(np.random.default_rng(2).random(6000) < 0.3, 1 - label, label)
    features = [feature("c", monotone=direction), feature("d", 0, 9, "integer", direction)]
    basis = alone(fit_basis(features, aligned(columns), bins=8, min_rows=50, max_colluders=1))
    levels, ones = basis.levels(columns), np.ones(6000)
    settings = VerticalSettings(passes=5, smoothness=1.0, pairs=2)
    sign = 1 if direction == "increasing" else -1

    holder = alone(
        FeatureTower.start(
            basis, {LENDER: levels}, {LENDER: ones}, settings=settings, base_rate=label.mean(), feature_roles=1
        )
    )
    alone(holder.absorb(levels.astype(float).T @ (label.mean() - label) / 127))
    owner = alone(LabelTower.start(basis, levels, label, settings=settings, feature_holders=0))
    alone(owner.refit(np.zeros(6000)))

    for weights in (holder.tower(1.0).weights, owner.tower()[0].weights):
        for number in range(2):
            ordered, _ = basis.ordered(number)
            assert (sign * np.diff(weights[ordered]) >= -1e-12).all()
    assert candidates(basis, levels, np.ones(basis.num_columns), groups=3, most=9) == []


def test_contributions_of_the_features_add_up_to_the_score_and_average_to_zero():
    columns, label, _ = rows(20_000)
    settings = VerticalSettings(passes=6, smoothness=1.0, pairs=2)
    _, holder, _, levels = descend(columns, label, settings)
    tower = holder.tower(1.0)
    parts = tower.contributions(levels)

    assert tower.pairs
    assert parts.shape == (20_000, 2)
    assert np.allclose(parts.sum(axis=1), tower.scores(levels), atol=1e-4)
    assert np.abs(parts.mean(axis=0)).max() < 1e-3


def test_a_role_tower_survives_its_file_and_another_file_is_refused():
    columns, label, _ = rows(20_000)
    _, holder, _, _ = descend(columns, label, VerticalSettings(passes=6, smoothness=1.0, pairs=2))
    kept = RoleTower("credit", "payment", holder.tower(0.9))
    again = RoleTower.from_bytes(kept.to_bytes())

    assert again.to_bytes() == kept.to_bytes()
    assert np.array_equal(again.scores(columns), kept.scores(columns))
    assert again.feature_names == ("c", "d")
    for raw in (b"{}", b"nothing", kept.to_bytes().replace(b'"weights":[', b'"weights":[0.5,')):
        with pytest.raises(RoleTowerRefused, match="expected a role tower"):
            RoleTower.from_bytes(raw)
