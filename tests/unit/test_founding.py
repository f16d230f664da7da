"""A consortium that a simulation founds must be one that the real coordinator and nodes would start with."""

import os

import pytest

from coordinator.settings import check_coordinator_files, load_coordinator_settings
from nodes.contract import check_rows
from nodes.identity import load_identity
from nodes.settings import check_node_files, load_node_settings
from nodes.sources import load_rows
from policies.agreement import load_agreement
from policies.guard import load_policy
from policies.scoring_policy import load_scoring_policy
from policies.signatures import verify_signatures
from simulations.consortium import PURPOSE, SCORING_PURPOSE, ScoringPlan
from simulations.datasets import RoleDataSet
from simulations.datasets.gmsc import ROLES_OF_THREE
from simulations.population import synthetic_population
from simulations.role_dealing import deal_roles, members_by_role
from simulations.roles import found_dealt

DATA = RoleDataSet.of(synthetic_population(1_200, seed=5), ROLES_OF_THREE, task="credit", label_role="bank")
DEALT = deal_roles(DATA, members_by_role(DATA.roles, 2), seed=7)
PORT, SCORING_PORT = 40_001, 40_002


@pytest.fixture(scope="module")
def scoring(tmp_path_factory):
    folder = tmp_path_factory.mktemp("founded") / "consortium"
    return found_dealt(folder, DEALT, fleet_port=PORT, scoring=ScoringPlan(port=SCORING_PORT))


def test_coordinator_finds_everything_it_needs(scoring):
    settings = load_coordinator_settings(scoring.coordinator_settings)
    check_coordinator_files(settings)

    assert settings.fleet_port == PORT
    assert settings.scoring is not None
    assert settings.scoring.port == SCORING_PORT
    assert [path.name for path in settings.scoring.clients_dir.iterdir()] == ["platform.crt"]
    assert sorted(path.stem for path in settings.members_dir.iterdir()) == list(scoring.members)
    assert settings.state_dir == scoring.coordinator_state
    agreement = load_agreement(settings.agreement_path)
    assert agreement == scoring.agreement
    verify_signatures(agreement, settings.agreement_path)


def test_every_member_finds_everything_it_needs_and_rows_that_meet_the_contract(scoring):
    for member in scoring.members:
        settings = load_node_settings(scoring.node_settings(member))
        check_node_files(settings)
        load_identity(settings.identity_key_path, settings.tls.key_path)
        policy = load_policy(settings.policy_path)

        role = DEALT.role_of[member]
        rows, report = check_rows(
            load_rows(settings.opened_source(os.environ)),
            scoring.agreement.features_of(role),
            id_column=scoring.agreement.entities.id_column,
            label_column="serious_delinquency" if role == "bank" else None,
            whose=member,
        )
        assert set(rows.entity_ids) == set(DEALT.rows[member]["entity_id"])
        assert report.rows_set_aside == 0
        assert settings.state_dir == scoring.node_state(member)
        assert (policy.methods, policy.tasks) == (("alignment", "vertical"), ("credit",))


def test_what_scores_are_for_is_no_purpose_of_a_training_run(scoring):
    member = scoring.members[0]
    settings = load_node_settings(scoring.node_settings(member))

    assert scoring.agreement.task("credit").purposes == (PURPOSE, SCORING_PURPOSE)
    assert load_policy(settings.policy_path).purposes == (PURPOSE,)
    assert settings.scoring is not None
    answers = load_scoring_policy(settings.scoring.policy_path)
    assert answers.purposes == (SCORING_PURPOSE,)
    issuer = scoring.identity("issuer").identity_key.public_key().public_bytes_raw()
    assert answers.issuer_keys == {issuer}
    assert settings.scoring.tables_dir == scoring.tables_dir(member)
    assert settings.scoring.tables_dir.is_dir()


def test_members_and_issuer_share_a_token_key_and_nobody_else_has_it(scoring):
    key = scoring.token_key_path.read_text()

    assert len(bytes.fromhex(key.strip())) == 32
    copies = sorted(
        path.parent.parent.name
        for path in scoring.folder.rglob("*")
        if path.is_file() and path.stat().st_size == 65 and path.read_text() == key
    )
    assert copies == sorted([*scoring.members, "issuer"])
    assert {path.stat().st_mode & 0o777 for path in scoring.folder.rglob("token.key")} == {0o600}


def test_a_witness_has_a_key_and_a_row_and_brings_nothing(tmp_path):
    two = RoleDataSet.of(
        synthetic_population(600, seed=5),
        {role: ROLES_OF_THREE[role] for role in ("bank", "payment")},
        task="credit",
        label_role="bank",
    )
    dealt = deal_roles(two, members_by_role(two.roles, 1), seed=1, overlap=1.0)

    made = found_dealt(tmp_path / "made", dealt, fleet_port=PORT, witnesses=("witness-a",))

    assert made.members == ("bank-a", "payment-a", "witness-a")
    assert made.agreement.features_of("witness") == ()
    settings = load_node_settings(made.node_settings("witness-a"))
    assert settings.scoring is None
    frame = load_rows(settings.opened_source(os.environ))
    assert (list(frame.columns), len(frame)) == (["entity_id"], 1)


def test_keys_are_fresh_and_the_holdout_is_not(scoring, tmp_path):
    again = found_dealt(tmp_path / "again", DEALT, fleet_port=PORT)

    ours, theirs = scoring.agreement, again.agreement
    assert {member.identity_key for member in ours.members}.isdisjoint(m.identity_key for m in theirs.members)
    assert ours.entities == theirs.entities


def test_more_of_a_node_s_policy_is_written_as_it_is_given(tmp_path):
    made = found_dealt(tmp_path / "made", DEALT, fleet_port=PORT, node_policy={"max_rounds": 7, "auto_cosign": False})

    policy = load_policy(load_node_settings(made.node_settings("bank-a")).policy_path)
    assert (policy.max_rounds, policy.auto_cosign) == (7, False)
