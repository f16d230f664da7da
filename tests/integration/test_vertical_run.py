"""Vertical runs over real node runtimes, stores, guards and the real driver; only the sockets are calls."""

import numpy as np
import pytest

from models.holdout import holdout_mask
from models.metrics import auc
from models.newton import sigmoid
from nodes.vertical_data import OwnRows
from simulations.datasets.data_set import number
from simulations.in_process_vertical import InProcessVertical, VerticalWorld, total_scores

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
        + (columns["fd"] > 60) * (columns["fc"] > 50)
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
    world = world_of(9000, 3, label_roles={"credit": "bank", "fraud": "payment"})
    with InProcessVertical(world, tmp_path) as consortium:
        credit, fraud = consortium.train()
        for outcome in (credit, fraud):
            for role in NAMES:
                towers = {consortium.tower(m, outcome).to_bytes() for m, r in world.roles.items() if r == role}
                assert len(towers) == 1
        found = {o.released.table.task: holdout_auc(world, consortium, o) for o in (credit, fraud)}

    assert {o.released.table.task: set(o.released.signatures) for o in (credit, fraud)} == {
        "credit": {"bank-a", "bank-b", "bank-c"},
        "fraud": {"payment-a", "payment-b", "payment-c"},
    }
    assert credit.released.table.quality.auc == pytest.approx(found["credit"], abs=0.002)
    assert fraud.released.table.quality.auc == pytest.approx(found["fraud"], abs=0.002)
    assert found["credit"] > 0.68
    assert found["fraud"] > 0.65
    assert consortium.events().count("pass") == 10


def test_pairs_are_chosen_alike_by_all_members_of_a_role(tmp_path):
    world = world_of(20_000, 3, overlap=1.0)
    with InProcessVertical(world, tmp_path) as consortium:
        (outcome,) = consortium.train(passes=6, pairs=2)
        towers = [consortium.tower(f"payment-{x}", outcome) for x in "abc"]

    assert len({tower.to_bytes() for tower in towers}) == 1
    assert len(towers[0].tower.pairs) == 1
