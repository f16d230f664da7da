"""Vertical runs over real node runtimes, stores, guards and the real driver; only the sockets are calls."""

import numpy as np
import pytest

from coordinator.sum_round import RunFailed
from models.holdout import holdout_mask
from models.metrics import auc
from models.newton import sigmoid
from nodes.vertical_data import OwnRows
from simulations.datasets.data_set import number
from simulations.in_process_vertical import RUN_ID, InProcessVertical, VerticalWorld, total_scores, willing_policy

NAMES = {"bank": ("fa", "fb"), "payment": ("fc", "fd"), "logistics": ("fe", "ff")}
FEATURES = tuple(
    number(name, "unit", 0, 100).model_copy(update={"role": role}) for role, names in NAMES.items() for name in names
)
HOLDOUT_KEY = bytes(range(32))


def population(count, seed=1):
    generator = np.random.default_rng(seed)
    columns = {name: generator.uniform(0, 100, count) for names in NAMES.values() for name in names}
    z = (
        -2
        + 0.02 * columns["fa"]
        + 0.03 * columns["fc"]
        - 0.03 * columns["fe"]
        + 3 * (columns["fd"] > 60) * (columns["fc"] > 50)
    )
    late = -1 + 0.03 * columns["fe"] - 0.02 * columns["fb"]
    labels = {
        name: (generator.random(count) < sigmoid(s)).astype(float) for name, s in (("credit", z), ("fraud", late))
    }
    ids = tuple(f"seller-{row:06d}" for row in range(count))
    return ids, columns, labels


def world_of(count, members_per_role, *, label_roles=None, overlap=0.8, seed=2, shared=0, privacy=None):
    """Every entity at one member of the label's role, and at one member of each other role with chance `overlap`.

    Args:
        shared: So many entities are known to two members of the payment role.
    """
    ids, columns, labels = population(count)
    label_roles = label_roles or {"credit": "bank"}
    generator = np.random.default_rng(seed)
    roles, rows = {}, {}
    for role, names in NAMES.items():
        owner = generator.integers(members_per_role, size=count)
        if role != "bank":
            owner = np.where(generator.random(count) < overlap, owner, -1)
        for place in range(members_per_role):
            member = f"{role}-{'abc'[place]}"
            mine = owner == place
            if role == "payment" and shared:
                mine[:shared] = place < 2
            at = np.flatnonzero(mine)
            roles[member] = role
            rows[member] = OwnRows(
                tuple(ids[row] for row in at),
                {name: columns[name][at] for name in names},
                {task: labels[task][at] for task, holder in label_roles.items() if holder == role},
            )
    return VerticalWorld(roles, rows, FEATURES, label_roles, privacy or {})


def holdout_auc(world, consortium, outcome):
    """AUC of the served scores over all label holders' held-out rows, from the towers on the members' disks."""
    table = outcome.released.table
    holders = [m for m, role in world.roles.items() if role == world.label_roles[table.task]]
    towers = {member: consortium.tower(member, outcome) for member in world.roles}
    scores, labels = [], []
    for holder in holders:
        rows = world.rows[holder]
        held = holdout_mask(rows.entity_ids, HOLDOUT_KEY)
        ids = [entity for entity, out in zip(rows.entity_ids, held, strict=True) if out]
        scores.append(total_scores(world, towers, table.bias_log_odds, ids))
        labels.append(rows.labels[table.task][held])
    return auc(np.concatenate(labels), np.concatenate(scores))


def test_one_member_a_role_trains_and_the_signed_quality_is_that_of_the_towers(tmp_path):
    world = world_of(6000, 1)
    with InProcessVertical(world, tmp_path) as consortium:
        (outcome,) = consortium.train()
        found = holdout_auc(world, consortium, outcome)

    table = outcome.released.table
    assert table.quality.auc == pytest.approx(found, abs=0.002)
    assert found > 0.70
    assert set(outcome.released.signatures) == {"bank-a"}
    assert table.model_digest is None
    assert len(table.federated_version) == 64


def test_three_members_a_role_share_their_towers_and_train_two_tasks_on_one_alignment(tmp_path):
    world = world_of(4500, 3, label_roles={"credit": "bank", "fraud": "payment"})
    with InProcessVertical(world, tmp_path) as consortium:
        credit, fraud = consortium.train()
        for outcome in (credit, fraud):
            for role in NAMES:
                towers = {consortium.tower(m, outcome).to_bytes() for m, r in world.roles.items() if r == role}
                assert len(towers) == 1
        found = {o.released.table.task: holdout_auc(world, consortium, o) for o in (credit, fraud)}
        events = consortium.events()

    assert {o.released.table.task: set(o.released.signatures) for o in (credit, fraud)} == {
        "credit": {"bank-a", "bank-b", "bank-c"},
        "fraud": {"payment-a", "payment-b", "payment-c"},
    }
    assert credit.released.table.quality.auc == pytest.approx(found["credit"], abs=0.002)
    assert fraud.released.table.quality.auc == pytest.approx(found["fraud"], abs=0.002)
    assert found["credit"] > 0.68
    assert found["fraud"] > 0.65
    assert events.count("pass") == 10


def test_pairs_are_chosen_alike_by_all_members_of_a_role(tmp_path):
    world = world_of(7500, 3, overlap=1.0)
    with InProcessVertical(world, tmp_path) as consortium:
        (outcome,) = consortium.train(passes=6, pairs=2)
        towers = [consortium.tower(f"payment-{x}", outcome) for x in "abc"]

    assert len({tower.to_bytes() for tower in towers}) == 1
    assert len(towers[0].tower.pairs) == 1


# -- who answers, and about which rows --


def test_c10_an_entity_that_two_members_of_a_role_know_is_answered_for_once(tmp_path):
    world = world_of(3600, 3, overlap=1.0, shared=900)
    with InProcessVertical(world, tmp_path) as consortium:
        placed = []
        wrapped = consortium.nodes["payment-b"]._vertical.keep

        def keep(trained, rows):
            placed.append(rows)
            wrapped(trained, rows)

        object.__setattr__(consortium.nodes["payment-b"]._vertical, "keep", keep)
        consortium.train(passes=2)

    (rows,) = placed
    twice = set(world.rows["payment-a"].entity_ids) & set(world.rows["payment-b"].entity_ids)
    assert len(twice) == 900
    assert {e for e, yes in zip(rows.own.entity_ids, rows.answers, strict=True) if not yes} == twice
    for order in rows.places.values():
        named = {rows.own.entity_ids[row] for row in order[order >= 0]}
        assert not named & twice


def test_members_that_write_ids_differently_hold_out_and_align_the_same_entities(tmp_path):
    world = world_of(3000, 1)
    payment = world.rows["payment-a"]
    shouting = OwnRows(tuple(entity.upper() for entity in payment.entity_ids), payment.columns, payment.labels)
    world = VerticalWorld(world.roles, {**world.rows, "payment-a": shouting}, world.features, world.label_roles)
    with InProcessVertical(world, tmp_path) as consortium:
        (outcome,) = consortium.train(passes=2)

    assert outcome.released.table.quality.auc > 0.6


def test_a_member_without_features_or_label_takes_part_in_the_key_epoch_alone(tmp_path):
    world = world_of(3000, 1)
    roles = {**world.roles, "logistics-a": "witness"}
    rows = {**world.rows, "logistics-a": OwnRows((), {}, {})}
    features = tuple(feature for feature in FEATURES if feature.role != "logistics")
    shown = {"partial_scores_visible_to_label_holder": True}
    bilateral = VerticalWorld(roles, rows, features, world.label_roles, shown)
    with InProcessVertical(bilateral, tmp_path) as consortium:
        (outcome,) = consortium.train(passes=2)
        assert not (tmp_path / "logistics-a" / "towers").exists()

    assert outcome.released.table.quality.auc > 0.6
    assert outcome.released.table.cohort == ("bank-a", "logistics-a", "payment-a")


# -- refused before anything is trained --


def test_b5_one_feature_holder_needs_the_agreements_flag(tmp_path):
    world = world_of(1000, 1)
    features = tuple(feature for feature in FEATURES if feature.role != "logistics")
    world = VerticalWorld(world.roles, world.rows, features, world.label_roles)
    with InProcessVertical(world, tmp_path) as consortium, pytest.raises(RunFailed, match="at least 2 feature holders"):
        consortium.train()


@pytest.mark.parametrize("role", ["bank", "payment"])
def test_a9_b6_a_role_of_two_is_refused(tmp_path, role):
    world = world_of(1500, 3)
    gone = f"{role}-c"
    roles = {member: r for member, r in world.roles.items() if member != gone}
    rows = {member: r for member, r in world.rows.items() if member != gone}
    world = VerticalWorld(roles, rows, FEATURES, world.label_roles)
    with InProcessVertical(world, tmp_path) as consortium, pytest.raises(RunFailed, match="at least 3"):
        consortium.train()


def test_the_owner_of_a_node_decides_how_many_passes_it_takes(tmp_path):
    world = world_of(1000, 1)
    strict = willing_policy(("credit",)).model_copy(update={"max_rounds": 4})
    with (
        InProcessVertical(world, tmp_path, policies={"payment-a": strict}) as consortium,
        pytest.raises(RunFailed, match="rounds"),
    ):
        consortium.train()


# -- faults --


class KillOnce:
    """Kills a node (what was not on disk is gone) right after its n-th vertical step, before the answer arrives."""

    def __init__(self, member, step):
        self.member, self.step, self.seen, self.consortium = member, step, 0, None

    def wrap(self, member, handle):
        def wrapped(action, body):
            reply = handle(action, body)
            if member == self.member and action == "vertical":
                self.seen += 1
                if self.seen == self.step:
                    self.consortium.start(member)
            return reply

        return wrapped


@pytest.mark.parametrize(("member", "step"), [("payment-a", 5), ("bank-a", 9)])
def test_a_node_killed_in_training_costs_the_attempt_and_not_the_run(tmp_path, member, step):
    world, kill = world_of(3000, 1), KillOnce(member, step)
    with InProcessVertical(world, tmp_path, wrap=kill.wrap) as consortium:
        kill.consortium = consortium
        (outcome,) = consortium.train(passes=3)
        events = consortium.events()

    assert events.count("training") == 2
    assert events[-1] == "finished"
    assert outcome.released.table.quality.auc > 0.6


def test_a_new_coordinator_process_takes_the_run_up_again(tmp_path):
    world = world_of(3000, 1)

    class CoordinatorKilled(BaseException):
        pass

    with InProcessVertical(world, tmp_path) as consortium:
        steps, count = consortium.steps.run_step, 0

        def dying(action, bodies, **options):
            nonlocal count
            count += action == "vertical"
            if count == 6:
                raise CoordinatorKilled
            return steps(action, bodies, **options)

        consortium.steps.run_step = dying
        with pytest.raises(CoordinatorKilled):
            consortium.train(passes=3)
        consortium.steps.run_step = steps
        (outcome,) = consortium.driver.vertical(RUN_ID)

    assert outcome.released.table.quality.auc > 0.6


def test_b5_passes_over_the_same_labels_are_counted_over_runs_and_restarts(tmp_path):
    world = world_of(2000, 1)
    with InProcessVertical(world, tmp_path) as consortium:
        consortium.train(passes=5)
        consortium.start("bank-a")
        with pytest.raises(RunFailed, match="rule B5"):
            consortium.train(run_id="vertical-00000002", passes=4)
        consortium.train(run_id="vertical-00000003", passes=3)
